"""Vectors of several processes brought together: through shared memory on one machine, or over torch.distributed."""

from __future__ import annotations

from threading import BrokenBarrierError
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from castor.train.contrastive import PairVectors

WAIT_S = 600.0  # for the slowest process; its first step may compile


class SharedGather:
    """Parts of processes that were started with this object, each of at most `capacity` pairs of `dim` numbers."""

    def __init__(self, num_parts: int, capacity: int, dim: int) -> None:
        self.num_parts, self.capacity, self.dim = num_parts, capacity, dim
        self._barrier: Any = multiprocessing.get_context("spawn").Barrier(num_parts)
        self._vectors = torch.zeros(num_parts, 3, capacity, dim).share_memory_()
        self._marks = torch.zeros(num_parts, 3, capacity, dtype=torch.int64).share_memory_()
        self._counts = torch.zeros(num_parts, dtype=torch.int64).share_memory_()

    def __call__(self, part: PairVectors, rank: int) -> list[PairVectors]:
        """The parts of all; RuntimeError where another process has ended, or takes longer than `WAIT_S`."""
        num = len(part.keys_N2)
        if num > self.capacity:
            self._barrier.abort()
            raise ValueError(f"{num} pairs in one part, and room for {self.capacity}")
        self._counts[rank] = num
        for side, x_NE in enumerate((part.query_NE, part.target_NE, part.negative_NE)):
            self._vectors[rank, side, :num] = x_NE.detach()
        self._marks[rank, :2, :num] = part.keys_N2.T
        self._marks[rank, 2, :num] = part.has_negative_N.long()
        self._wait()
        parts = [part if other == rank else self._read(other, part) for other in range(self.num_parts)]
        self._wait()  # nobody writes the next step before all have read this one
        return parts

    def _read(self, rank: int, like: PairVectors) -> PairVectors:
        device = like.keys_N2.device
        num = int(self._counts[rank])
        vectors, marks = self._vectors[rank, :, :num].to(device, copy=True), self._marks[rank, :, :num].clone()
        return PairVectors(*vectors, marks[2].bool().to(device), marks[:2].T.to(device))

    def _wait(self) -> None:
        try:
            self._barrier.wait(WAIT_S)
        except BrokenBarrierError:
            raise RuntimeError(
                f"a process that trains beside this one ended, or took over {WAIT_S:.0f} s, in the middle of a step"
            ) from None


class RankGather:
    """The same over the default group of torch.distributed: every rank has a part, which may differ in length."""

    def __init__(self) -> None:
        self.num_parts = dist.get_world_size()

    def __call__(self, part: PairVectors, rank: int) -> list[PairVectors]:
        """The parts of all ranks, in their order."""
        own, num = dist.get_rank(), len(part.keys_N2)
        counts = [torch.zeros(1, dtype=torch.int64, device=part.keys_N2.device) for _ in range(self.num_parts)]
        dist.all_gather(counts, torch.tensor([num], device=part.keys_N2.device))
        most = max(int(count) for count in counts)
        found: list[list[torch.Tensor]] = []
        for name in PairVectors.__dataclass_fields__:
            mine = getattr(part, name).detach()
            mine = mine.long() if mine.dtype == torch.bool else mine
            padded = mine.new_zeros(most, *mine.shape[1:])
            padded[:num] = mine
            theirs = [torch.empty_like(padded) for _ in range(self.num_parts)]
            dist.all_gather(theirs, padded)
            found.append([one[: int(count)] for one, count in zip(theirs, counts, strict=True)])
        parts = [PairVectors(q, t, n, has.bool(), keys) for q, t, n, has, keys in zip(*found, strict=True)]
        return [part if other == own else one for other, one in enumerate(parts)]
