"""Root-mean-square normalisation, computed in float32 whatever the input type."""

from __future__ import annotations

import torch
from torch import nn

from castor.nn.passes import compiled_work


def rms_norm(x_D: torch.Tensor, weight_D: torch.Tensor | None, eps: float) -> torch.Tensor:
    """`x_D` over the root of the mean of its squares along the last axis, times `weight_D`; type kept."""
    if (work := compiled_work("norm", *((x_D,) if weight_D is None else (x_D, weight_D)))) is not None:
        y_D, width = torch.empty_like(x_D), x_D.shape[-1]
        weight = None if weight_D is None else weight_D.data_ptr()
        work(x_D.data_ptr(), weight, y_D.data_ptr(), x_D.numel() // width, width, eps, torch.get_num_threads())
        return y_D
    x32_D = x_D.float()
    normed_D = x32_D * torch.rsqrt(x32_D.square().mean(-1, keepdim=True) + eps)
    if weight_D is not None:
        normed_D = normed_D * weight_D.float()
    return normed_D.to(x_D.dtype)


class RMSNorm(nn.Module):
    """RMS normalisation of the last axis (Zhang & Sennrich 2019), with a learned scale if `scaled`."""

    def __init__(self, dim: int, eps: float = 1e-6, *, scaled: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if scaled else None

    def forward(self, x_D: torch.Tensor) -> torch.Tensor:
        return rms_norm(x_D, self.weight, self.eps)
