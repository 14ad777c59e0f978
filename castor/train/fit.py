"""fit(): the one training loop. A stage is an iterator of batches and a loss; this is all that turns them into weights.

It leaves out what is trained on what: recipes decide that.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import torch
from torch import nn

from castor.checkpoint import load_metadata, load_tensors, save_tensors
from castor.data.loader import LoadedBatch
from castor.log import LiveLine, MetricsFile
from castor.train.gradients import LossFunction, Sums, add_gradients
from castor.train.optim import OptimConfig, Optimizer, count_parameters
from castor.train.schedule import learning_rate_scale
from castor.train.workers import Workers

STATE_FILE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How one training run goes; everything that changes its numbers is in here."""

    num_steps: int = 1000
    accumulate: int = 1  # batches per step and process
    optim: OptimConfig = field(default_factory=OptimConfig)
    warmup: float = 0.02  # share of the steps
    decay: float = 0.4  # share of the steps
    stretch: tuple[float, float] = (0.0, 1.0)  # of the schedule that these steps are, where a run has several stages
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    on_bad_step: Literal["skip", "stop"] = "skip"  # what to do where a loss is not finite
    save_every_s: float = 120.0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.accumulate < 1:
            raise ValueError(f"num_steps={self.num_steps} and accumulate={self.accumulate} must be at least 1")
        if not 0 <= self.stretch[0] < self.stretch[1] <= 1:
            raise ValueError(f"stretch={self.stretch} must rise within 0 and 1")

    def rate_scale(self, step: int) -> float:
        """The factor on the peak rates at `step` of these steps."""
        begin, end = self.stretch
        num_whole = round(self.num_steps / (end - begin))
        return learning_rate_scale(round(begin * num_whole) + step, num_whole, warmup=self.warmup, decay=self.decay)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a run ended."""

    step: int
    finished: bool
    loss: float
    tokens_per_s: float
    num_skipped: int
    interrupted: bool = False  # by Ctrl-C, be it in the last step


def fit(
    model: nn.Module,
    loss: LossFunction,
    batches: Callable[..., Iterator[LoadedBatch]],
    config: FitConfig,
    folder: str | Path,
    *,
    title: str = "train",
    peak_flops: float | None = None,
    stop_after: int | None = None,
    workers: Workers | None = None,
) -> FitResult:
    """Train `model` in place, from the state in `folder` where there is one.

    `batches(k)` yields batch k, k+1, ...: the loader keeps no state of its own, so a resumed run sees what an
    uninterrupted one would. Writes metrics.jsonl and state.safetensors. Ctrl-C saves and returns; a second one aborts.
    `peak_flops` (FLOP/s) turns tokens/s into the share of the machine's matrix peak; `stop_after` ends early, saved,
    as an interruption would. `workers` share the batches with this process; then `batches(k, n)` is called for batches
    k, k+n, ....
    """
    run = Trainer(model, config, Path(folder), workers)
    start = run.resume()
    metrics_file = MetricsFile(Path(folder) / "metrics.jsonl", resume_step=start)
    line = LiveLine(title, config.num_steps)
    meter = _Meter(6.0 * count_parameters(model.parameters()), peak_flops)
    with _Interrupt() as interrupt:
        stream = run.stream(batches, start)
        step = start
        while step < config.num_steps:
            row = run.train_step(loss, stream, step)
            step += 1
            row |= {"step": step} | meter.measure(row)
            metrics_file.write(row)
            line.update(step, meter.text(row), force=step == config.num_steps)
            done = step == config.num_steps or interrupt.asked or step == stop_after
            if done or time.monotonic() - run.saved_s > config.save_every_s:
                run.save(step)
            if done:
                break
        if (close := getattr(stream, "close", None)) is not None:
            close()
    metrics_file.close()
    line.close(f"{step} of {config.num_steps} steps" + (", saved; run the same command to go on" * interrupt.asked))
    return FitResult(
        step=step,
        finished=step == config.num_steps,
        loss=meter.loss,
        tokens_per_s=meter.tokens_per_s,
        num_skipped=run.num_skipped,
        interrupted=interrupt.asked,
    )


class Trainer:
    """Model, optimizer and their state on disk."""

    def __init__(self, model: nn.Module, config: FitConfig, folder: Path, workers: Workers | None = None) -> None:
        self.model, self.config, self.folder, self.workers = model, config, folder, workers
        self.optimizer = Optimizer(model, config.optim)
        self.num_skipped = 0
        self.saved_s = time.monotonic()

    def stream(self, batches: Callable[..., Iterator[LoadedBatch]], start: int) -> Iterator[LoadedBatch]:
        """This process's batches from step `start` on; the workers begin on theirs."""
        if self.workers is None:
            return batches(start * self.config.accumulate)
        num_processes = self.workers.count + 1
        first = start * self.config.accumulate * num_processes
        self.workers.begin(batches, first, self.config.accumulate)
        return batches(first, num_processes)

    def train_step(self, loss: LossFunction, stream: Iterator[LoadedBatch], step: int) -> dict[str, Any]:
        """Gradients of all batches of a step, added, divided once by their count, and one update."""
        config, sums = self.config, Sums()
        self.model.train()
        if self.workers is not None:
            self.workers.go()
        for _ in range(config.accumulate):
            add_gradients(self.model, loss, next(stream), config.precision, sums)
        if self.workers is not None:
            self.workers.collect(sums)
        for broken in sums.broken:
            print(f"step {step + 1}: skipped {broken}", file=sys.stderr, flush=True)
        count = max(sums.count, 1.0)
        scale = config.rate_scale(step)
        norm = self._update(sums.loss, count, scale, step, sums.origins)
        row = {
            "loss": sums.loss / count,
            "norm": norm,
            "tokens": sums.tokens,
            "wait_s": round(sums.wait_s, 4),
        }
        return row | {"scale": round(scale, 6)} | _divided(sums.metrics)

    def _update(self, total: float, count: float, scale: float, step: int, origins: list[str]) -> float:
        gradients = [p.grad for p in self.optimizer.parameters.values() if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / count)
        finite = total == total and abs(total) != float("inf")
        if finite:
            norms = torch._foreach_norm(gradients)
            finite = bool(torch.isfinite(torch.stack(norms)).all())
        if finite:
            return self.optimizer.step(scale)
        message = f"step {step + 1}: loss or gradient is not finite; batch of {'; '.join(origins)}"
        if self.config.on_bad_step == "stop":
            raise ValueError(message)
        self.num_skipped += 1
        self.optimizer.clear()
        print(f"{message}; skipped", file=sys.stderr, flush=True)
        return float("nan")

    def save(self, step: int) -> None:
        """Write the whole state as one file, atomically; frozen weights are the caller's and not part of it."""
        frozen = self._frozen()
        tensors = {f"model|{name}": value for name, value in self.model.state_dict().items() if name not in frozen}
        tensors |= {f"optim|{name}": value for name, value in self.optimizer.state().items()}
        tensors["rng"] = torch.get_rng_state()
        metadata = {
            "step": str(step),
            "num_steps": str(self.config.num_steps),
            "skipped": str(self.num_skipped),
        }
        save_tensors(self.folder / STATE_FILE, tensors, metadata)
        self.saved_s = time.monotonic()

    def _frozen(self) -> set[str]:
        return {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}

    def resume(self) -> int:
        """Take up the saved state, if any; gives the step to go on from."""
        path = self.folder / STATE_FILE
        for torn in self.folder.glob(f".{STATE_FILE}.*.tmp"):  # what a kill in the middle of saving left
            torn.unlink()
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return 0
        metadata = load_metadata(path)
        if int(metadata["num_steps"]) != self.config.num_steps:
            raise ValueError(
                f"{path}: saved by a run of {metadata['num_steps']} steps, not {self.config.num_steps}; "
                "the schedule would differ. Give the same settings, or another folder"
            )
        tensors = load_tensors(path)
        own = {name.partition("|")[2]: value for name, value in tensors.items() if name.startswith("model|")}
        odd = self.model.load_state_dict(own, strict=False)
        if wrong := sorted((set(odd.missing_keys) - self._frozen()) | set(odd.unexpected_keys)):
            raise ValueError(f"{path}: saved by a run that trained other weights: {wrong[0]}")
        self.optimizer.load_state(
            {name.partition("|")[2]: value for name, value in tensors.items() if name.startswith("optim|")}
        )
        torch.set_rng_state(tensors["rng"])
        self.num_skipped = int(metadata["skipped"])
        return int(metadata["step"])


