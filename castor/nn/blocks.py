"""Keys and values in blocks of equal size, so that answers of any length share one memory and common beginnings.

Which block holds what is the engine's business; here they are tensors. Each kind of layer has blocks of its own, since
a sliding layer keeps only its window; layers that share another's keys have none. A layer's
blocks are gathered before each look at them; the compiled decode step (`layers.cpp`) reads them in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from castor.nn.attention import TokenPlaces

SCALE = torch.bfloat16  # of keys and values kept as int8


class LayerShape(NamedTuple):
    """A layer with keys of its own: its kind, number of key heads and head dim."""

    kind: str
    num_heads: int
    head_dim: int


class BlockStore:
    """Keys and values of every layer, [block, token, 2, K, H]. Block 0 belongs to nobody: padding is written there.

    With `is_int8` they are whole numbers, and `scales` [block, token, 2, K] holds what each head of a token is times.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        num_blocks: Mapping[str, int],
        block_tokens: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        is_int8: bool = False,
    ) -> None:
        """`num_blocks` of each kind, block 0 among them."""
        self.shapes = shapes
        kept = torch.int8 if is_int8 else dtype
        self.rooms = [
            torch.zeros(num_blocks[kind], block_tokens, 2, heads, dim, device=device, dtype=kept)
            for kind, heads, dim in shapes  # zeros, because what is not yet written must be finite, though masked
        ]
        self.scales = [torch.zeros(room.shape[:-1], device=device, dtype=SCALE) for room in self.rooms if is_int8]

    @property
    def num_bytes(self) -> int:
        """Memory of all of it."""
        return sum(tensor.nbytes for tensor in (*self.rooms, *self.scales))


def block_bytes(
    shapes: Sequence[LayerShape], kind: str, block_tokens: int, dtype: torch.dtype, *, is_int8: bool = False
) -> int:
    """Memory that one block takes in all layers of its kind."""
    of_head = [(heads, dim + SCALE.itemsize if is_int8 else dim * dtype.itemsize) for _, heads, dim in shapes]
    return block_tokens * sum(
        2 * heads * size for (heads, size), shape in zip(of_head, shapes, strict=True) if shape.kind == kind
    )


def int8_heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [..., H] as whole numbers and the scale of each, [...]; the largest number is 127."""
    scale = (x.abs().amax(-1).float() / 127).to(SCALE)
    share = x.float() / scale.float().clamp_min(1e-30)[..., None]
    return share.round().clamp(-127, 127).to(torch.int8), scale


class RowBlocks(NamedTuple):
    """Blocks of one kind that the rows of a batch look at.

    table_BN the blocks (0: none), first_B the position of each row's first held token, slot_X the place of every new
    token among all: block times tokens in a block, plus its place in the block.
    """

    table_BN: torch.Tensor
    first_B: torch.Tensor
    slot_X: torch.Tensor

    def places(self, length_B: torch.Tensor, block_tokens: int) -> TokenPlaces:
        """Where the held tokens stand, when each row has `length_B` in all; what is not a token is document -1."""
        offset_S = torch.arange(self.table_BN.shape[1] * block_tokens, device=self.table_BN.device)
        position_BS = self.first_B[:, None] + offset_S
        is_token_BS = position_BS < length_B[:, None]
        return TokenPlaces(is_token_BS.long() - 1, position_BS, torch.full_like(position_BS, -1))


class BlockCache:
    """The cache of one forward: layers append what is new to the store, and see all that their rows hold."""

    def __init__(self, store: BlockStore, rows: Mapping[str, RowBlocks]) -> None:
        self.store, self.rows = store, rows

    def append(self, layer: int, key_BKTH: torch.Tensor, value_BKTH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values; give all of them, [B, K, N * block_tokens, H], in the new type."""
        kind, heads, dim = self.store.shapes[layer]
        room, rows = self.store.rooms[layer], self.rows[kind]
        new_X2KH = torch.stack([key_BKTH, value_BKTH], 2).permute(0, 3, 2, 1, 4).flatten(0, 1)
        blocks, num_rows = rows.table_BN.flatten(), len(rows.table_BN)
        if self.store.scales:
            scales = self.store.scales[layer]
            new_X2KH, scale_X2K = int8_heads(new_X2KH)
            scales.view(-1, 2, heads).index_copy_(0, rows.slot_X, scale_X2K)
        room.view(-1, 2, heads, dim).index_copy_(0, rows.slot_X, new_X2KH.to(room.dtype))
        held = room.flatten(1).index_select(0, blocks).view(num_rows, -1, 2, heads, dim).to(key_BKTH.dtype)
        if self.store.scales:
            scale = scales.flatten(1).index_select(0, blocks).view(num_rows, -1, 2, heads, 1)
            held = held * scale.to(held.dtype)
        held_2BKSH = held.permute(2, 0, 3, 1, 4)
        return held_2BKSH[0], held_2BKSH[1]
