"""How many steps fit a time budget here: measured once, then kept with the run, so that a resumed run agrees."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from castor.data.loader import LoadedBatch
from castor.train.fit import FitConfig, Trainer
from castor.train.gradients import LossFunction
from castor.train.workers import Workers


def seconds_per_step(
    model: nn.Module,
    loss: LossFunction,
    batches: Callable[..., Iterator[LoadedBatch]],
    config: FitConfig,
    workers: Workers | None = None,
    *,
    num_warmup: int = 4,
    num_measured: int = 24,
) -> float:
    """Mean seconds of a full step, loading included, once the compiler has run. The model comes back as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(model, config, Path(), workers)
    stream = trainer.stream(batches, 0)
    times_s: list[float] = []
    for step in range(num_warmup + num_measured):
        start_s = time.monotonic()
        trainer.train_step(loss, stream, step)
        times_s.append(time.monotonic() - start_s)
    if (close := getattr(stream, "close", None)) is not None:
        close()
    model.load_state_dict(before)
    return statistics.mean(times_s[num_warmup:])
