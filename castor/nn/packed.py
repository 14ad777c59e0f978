"""Matrices kept in 4 or 8 bits for answering: weights in groups of 32 inputs with a scale each, multiplied as they are.

The layout is that of the compiled products (`lowbit.c`), also on disk, so that a saved model is used as it is mapped:
tiles of 16 rows by 32 inputs; within a tile, a line of 64 bytes holds 4 inputs of each of the 16 rows.

    codes   uint8 [tiles, groups, 4, 16, 4]   4 bits: low halves are inputs 0..15 of the group, high halves 16..31
            uint8 [tiles, groups, 8, 16, 4]   8 bits
    scales  bfloat16 [tiles, groups, 16]      weight = (code - 8 or 128) * scale

Products round their input to int8 in groups of 32, too, as llama.cpp's Q4_0 does. The plain path computes the same
numbers in float32. For training on frozen low-bit weights see `lowbit.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.kernels import bits_of, kernels
from castor.nn.torch_int4 import TorchInt4, asks_for_torch

GROUP, ROWS = 32, 16
BITS = (4, 8)
TYPES = (torch.float32, torch.bfloat16)  # that the compiled products take
SMALLEST = 1e-30  # groups of inputs with nothing larger count as zero
SHARES = torch.linspace(0.7, 1.15, 19)  # of the scale that the largest weight asks for, which may be cut off


def fitted_scales(weight_FNG: torch.Tensor, bits: int) -> torch.Tensor:
    """The bfloat16 scale of each group, float32 [F, N], with the least squared error among some.

    The largest weight of a group takes the lowest code, the one without a positive counterpart (as in llama.cpp's
    Q4_0), so a scale may be negative; 8 bits are fine enough to do with that.
    """
    lowest = -(2 ** (bits - 1))
    at_FN1 = weight_FNG.abs().argmax(-1, keepdim=True)
    whole_FN = weight_FNG.gather(-1, at_FN1)[..., 0] / lowest
    best_FN, error_FN = whole_FN.bfloat16().float(), torch.full_like(whole_FN, torch.inf)
    for share in SHARES if bits == 4 else ():
        scale_FN = (whole_FN * share).bfloat16().float()
        rounded_FNG = rounded(weight_FNG, scale_FN[..., None], bits) * scale_FN[..., None]
        now_FN = (rounded_FNG - weight_FNG).square().sum(-1)
        better_FN = now_FN < error_FN
        best_FN, error_FN = torch.where(better_FN, scale_FN, best_FN), torch.where(better_FN, now_FN, error_FN)
    return best_FN


def rounded(weight: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights as whole multiples of their scales, in the range of the codes; float."""
    half = 2 ** (bits - 1)
    steps = torch.where(scale == 0, 0.0, weight / torch.where(scale == 0, 1.0, scale))
    return steps.round().clamp(-half, half - 1)


def pack(weight_FD: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, scales) of a float matrix, each weight rounded to the nearest; ValueError where one is not finite."""
    if bits not in BITS:
        raise ValueError(f"bits={bits} is not one of {BITS}")
    weight_FD = weight_FD.detach()
    check_finite(weight_FD, bits)
    compiled = kernels() if weight_FD.device.type == "cpu" and weight_FD.dtype in TYPES else None
    if compiled is None:
        return plain_pack(weight_FD, bits)
    return compiled.pack(weight_FD, bits, SHARES if bits == 4 else torch.ones(1))


def check_finite(weight_FD: torch.Tensor, bits: int) -> None:
    """ValueError where a weight is infinite or no number."""
    if not torch.isfinite(weight_FD).all():
        raise ValueError(f"a matrix with weights that are not finite cannot be kept in {bits} bits")


def plain_pack(weight_FD: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`pack` in plain PyTorch, in slices of whole tiles, so that no second copy in float32 is needed."""
    parts = []
    for part_FD in weight_FD.split(64 * ROWS):
        whole_FD = F.pad(part_FD.float(), (0, -weight_FD.shape[1] % GROUP))
        weight_FNG = whole_FD.view(len(part_FD), -1, GROUP)
        scale_FN = fitted_scales(weight_FNG, bits)
        parts.append(pack_steps(rounded(weight_FNG, scale_FN[..., None], bits), scale_FN, bits))
    codes, scales = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(scales)


