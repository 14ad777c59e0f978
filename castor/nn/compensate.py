"""Rounding that knows what a layer is given: each input's error is made up for by the inputs that are still to come.

Frantar et al. 2022 (GPTQ): with H the sum of x x^T over examples, a column's rounding error is spread over later
columns by the inverse of H, so that the products change least. Scales are chosen group by group, as each is reached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from castor.nn.packed import GROUP, check_finite, fitted_scales, pack_steps, rounded

DAMPING = 0.01  # of H's mean diagonal, added to it


def compensated(weight_FD: torch.Tensor, moment_DD: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a matrix whose inputs have the second moment `moment_DD` (any scale), in float32.

    ValueError where a weight or a moment is not finite.
    """
    check_finite(weight_FD, bits)
    if not torch.isfinite(moment_DD).all():
        raise ValueError("calibration gave a layer inputs that are not finite; other examples, or --method nearest")
    num_inputs = weight_FD.shape[1]
    missing = -num_inputs % GROUP
    weight_FD = F.pad(weight_FD.detach().float(), (0, missing)).clone()
    inverse_DD = _inverse_factor(F.pad(moment_DD.float(), (0, missing, 0, missing)))
    steps, scales = [], []
    for first in range(0, weight_FD.shape[1], GROUP):
        own, later = slice(first, first + GROUP), slice(first + GROUP, None)
        group_FG, error_FG = weight_FD[:, own].clone(), torch.empty_like(weight_FD[:, own])
        scale_F1 = fitted_scales(group_FG[:, None], bits)
        steps_FG = torch.empty_like(group_FG)
        for at in range(GROUP):
            steps_FG[:, at] = rounded(group_FG[:, at], scale_F1[:, 0], bits)
            lost_F = (group_FG[:, at] - steps_FG[:, at] * scale_F1[:, 0]) / inverse_DD[first + at, first + at]
            group_FG[:, at:] -= lost_F[:, None] * inverse_DD[first + at, first + at : first + GROUP]
            error_FG[:, at] = lost_F
        weight_FD[:, later] -= error_FG @ inverse_DD[own, later]
        steps.append(steps_FG)
        scales.append(scale_F1)
    return pack_steps(torch.stack(steps, 1), torch.cat(scales, 1), bits)


def _inverse_factor(moment_DD: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of the damped moment; inputs that are never there count for little."""
    mean = float(moment_DD.diagonal().mean()) or 1.0
    damped_DD = moment_DD / mean + DAMPING * torch.eye(len(moment_DD), device=moment_DD.device)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped_DD)), upper=True)
