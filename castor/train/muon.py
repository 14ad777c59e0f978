"""Muon: each step of a matrix is its momentum made near orthogonal by Newton-Schulz iterations.

Jordan et al. 2024, with steps as large as AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"). The same
update as `torch.optim.Muon`, which always iterates in bfloat16; on a processor that does not multiply it natively that
took three quarters of a training step of `atom`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from castor.runtime import best_precision

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of a quintic that is steepest at zero; singular values end in 0.7 to 1.2
NUM_ITERATIONS = 5
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices alone; what looks things up in a table belongs to another optimizer."""

    def __init__(
        self, params: Iterable[torch.Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # ty: ignore[incompatible-method-override]
        """One update of every matrix that has a gradient, with Nesterov's momentum."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(parameter.grad))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(momentum, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = 0.2 * math.sqrt(max(parameter.shape))  # root mean square of AdamW's updates
                parameter.add_(update, alpha=-group["lr"] * size)


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A matrix with the singular vectors of this one and singular values near 1, in `dtype`.

    By default that is bfloat16 where the device multiplies it natively, else float32.
    """
    dtype = dtype or getattr(torch, best_precision(str(matrix.device)))
    wide = matrix.to(dtype) if matrix.shape[0] <= matrix.shape[1] else matrix.to(dtype).T
    wide = wide / wide.norm().clamp(min=EPSILON)
    apart = dtype == torch.float32 and wide.shape[1] >= 2 * wide.shape[0]
    wide = _iterated_apart(wide) if apart else _iterated(wide)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def _iterated(x: torch.Tensor) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_apart(x: torch.Tensor) -> torch.Tensor:
    """The same on the small Gram matrix, whose polynomials commute; the long side is met twice instead of ten times.

    It takes the digits of float32: what is small in the Gram matrix is the square of what is small in `x`.
    """
    a, b, c = COEFFICIENTS
    gram, product = x @ x.T, None
    for _ in range(NUM_ITERATIONS):
        step = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal().add_(a)
        product = step if product is None else step @ product
        gram = step @ gram @ step
    assert product is not None
    return product @ x
