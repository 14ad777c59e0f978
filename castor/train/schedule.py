"""Learning-rate schedule: warm up, hold, decay to zero. A function of the step alone, so that a resumed run agrees."""

from __future__ import annotations

import math


def learning_rate_scale(step: int, num_steps: int, *, warmup: float, decay: float) -> float:
    """The factor on the peak rate at `step` of `num_steps`; `warmup` and `decay` are shares of the run.

    Linear warm-up, a plateau, then a cosine-shaped fall to 2 % of the peak.
    """
    warmup_steps = max(1, round(warmup * num_steps))
    decay_steps = max(1, round(decay * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = num_steps - step
    if left >= decay_steps:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1 - math.cos(math.pi * left / decay_steps))
