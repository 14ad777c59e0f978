"""Batches in order, each a pure function of (seed, its number), made here or ahead of time by workers.

Because batch i depends on nothing but (seed, i), resuming at step k is starting at batch k: it has no state.
The loader knows neither tokens nor packing; both are handed to it as callables.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from typing import Any

from castor.data.mixture import Mixture
from castor.example import Example

MAX_BROKEN = 100  # broken examples in one batch after which skipping is no longer an answer


Render = Callable[[Example], Any]  # Example -> Sequence (has a len)
# (sequences, num_rows=, row_tokens=) -> (batch, indices left out)
Pack = Callable[..., tuple[Any, list[int]]]


class BrokenExample(ValueError):
    """An example that could not be made or rendered: says which, and the seed that makes it again."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are drawn and made."""

    num_rows: int = 8
    row_tokens: int = 1024
    num_batches: int = 1000  # of the whole run; batch i is drawn at progress i / num_batches
    seed: int = 0
    num_workers: int = 0  # processes; 0 makes batches in this one
    prefetch: int = 2  # finished batches kept per worker
    on_broken: str = "skip"  # or "stop"
    start_method: str = "spawn"  # of processes; "fork" starts faster but copies open pipes and locks

    def __post_init__(self) -> None:
        for name in ("num_rows", "row_tokens", "num_batches", "prefetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.on_broken not in ("skip", "stop"):
            raise ValueError(f'on_broken must be "skip" or "stop", got {self.on_broken!r}')


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """What went into one batch."""

    examples: dict[str, int] = field(default_factory=dict)  # per task, packed ones
    tokens: dict[str, int] = field(default_factory=dict)  # per task
    useful_share: float = 0.0  # of the batch's token places that hold an example
    num_left_out: int = 0  # drawn, but without room in this batch
    num_too_long: int = 0  # longer than a row
    broken: tuple[str, ...] = ()  # one text per skipped example
    make_s: float = 0.0  # time to make it
    wait_s: float = 0.0  # time the consumer waited for it


@dataclass(frozen=True)
class LoadedBatch:
    """Batch number `index`, and what went into it."""

    index: int
    batch: Any
    stats: BatchStats


class Loader:
    """`for loaded in loader.batches(start): ...` gives LoadedBatch start, start + 1, ... num_batches - 1."""

    def __init__(self, config: LoaderConfig, mixture: Mixture, render: Render, pack: Pack) -> None:
        self.config, self.mixture, self.render, self.pack = config, mixture, render, pack

    def example(self, index: int, number: int) -> Example:
        """Example `number` drawn for batch `index`; raises BrokenExample."""
        seed = f"{self.config.seed}/{index}/{number}"
        rng = random.Random(seed)
        name = self.mixture.pick(rng, min(1.0, index / self.config.num_batches))
        try:
            return self.mixture.sources[name].example(rng)
        except (ValueError, OSError, LookupError, TypeError) as error:
            raise BrokenExample(f"source {name!r}, seed {seed!r}: {_reason(error)}") from error

    def sequence(self, index: int, number: int) -> tuple[str, Any]:
        """(task, rendered example `number` of batch `index`); raises BrokenExample."""
        example = self.example(index, number)
        try:
            return example.task, self.render(example)
        except (ValueError, OSError, LookupError, TypeError) as error:
            known = f"task {example.task!r}, id {example.meta.get('id')!r}"
            seed = f"{self.config.seed}/{index}/{number}"
            raise BrokenExample(f"{known}, seed {seed!r}: {_reason(error)}") from error

    def make(self, index: int) -> LoadedBatch:
        """Batch `index`, made here and now."""
        config, start_s = self.config, time.perf_counter()
        tasks: list[str] = []
        sequences: list[Any] = []
        broken: list[str] = []
        number = num_too_long = drawn_tokens = 0
        while drawn_tokens < config.num_rows * config.row_tokens:
            try:
                task, sequence = self.sequence(index, number)
            except BrokenExample as error:
                broken.append(str(error))
                if config.on_broken == "stop" or len(broken) + num_too_long >= MAX_BROKEN:
                    raise
            else:
                if 0 < len(sequence) <= config.row_tokens:
                    tasks.append(task)
                    sequences.append(sequence)
                    drawn_tokens += len(sequence)
                else:
                    num_too_long += 1
                    if len(broken) + num_too_long >= MAX_BROKEN:
                        raise BrokenExample(
                            f"batch {index}: {num_too_long} examples did not fit a row of "
                            f"{config.row_tokens} tokens, the last of task {task!r} with {len(sequence)}"
                        )
            number += 1
        batch, left_out = self.pack(sequences, num_rows=config.num_rows, row_tokens=config.row_tokens)
        stats = _stats(tasks, sequences, set(left_out), config)
        stats = replace(stats, num_too_long=num_too_long, broken=tuple(broken), make_s=time.perf_counter() - start_s)
        return LoadedBatch(index, batch, stats)

    def batches(self, start: int = 0, stride: int = 1) -> Iterator[LoadedBatch]:
        """Batches start, start + stride, ...; closing the iterator ends its workers."""
        if start < 0 or stride < 1 or start >= self.config.num_batches + stride:
            raise ValueError(
                f"start must be in 0..{self.config.num_batches} and stride positive, got {start}, {stride}"
            )
        if self.config.num_workers:
            yield from self._prefetched(start, stride)
            return
        for index in range(start, self.config.num_batches, stride):
            loaded = self.make(index)
            yield replace(loaded, stats=replace(loaded.stats, wait_s=loaded.stats.make_s))

    def _prefetched(self, start: int, stride: int) -> Iterator[LoadedBatch]:
        """The workers take the batches in turn, and are read in turn, which keeps the order."""
        context: Any = multiprocessing.get_context(self.config.start_method)
        stop = context.Event()
        num_workers = self.config.num_workers
        queues = [context.Queue(self.config.prefetch) for _ in range(num_workers)]
        workers = [
            context.Process(
                target=_work, args=(self, start + w * stride, num_workers * stride, queues[w], stop), daemon=True
            )
            for w in range(num_workers)
        ]
        try:
            with without_interrupts():
                for worker in workers:
                    worker.start()
            for turn, index in enumerate(range(start, self.config.num_batches, stride)):
                w = turn % num_workers
                wait_from_s = time.perf_counter()
                loaded = _receive(queues[w], workers[w], index)
                wait_s = time.perf_counter() - wait_from_s
                yield replace(loaded, stats=replace(loaded.stats, wait_s=wait_s))
        finally:
            stop.set()
            _end(workers, queues)


def _stats(tasks: Sequence[str], sequences: Sequence[Any], left_out: set[int], config: LoaderConfig) -> BatchStats:
    examples: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for number, (task, sequence) in enumerate(zip(tasks, sequences, strict=True)):
        if number not in left_out:
            examples[task] += 1
            tokens[task] += len(sequence)
    useful_share = sum(tokens.values()) / (config.num_rows * config.row_tokens)
    return BatchStats(
        examples=dict(examples), tokens=dict(tokens), useful_share=useful_share, num_left_out=len(left_out)
    )


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _work(loader: Loader, first: int, stride: int, results: Any, stop: Any) -> None:
    """Body of a worker. Batches travel as bytes: tensors in shared memory would be lost with their maker."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end; not inherited everywhere
    torch.set_num_threads(1)
    _yield_to_training()
    parent = multiprocessing.parent_process()
    for index in range(first, loader.config.num_batches, stride):
        try:
            made: LoadedBatch | BrokenExample = loader.make(index)
        except BrokenExample as error:
            made = error
        data = pickle.dumps(made)
        while not stop.is_set():
            try:
                results.put(data, timeout=1.0)
                break
            except queue.Full:
                if parent is not None and not parent.is_alive():
                    stop.set()
        if stop.is_set() or isinstance(made, BrokenExample):
            break
    while not stop.wait(timeout=1.0):  # batches may still be unread; with a killed parent they always will be
        if parent is not None and not parent.is_alive():
            break
    results.cancel_join_thread()


def _yield_to_training() -> None:
    """Give way to the processes that train, so that those that wait for each other are held up less."""
    with contextlib.suppress(OSError, AttributeError):  # a sandbox or another system may not have it
        os.nice(5)


@contextlib.contextmanager
def without_interrupts() -> Generator[None]:
    """Processes started here ignore Ctrl-C from their first moment on: one that dies importing would end the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _receive(results: Any, worker: BaseProcess, index: int) -> LoadedBatch:
    while True:
        try:
            made = pickle.loads(results.get(timeout=1.0))
            break
        except queue.Empty:
            if not worker.is_alive() and results.empty():
                raise RuntimeError(
                    f"loader {worker.name} ended with exit code {worker.exitcode} before batch {index}; "
                    "its own error is printed above"
                ) from None
    if isinstance(made, BrokenExample):
        raise made
    assert made.index == index, "a worker sent a batch out of turn"
    return made


def _end(workers: list[BaseProcess], queues: list[Any]) -> None:
    """Ends workers at once. They hold nothing that is not made again, and reading out a queue whose writer has gone
    in the middle of a batch would wait for ever."""
    for worker in workers:
        if worker.pid is not None:
            worker.terminate()
            worker.join()
    for results in queues:
        results.close()