def pack_steps(steps_FNG: torch.Tensor, scale_FN: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole multiples [F, N, 32] of scales [F, N] in the layout of tiles; missing rows are zero."""
    missing = -len(steps_FNG) % ROWS
    codes_FNG = F.pad((steps_FNG + 2 ** (bits - 1)).to(torch.uint8), (0, 0, 0, 0, 0, missing), value=2 ** (bits - 1))
    scale_FN = F.pad(scale_FN, (0, 0, 0, missing))
    tiled = codes_FNG.view(-1, ROWS, codes_FNG.shape[1], 8, 4).permute(0, 2, 3, 1, 4)  # tile, group, line, row, input
    if bits == 4:
        tiled = tiled[:, :, :4] | (tiled[:, :, 4:] << 4)
    scales = scale_FN.view(-1, ROWS, scale_FN.shape[1]).transpose(1, 2).to(torch.bfloat16)
    return tiled.contiguous(), scales.contiguous()


def unpack(codes: torch.Tensor, scales: torch.Tensor, num_outputs: int, num_inputs: int) -> torch.Tensor:
    """The float32 matrix [num_outputs, num_inputs] that is packed."""
    bits = bits_of(codes)
    lines = torch.cat([codes & 15, codes >> 4], 2) if bits == 4 else codes
    steps = lines.float() - 2 ** (bits - 1)  # tile, group, line, row, input
    weight = steps * scales.float()[:, :, None, :, None]
    return weight.permute(0, 3, 1, 2, 4).reshape(len(codes) * ROWS, -1)[:num_outputs, :num_inputs]


def unpack_rows(ids: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, num_inputs: int) -> torch.Tensor:
    """Some rows of the matrix, float32 [..., num_inputs]."""
    tile, row = ids.flatten() // ROWS, ids.flatten() % ROWS
    lines = codes[tile, :, :, row]  # X, group, line, input
    bits = bits_of(codes)
    lines = torch.cat([lines & 15, lines >> 4], 2) if bits == 4 else lines
    weight = (lines.float() - 2 ** (bits - 1)) * scales[tile, :, row].float()[:, :, None, None]
    return weight.flatten(1)[:, :num_inputs].view(*ids.shape, num_inputs)


def rounded_input(x: torch.Tensor) -> torch.Tensor:
    """What is left of the input when each group of 32 is rounded to int8, float32 [..., D]."""
    x_XNG = F.pad(x.float(), (0, -x.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    most = x_XNG.abs().amax(-1, keepdim=True)
    most = torch.where(most <= SMALLEST, 0.0, most)
    inverse = torch.where(most == 0, 0.0, torch.full_like(most, 127.0) / most)  # 127 / most would multiply by 1 / most
    return ((x_XNG * inverse).round() * (most / 127.0)).flatten(-2)[..., : x.shape[-1]]


def product(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """x [..., D] times a packed matrix, [..., num_outputs] in the type of x: compiled where that is possible.

    Where gradients are wanted the input is not rounded, as its slope would be lost.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return F.linear(x, unpack(codes, scales, num_outputs, x.shape[-1]).to(x.dtype))
    compiled = kernels() if x.device.type == "cpu" and x.dtype in TYPES else None
    if compiled is not None and x.numel():
        return compiled.product(x, codes, scales, num_outputs)
    return plain_product(x, codes, scales, num_outputs)


def plain_product(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """`product` as what it means."""
    weight_FD = unpack(codes, scales, num_outputs, x.shape[-1])
    return F.linear(rounded_input(x), weight_FD).to(x.dtype)


class Packed(nn.Module):
    """A matrix [rows, num_inputs] in few bits; codes and scales are buffers of the state dict."""

    def __init__(self, num_rows: int, num_inputs: int, bits: int, device: torch.device | str = "meta") -> None:
        super().__init__()
        if bits not in BITS:
            raise ValueError(f"bits={bits} is not one of {BITS}")
        self.num_rows, self.num_inputs, self.bits = num_rows, num_inputs, bits
        tiles, groups = -(-num_rows // ROWS), -(-num_inputs // GROUP)
        codes = torch.empty(tiles, groups, bits, ROWS, 4, dtype=torch.uint8, device=device)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", torch.empty(tiles, groups, ROWS, dtype=torch.bfloat16, device=device))
        self.by_torch: TorchInt4 | None = None  # the same for PyTorch's kernels, once asked for
        self.asks_for_torch = bits == 4 and asks_for_torch()

    @property
    def packed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scales."""
        return self.get_buffer("codes"), self.get_buffer("scales")

    def fill(self, codes: torch.Tensor, scales: torch.Tensor) -> None:
        """Take these codes and scales."""
        self.by_torch = None
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> torch.Tensor:
        """The whole matrix, float32: for looking at, not for answering."""
        return unpack(*self.packed, self.num_rows, self.num_inputs)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] times the matrix, [..., rows]; by PyTorch's kernels where they are asked for."""
        if not self.asks_for_torch or x.requires_grad:
            return product(x, *self.packed, self.num_rows)
        if self.by_torch is None:
            self.by_torch = TorchInt4(*self.packed, self.num_rows)
        return self.by_torch.product(x)

    @property
    def num_bytes(self) -> int:
        """Memory of the matrix as it is kept."""
        return sum(tensor.nbytes for tensor in self.packed)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Packed:
        """Move with the model, but keep the scales' type, whatever the model computes in."""
        super()._apply(fn, recurse)
        self.by_torch = None
        self.register_buffer("scales", self.get_buffer("scales").to(torch.bfloat16))
        return self


class PackedLinear(Packed):
    """A linear layer whose weights are packed; its bias, if it has one, is not."""

    def __init__(self, num_inputs: int, num_outputs: int, bits: int, bias: nn.Parameter | None = None) -> None:
        super().__init__(num_outputs, num_inputs, bits)
        self.in_features, self.out_features = num_inputs, num_outputs
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.multiply(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class PackedEmbedding(Packed):
    """A table of embeddings, packed; its rows are looked up in float32, and multiplied with as an output projection."""

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int) -> None:
        super().__init__(num_embeddings, embedding_dim, bits)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        compiled = kernels() if ids.device.type == "cpu" else None
        look_up = unpack_rows if compiled is None else compiled.rows
        return look_up(ids, *self.packed, self.num_inputs)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] times the table, [..., num_embeddings]."""
        return self.multiply(x)
