"""Batch: sequences packed end to end with document ids; the only thing a model's forward takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows of T tokens; several documents share a row and never see each other.

    ids_BT int64; position_BT int64, from 0 in each document; doc_BT int64, -1 where a row's tail is unused; block_BT
    int64, the image block of a token, unique in its row, -1 elsewhere; target_BT int64, the id that follows, -100 where
    it is not to be learned. patches_PC uint8, or float32 in [0, 1], with their column and row in patch_xy_P2 and their
    flat index into B*T in patch_at_P; frames_SF float32 audio frames with frame_at_S likewise and with clip_S, the clip
    that each is a part of, rising and unique in the batch, which towers hear whole (None: each unbroken run is a clip).
    """

    ids_BT: torch.Tensor
    position_BT: torch.Tensor
    doc_BT: torch.Tensor
    block_BT: torch.Tensor
    target_BT: torch.Tensor
    patches_PC: torch.Tensor
    patch_xy_P2: torch.Tensor
    patch_at_P: torch.Tensor
    frames_SF: torch.Tensor
    frame_at_S: torch.Tensor
    clip_S: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that belong to a document (the useful ones)."""
        return int((self.doc_BT >= 0).sum())

    @property
    def num_places(self) -> int:
        """Tokens that there is room for."""
        return self.ids_BT.numel()

    @property
    def num_targets(self) -> int:
        """Tokens with something to learn."""
        return int((self.target_BT >= 0).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in given.items() if tensor is not None}
        return Batch(**moved)
