"""Linear layers that many rows in bfloat16 do not slow down on a processor without products of bfloat16.

There torch multiplies bfloat16 many rows at a time at a fifth of the speed of float32. Here one panel of the weights
after the other is widened to float32, small enough to stay in cache, and multiplied in that: weights stay half as large
in memory, and a result is rounded once. Training and other processors take torch's own product, which this equals up
to rounding.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

FEW = 8  # rows, below which reading the weights is what costs
PANEL = 1 << 18  # weights widened at once: a megabyte


class Linear(nn.Linear):
    """`nn.Linear`, by `widened_product` where that is faster."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Input [..., in_features] to [..., out_features]."""
        if self.bias is None and _is_faster(input, self.weight):
            return widened_product(input, self.weight)
        return super().forward(input)


def widened_product(x: torch.Tensor, weight_FD: torch.Tensor) -> torch.Tensor:
    """x [..., D] times the transposed matrix, computed in float32; [..., F] in the type of x."""
    num_outputs, num_inputs = weight_FD.shape
    wide_XD = x.reshape(-1, num_inputs).float()
    y_XF = x.new_empty(len(wide_XD), num_outputs)
    step = max(1, PANEL // num_inputs)
    panel_FD = torch.empty(min(step, num_outputs), num_inputs, device=x.device)
    for first in range(0, num_outputs, step):
        part_FD = panel_FD[: min(step, num_outputs - first)].copy_(weight_FD[first : first + step])
        y_XF[:, first : first + step] = F.linear(wide_XD, part_FD)
    return y_XF.view(*x.shape[:-1], num_outputs)


def _is_faster(x: torch.Tensor, weight_FD: torch.Tensor) -> bool:
    if x.dtype != torch.bfloat16 or weight_FD.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    return x.numel() >= FEW * x.shape[-1] and not _multiplies_bfloat16()


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether torch's library of products takes bfloat16 on this processor, natively or not."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
