"""Products with matrices of four bits by PyTorch's own kernels, which read them as they are kept: the way for GPUs.

Both of its kernels take x bfloat16 [M, D] and weights in groups of inputs, (code - 8) * scale + zero; ours have the
zero 0. Only the order of the codes in memory differs between CUDA and the CPU, where this is tested against the plain
form. On a GPU nobody has run it yet: `CASTOR_INT4=torch` asks for it, and a second copy of the codes is kept for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from castor.nn.kernels import bits_of
from castor.runtime import chosen

GROUP = 32  # inputs with one scale, as in `packed.py`
INNER_TILES = 2  # of 16 inputs, so that any whole number of groups fits


class TorchInt4:
    """One packed matrix [F, D] in the order of PyTorch's kernel for the device that it is on."""

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, num_outputs: int) -> None:
        """Of tiles of codes and scales as `packed.py` has them; ValueError for other than four bits."""
        if bits_of(codes) != 4:
            raise ValueError("PyTorch's kernel is for matrices of four bits")
        self.num_outputs = num_outputs
        lines = torch.cat([codes & 15, codes >> 4], 2)  # tile, group, line, row, input
        codes_FD = lines.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1)  # whole tiles of rows, whole groups of inputs
        scale_NF = scales.permute(1, 0, 2).flatten(1)
        self.scale_zero_NF2 = torch.stack([scale_NF, torch.zeros_like(scale_NF)], -1).bfloat16().contiguous()
        self.num_inputs = codes_FD.shape[1]
        self.is_cuda = codes.device.type == "cuda"
        if self.is_cuda:
            pairs_FD = (codes_FD[:, ::2] << 4) | codes_FD[:, 1::2]
            self.codes = torch._convert_weight_to_int4pack(pairs_FD.contiguous(), INNER_TILES)
        else:
            self.codes = torch._convert_weight_to_int4pack_for_cpu(codes_FD.int(), 1)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] times the matrix, [..., F] in the type of x; computed in bfloat16."""
        rows = F.pad(x.flatten(0, -2).bfloat16(), (0, self.num_inputs - x.shape[-1]))
        kernel = torch._weight_int4pack_mm if self.is_cuda else torch._weight_int4pack_mm_for_cpu
        y = kernel(rows.contiguous(), self.codes, GROUP, self.scale_zero_NF2)[:, : self.num_outputs]
        return y.view(*x.shape[:-1], -1).to(x.dtype)


def asks_for_torch() -> bool:
    """Whether the environment asks for PyTorch's kernels; ValueError for a word that means nothing."""
    return chosen("CASTOR_INT4", "own", "torch") == "torch"
