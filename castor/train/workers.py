"""Data-parallel training on the cores of one machine: processes that share the weights, each with its own batches.

Cores that share every small operation wait for each other thousands of times a step; processes wait once. A model of a
few million parameters trains about twice as fast so. The weights lie in shared memory: this process alone updates them,
while the workers wait; gradients come back through shared memory too, and are added in the order of the workers, so
that a step gives what the same batches, accumulated in one process, give. Leaves out several machines and GPUs.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import multiprocessing, nn

from castor.data.loader import LoadedBatch, without_interrupts
from castor.runtime import prepare_cpu
from castor.train.gradients import LossFunction, Sums, add_gradients

Batches = Callable[[int, int], Iterator[LoadedBatch]]  # (first, stride) -> batches first, first + stride, ...
Build = Callable[[], tuple[nn.Module, LossFunction]]  # a module without weights of its own, and its loss


@dataclass(frozen=True)
class _Stretch:
    """Batches to work on from here: `accumulate` of them a step."""

    batches: Batches
    first: int
    stride: int
    accumulate: int


class Workers:
    """`count` processes beside this one; `with Workers(...) as workers` ends them whatever happens."""

    def __init__(
        self, model: nn.Module, build: Build, count: int, *, precision: str = "float32", num_threads: int = 1
    ) -> None:
        """Move the weights of `model` into shared memory and start the processes, each of which calls `build`."""
        self.model, self.count = model, count
        state = {name: tensor.detach().share_memory_() for name, tensor in model.state_dict(keep_vars=True).items()}
        context = multiprocessing.get_context("spawn")
        self._gradients: list[dict[str, torch.Tensor]] = []
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._at_work = False
        with without_interrupts():
            for _ in range(count):
                gradients = {name: torch.zeros_like(p).share_memory_() for name, p in model.named_parameters()}
                here, there = context.Pipe()
                process = context.Process(
                    target=_work, args=(build, state, gradients, there, precision, num_threads), daemon=False
                )
                process.start()
                there.close()
                self._gradients.append(gradients)
                self._pipes.append(here)
                self._processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what they were at is lost."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)  # one that waits for orders ends at once, and its loader with it
            process.terminate()
            process.join()
        self._pipes, self._processes = [], []

    def begin(self, batches: Batches, first: int, accumulate: int) -> None:
        """Batch `first` is this process's, the next ones the workers', and so on in turn."""
        if self._at_work:  # a step broke off here; what the workers made of it is not wanted
            self._answers()
        for rank in range(self.count):
            self._talk(rank, "send", _Stretch(batches, first + rank + 1, self.count + 1, accumulate))

    def go(self) -> None:
        """Set the workers to their part of a step."""
        for rank in range(self.count):
            self._talk(rank, "send", None)
        self._at_work = True

    def collect(self, sums: Sums) -> None:
        """Add what the workers have come to: gradients onto those of the model, figures onto `sums`."""
        parameters = dict(self.model.named_parameters())
        for rank, done in enumerate(self._answers()):
            if isinstance(done, Exception):
                raise done
            part, touched = done
            sums.add(part)
            for name in touched:
                gradient, parameter = self._gradients[rank][name], parameters[name]
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)

    def _answers(self) -> list[Any]:
        """What each worker has to say of the step; all of it, so that none is taken for that of a later step."""
        answers = [self._talk(rank, "recv") for rank in range(self.count)]
        self._at_work = False
        return answers

    def _talk(self, rank: int, verb: str, *message: Any) -> Any:
        try:
            return getattr(self._pipes[rank], verb)(*message)
        except (EOFError, ConnectionError):
            process = self._processes[rank]
            process.join()
            raise RuntimeError(
                f"training process {rank + 2} ended with exit code {process.exitcode}; its own error is above"
            ) from None


def _work(
    build: Build,
    state: dict[str, torch.Tensor],
    gradients: dict[str, torch.Tensor],
    pipe: Any,
    precision: str,
    num_threads: int,
) -> None:
    """Body of a worker, until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to end
    prepare_cpu(num_threads)
    model, loss = build()
    model.load_state_dict(state, assign=True)
    model.train()
    stream: Any = None
    accumulate = 1
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            order = pipe.recv()
            try:
                if order is not None:
                    _close(stream)
                    stream, accumulate = order.batches(order.first, order.stride), order.accumulate
                    continue
                answer: Any = _step(model, loss, stream, accumulate, gradients, precision)
            except (ValueError, RuntimeError, OSError) as error:  # goes to the training process, which raises it
                answer = error
            pipe.send(answer)
    _close(stream)


def _step(
    model: nn.Module,
    loss: LossFunction,
    stream: Iterator[LoadedBatch],
    accumulate: int,
    gradients: dict[str, torch.Tensor],
    precision: str,
) -> tuple[Sums, list[str]]:
    sums, touched = Sums(), []
    model.zero_grad(set_to_none=True)  # a step may have broken off
    for _ in range(accumulate):
        add_gradients(model, loss, next(stream), precision, sums)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name].copy_(parameter.grad)
            touched.append(name)
    return sums, touched


def _close(stream: Any) -> None:
    if (close := getattr(stream, "close", None)) is not None:
        close()
