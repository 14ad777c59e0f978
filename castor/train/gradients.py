"""Gradients of one batch: the part of a step that every process does for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from castor.data.loader import LoadedBatch
from castor.tokens.batch import Batch

LossTerms = tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]  # sum, count, metrics
LossFunction = Callable[[Batch], LossTerms]


@dataclass
class Sums:
    """What batches came to, added up: losses and counts of targets, and where they came from."""

    loss: float = 0.0
    count: float = 0.0
    tokens: int = 0
    wait_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    origins: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Sums) -> None:
        """Add what other batches came to; the longest wait is the one that counts among processes."""
        self.loss += other.loss
        self.count += other.count
        self.tokens += other.tokens
        self.wait_s = max(self.wait_s, other.wait_s)
        for name, value in other.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        self.origins += other.origins
        self.broken += other.broken


def add_gradients(model: nn.Module, loss: LossFunction, loaded: LoadedBatch, precision: str, sums: Sums) -> None:
    """Run one batch forward and back: its gradients onto those of `model`, its figures onto `sums`."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        total, count, metrics = loss(loaded.batch.to(device))
    total.backward()
    sums.loss += float(total.detach())
    sums.count += float(count)
    sums.tokens += loaded.batch.num_tokens
    sums.wait_s += loaded.stats.wait_s
    for name, value in metrics.items():
        sums.metrics[name] = sums.metrics.get(name, 0.0) + float(value)
    sums.origins.append(f"batch {loaded.index} ({loaded.stats.examples})")
    sums.broken += loaded.stats.broken
