"""A linear map between bounds, as the media towers of Gemma 4 have it."""

from __future__ import annotations

import math

import torch
from torch import nn

from castor.nn.linear import Linear

BOUNDS = {"input_min": -math.inf, "input_max": math.inf, "output_min": -math.inf, "output_max": math.inf}


class ClippedLinear(nn.Module):
    """Linear without bias; where `clipped`, what goes in and comes out is held between four bounds.

    The bounds are measured for a checkpoint, not learned. Without a checkpoint they are infinite.
    """

    input_min: torch.Tensor
    input_max: torch.Tensor
    output_min: torch.Tensor
    output_max: torch.Tensor

    def __init__(self, num_in: int, num_out: int, *, clipped: bool) -> None:
        super().__init__()
        self.clipped = clipped
        self.linear = Linear(num_in, num_out, bias=False)
        for name, bound in BOUNDS.items() if clipped else ():
            self.register_buffer(name, torch.tensor(bound))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights that keep the size of what goes in, and lift the bounds."""
        self.linear.weight.normal_(0.0, self.linear.in_features**-0.5, generator=generator)
        for name, bound in BOUNDS.items() if self.clipped else ():
            self.get_buffer(name).fill_(bound)

    def forward(self, x_D: torch.Tensor) -> torch.Tensor:
        if not self.clipped:
            return self.linear(x_D)
        x_D = torch.clamp(x_D, self.input_min, self.input_max)
        return torch.clamp(self.linear(x_D), self.output_min, self.output_max)
