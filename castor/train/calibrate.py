"""How many steps fit a time budget here: measured once, then kept with the run, so that a resumed run agrees."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from castor.data.loader import LoadedBatch
from castor.tokens.batch import Batch
from castor.train.fit import LossTerms
from castor.train.optim import OptimConfig, Optimizer


def seconds_per_step(
    model: nn.Module,
    loss: Callable[[Batch], LossTerms],
    batches: Callable[[int], Iterator[LoadedBatch]],
    optim: OptimConfig,
    *,
    precision: str = "bfloat16",
    num_warmup: int = 4,
    num_measured: int = 16,
) -> float:
    """Median seconds of a full step, loading included, once the compiler has run. The model comes back as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, optim)
    device = next(model.parameters()).device
    stream = batches(0)
    model.train()
    times_s: list[float] = []
    for _ in range(num_warmup + num_measured):
        start_s = time.monotonic()
        loaded = next(stream)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            total, count, _ = loss(loaded.batch.to(device))
        (total / count).backward()
        optimizer.step(0.1)
        times_s.append(time.monotonic() - start_s)
    if (close := getattr(stream, "close", None)) is not None:
        close()
    model.load_state_dict(before)
    return statistics.median(times_s[num_warmup:])
