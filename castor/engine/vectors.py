"""VectorQueue: prompts that wait for their vectors, computed a bounded number of tokens at a time.

The engine computes one such share between two steps of its answers, so that neither keeps the other waiting for longer
than one share. Every request gets its turn in the round: one of a thousand prompts does not hold up one of a single.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence as Seq
from concurrent.futures import Future

import torch

from castor.engine.embed import embed_sequences
from castor.models.decoder import Decoder
from castor.tokens.sequence import Sequence

ROUND = 8  # prompts of one request, before it is the next one's turn


class _Job:
    """The prompts of one request, and the vectors of those that were computed."""

    def __init__(self, sequences: Seq[Sequence], dim: int) -> None:
        self.sequences, self.num_taken = sequences, 0
        self.vectors_NE = torch.zeros(len(sequences), dim)
        self.future: Future[torch.Tensor] = Future()


class VectorQueue:
    """Requests for vectors. `submit` may be called from any thread, `step` by one at a time."""

    def __init__(self, decoder: Decoder, device: torch.device, *, most_tokens: int) -> None:
        """`most_tokens` are computed in a step, and more only where a single prompt is longer."""
        self.decoder, self.device, self.most_tokens = decoder, device, most_tokens
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()

    def submit(self, sequences: Seq[Sequence]) -> Future[torch.Tensor]:
        """Vectors of length 1, float32 [N, E], in the order given; cancelling the future takes back what still waits.

        ValueError where the model makes no vectors, or a prompt is longer than its positions.
        """
        dim = self.decoder.config.text.embedding_dim
        if dim is None:
            raise ValueError("this model has no embedding head; it writes, but does not embed")
        for sequence in sequences:
            self.decoder.check_length(len(sequence))
        job = _Job(sequences, dim)
        with self._lock:
            self._jobs.append(job)
        return job.future

    def __len__(self) -> int:
        return len(self._jobs)

    @torch.inference_mode()
    def step(self) -> None:
        """Compute one share of what waits, and give the vectors of every request that is complete."""
        share = self._share()
        if not share:
            return
        vectors_NE = embed_sequences(self.decoder, [job.sequences[at] for job, at in share], self.device)
        for (job, at), vector_E in zip(share, vectors_NE, strict=True):
            job.vectors_NE[at] = vector_E
            if at == len(job.sequences) - 1 and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.vectors_NE)

    def _share(self) -> list[tuple[_Job, int]]:
        """Prompts of the next step, with their requests: a few of each in turn, those of a request in their order."""
        share: list[tuple[_Job, int]] = []
        num_tokens = 0
        with self._lock:
            while self._jobs:
                job = self._jobs[0]
                if job.future.cancelled():
                    self._jobs.popleft()
                    continue
                for at in range(job.num_taken, min(job.num_taken + ROUND, len(job.sequences))):
                    num_tokens += len(job.sequences[at])
                    if share and num_tokens > self.most_tokens:
                        self._jobs.rotate(-1)
                        return share
                    share.append((job, at))
                    job.num_taken = at + 1
                self._jobs.rotate(-1)
                if job.num_taken == len(job.sequences):
                    self._jobs.remove(job)
        return share

    def end(self, error: str) -> None:
        """Give up what waits: RuntimeError with `error` for all of it."""
        with self._lock:
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(RuntimeError(error or "the engine is closed"))