class _Meter:
    """Rates of the last steps, and their share of the machine's peak."""

    def __init__(self, flops_per_token: float, peak_flops: float | None) -> None:
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.tokens_per_s = self.loss = 0.0
        self._last_s = time.monotonic()

    def measure(self, row: Mapping[str, Any]) -> dict[str, Any]:
        now_s = time.monotonic()
        step_s, self._last_s = now_s - self._last_s, now_s
        rate = row["tokens"] / step_s
        self.tokens_per_s = rate if self.tokens_per_s == 0 else 0.95 * self.tokens_per_s + 0.05 * rate
        if row["loss"] == row["loss"]:
            self.loss = row["loss"] if self.loss == 0 else 0.95 * self.loss + 0.05 * row["loss"]
        measured = {"step_s": round(step_s, 4), "tokens_per_s": round(rate, 1)}
        if self.peak_flops:
            measured["mfu"] = round(rate * self.flops_per_token / self.peak_flops, 4)
        return measured

    def text(self, row: Mapping[str, Any]) -> str:
        share = ""
        if self.peak_flops:
            share = f"  {100 * self.tokens_per_s * self.flops_per_token / self.peak_flops:.0f} % of matrix peak"
        busy = 100 * (1 - row["wait_s"] / max(row["step_s"], 1e-9))
        return f"step {row['step']}  loss {self.loss:.3f}  {self.tokens_per_s:,.0f} tokens/s{share}  {busy:.0f} % busy"


class _Interrupt:
    """Turns the first Ctrl-C into a wish to stop after this step; the second one is a KeyboardInterrupt again."""

    def __enter__(self) -> _Interrupt:
        self.asked = False
        self._before: Any = None
        try:
            self._before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread: the caller keeps its own handling
            self._before = None
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _divided(sums: Mapping[str, float]) -> dict[str, float]:
    """Means of the metrics that came as "name" and "name_count" sums."""
    return {
        name: round(value / max(sums[f"{name}_count"], 1.0), 5)
        for name, value in sums.items()
        if f"{name}_count" in sums and sums[f"{name}_count"] > 0
    }


def measure_matrix_peak(device: str = "cpu", precision: str = "bfloat16", seconds: float = 0.4) -> float:
    """FLOP/s of a 2048 x 2048 x 2048 product on `device`, the best of several: the denominator of MFU."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    best, end_s = 0.0, time.monotonic() + seconds
    a @ b
    while time.monotonic() < end_s:
        start_s = time.perf_counter()
        product = a @ b
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start_s))
        del product
    return best
