"""Batches that go through a set of examples epoch by epoch: each example once an epoch, in an order drawn anew.

Batch i is a function of the seed and i alone, so a resumed run goes on as an uninterrupted one would.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from castor.data.loader import BatchStats, LoadedBatch
from castor.data.own import OwnExamples
from castor.tokens.batch import Batch
from castor.tokens.pack import collate, plan
from castor.tokens.sequence import Sequence as Rendered


class EpochLoader:
    """`batches(start)` gives batch start, start + 1, ... without end; `chosen` are the examples to go through."""

    def __init__(
        self,
        examples: OwnExamples,
        chosen: Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        pack: Callable[[Sequence[Any], int], Any] | None = None,
    ) -> None:
        """`pack` makes a batch of rendered examples and the tokens of a row; None: `packed`."""
        if not chosen or batch_size < 1:
            raise ValueError(f"{len(chosen)} examples cannot be learned from in batches of {batch_size}")
        self.examples, self.chosen, self.batch_size, self.seed = examples, list(chosen), batch_size, seed
        self.pack = pack or packed
        self._order: tuple[int, list[int]] = (-1, [])  # of the epoch last asked for

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self.chosen) // self.batch_size)

    def indices(self, index: int) -> list[int]:
        """The examples in batch `index`."""
        epoch, at = divmod(index, self.num_batches)
        if self._order[0] != epoch:
            self._order = (epoch, random.Random(f"{self.seed}/epoch/{epoch}").sample(self.chosen, len(self.chosen)))
        return self._order[1][at * self.batch_size : (at + 1) * self.batch_size]

    def make(self, index: int) -> LoadedBatch:
        """Batch `index`."""
        start_s = time.perf_counter()
        indices = self.indices(index)
        sequences = [self.examples.sequence(at) for at in indices]
        batch = self.pack(sequences, self.examples.row_tokens)
        tasks, tokens = Counter[str](), Counter[str]()
        for at, sequence in zip(indices, sequences, strict=True):
            tasks[self.examples.task(at)] += 1
            tokens[self.examples.task(at)] += len(sequence)
        seconds = time.perf_counter() - start_s
        share = sum(tokens.values()) / batch.num_places
        stats = BatchStats(
            examples=dict(tasks), tokens=dict(tokens), useful_share=share, make_s=seconds, wait_s=seconds
        )
        return LoadedBatch(index, batch, stats)

    def batches(self, start: int = 0) -> Iterator[LoadedBatch]:
        """Batches from number `start` on."""
        while True:
            yield self.make(start)
            start += 1


def packed(sequences: Sequence[Rendered], row_tokens: int) -> Batch:
    """All of the sequences in as few rows of at most `row_tokens` as fit, the rows cut to the longest one."""
    rows = [row for row in plan([len(sequence) for sequence in sequences], len(sequences), row_tokens) if row]
    assert sum(map(len, rows)) == len(sequences), "no sequence is longer than a row"
    longest = max(sum(len(sequences[at]) for at in row) for row in rows)
    return collate([[sequences[at] for at in row] for row in rows], longest)
