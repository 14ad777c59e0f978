"""Batches of pairs: one task a step, drawn at preset rates, each process with its part of the step's pairs.

`mixed` draws every pair's task anew instead, at rates at which each task gets as many pairs as it would otherwise.

Batch i is step i // P's part i % P where P processes share a step, and depends on nothing but the seed and i. A task
may draw from a pool of so many pairs a process, which are rendered once: where making them is dear, such as speech.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from castor.data.loader import MAX_BROKEN, BatchStats, BrokenExample, LoadedBatch, Loader, LoaderConfig
from castor.example import Pair

GENERATE = "generate"  # the task whose batches are those of another loader


class Pairs(Protocol):
    """Anything that gives pairs."""

    def pair(self, rng: random.Random) -> Pair:
        """One pair, chosen by `rng` alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class PairTask:
    """How much of a source a stage takes."""

    rate: float  # of the steps, beside the other tasks' rates
    pairs: int  # a step
    pool: int = 0  # different pairs a process; 0: endless


class PairLoader(Loader):
    """`batches` as of Loader; every batch is of one task."""

    def __init__(
        self,
        config: LoaderConfig,
        sources: Mapping[str, Pairs],
        tasks: Mapping[str, PairTask],
        render: Callable[[Pair, random.Random], Any],
        pack: Callable[..., Any],
        *,
        num_parts: int = 1,
        mixed: bool = False,
        generation: Loader | None = None,
    ) -> None:
        """`render` makes a pair's sequences, with chance for what is left out; `pack` a batch of them."""
        if missing := [name for name in tasks if name not in sources and name != GENERATE]:
            raise ValueError(f"task {missing[0]!r} has no source of pairs")
        if (GENERATE in tasks) != (generation is not None):
            raise ValueError(f"the task {GENERATE!r} and a loader of its batches go together")
        self.config, self.render_pair, self.pack_pairs = config, render, pack  # no mixture: a step has one task
        self.sources, self.tasks, self.num_parts, self.generation = dict(sources), dict(tasks), num_parts, generation
        self.mixed = mixed
        self._rendered: dict[tuple[str, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rendered": {}}

    def task_of(self, step: int) -> str:
        """The task of a step, by the rates."""
        rates = [task.rate for task in self.tasks.values()]
        return random.Random(f"{self.config.seed}/{step}/task").choices(list(self.tasks), rates)[0]

    def _mixed_pairs(self) -> int:
        """Pairs of a step of all tasks: as many as one task's steps have on average."""
        tasks = [task for name, task in self.tasks.items() if name != GENERATE]
        return round(sum(task.rate * task.pairs for task in tasks) / sum(task.rate for task in tasks))

    def _task_of_pair(self, step: int, part: int, number: int) -> str:
        """The task of one pair of a step of all tasks."""
        tasks = {name: task.rate * task.pairs for name, task in self.tasks.items() if name != GENERATE}
        rng = random.Random(f"{self.config.seed}/{step}/{part}/{number}/task")
        return rng.choices(list(tasks), list(tasks.values()))[0]

    def make(self, index: int) -> LoadedBatch:
        """Batch `index`, made here and now."""
        step, part = divmod(index, self.num_parts)
        name = self.task_of(step)
        if name == GENERATE:
            assert self.generation is not None
            return self.generation.make(index)
        start_s = time.perf_counter()
        wanted = max(1, (self._mixed_pairs() if self.mixed else self.tasks[name].pairs) // self.num_parts)
        found: list[Any] = []
        broken: list[str] = []
        number = num_too_long = 0
        while len(found) < wanted:
            try:
                drawn = self._task_of_pair(step, part, number) if self.mixed else name
                pair = self._drawn(drawn, step, part, number)
            except (ValueError, OSError, LookupError, TypeError) as error:
                broken.append(f"pairs of {name!r}, step {step}, part {part}, number {number}: {error}")
            else:
                fits = max(map(len, pair.sequences)) <= self.config.row_tokens
                num_too_long += not fits
                found += [pair] if fits else []
            if len(broken) + num_too_long >= MAX_BROKEN + wanted:
                raise BrokenExample(
                    f"batch {index}: {num_too_long} pairs of {name!r} did not fit a row of {self.config.row_tokens} "
                    f"tokens and {len(broken)} are broken, such as {broken[:1]}"
                )
            number += 1
        batch = self.pack_pairs(found, num_rows=self.config.num_rows, row_tokens=self.config.row_tokens, rank=part)
        num_tokens = sum(map(len, found))
        stats = BatchStats(
            examples={name: len(found)}, tokens={name: num_tokens}, num_too_long=num_too_long, broken=tuple(broken),
            useful_share=num_tokens / (len(batch.chunks) * self.config.num_rows * self.config.row_tokens),
            make_s=time.perf_counter() - start_s,
        )  # fmt: skip
        return LoadedBatch(index, batch, stats)

    def _drawn(self, name: str, step: int, part: int, number: int) -> Any:
        rng = random.Random(f"{self.config.seed}/{step}/{part}/{number}")
        pool = self.tasks[name].pool
        if not pool:
            return self.render_pair(self.sources[name].pair(rng), rng)
        at = rng.randrange(pool) * self.num_parts + part  # another part never makes the same one again
        if (name, at) not in self._rendered:
            own = random.Random(f"{self.config.seed}/{name}/{at}")
            self._rendered[name, at] = self.render_pair(self.sources[name].pair(own), own)
        return self._rendered[name, at]
