"""Request: one prompt on its way through the engine; what came of it can be followed from any thread or event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from castor.content import Message, Part
from castor.engine.blocks import Table
from castor.engine.constrain import Choice, Constraint
from castor.engine.draft import Lookup
from castor.engine.prefix import Prefix
from castor.engine.sample import SamplingConfig
from castor.engine.stream import cut, part_stream
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence

HURRY = 8  # ids among which the first part of a reply is looked for with every one
Reason = Literal["stop", "length", "cancelled", "deadline", "memory", "error"]


class Said(NamedTuple):
    """One id of a reply. If asked for: the log-probability it had, and the likeliest ids with theirs."""

    token_id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """A reply that has ended, and why: "stop" (by itself, or at a stop text), "length", or cut off by something."""

    message: Message
    said: tuple[Said, ...]  # without the id that ends the turn
    reason: Reason
    num_prompt_tokens: int
    num_reused_tokens: int  # of these: found in the cache when the request was first begun
    first_s: float | None  # from submission to the first id
    total_s: float  # from submission to the end


class Entering(NamedTuple):
    """What enters the layers from token `start` on: the stream, ids for per-layer inputs, picture blocks."""

    start: int
    x_TD: torch.Tensor
    ids_T: torch.Tensor
    block_T: torch.Tensor


@dataclass
class _Pace:
    """How often a follower in an event loop wants news: 0 is with every id."""

    every_s: float = 0.0


def _next(now_s: float, every_s: float) -> float:
    """The next multiple of `every_s`: all who follow at the same pace are served in one turn of their loop."""
    return (now_s // every_s + 1) * every_s


class Request:
    """A prompt, how to answer it, and how far that is. Made by `Engine.submit`.

    Iterating gives each `Said` as it comes, `parts` gives texts and pictures, `result` waits for the end; the same with
    `async for`, and as often as wanted. Someone must run the engine's steps meanwhile.
    """

    def __init__(
        self,
        sequence: Sequence,
        sampling: SamplingConfig,
        renderer: Renderer | GemmaRenderer,
        *,
        block_tokens: int,
        order: tuple[int, int] = (0, 0),
        deadline_at_s: float | None = None,
        constraint: Constraint | Choice | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sequence, self.sampling, self.renderer, self.constraint = sequence, sampling, renderer, constraint
        self.order, self.deadline_at_s = order, deadline_at_s  # the smaller the order, the earlier its turn
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.said: list[Said] = []
        self.reason: Reason | None = None
        # What the scheduler keeps of it.
        self.ids: list[int] = sequence.ids_T.tolist()  # the prompt's and then what was said
        self.num_computed = 0  # tokens whose keys and values the cache holds
        self.tables: dict[str, Table] = {}
        self.prefix = Prefix(sequence, block_tokens)
        self.entering: Entering | None = None
        self.lookup = Lookup()
        self.num_reused: int | None = None
        self.num_preempted = 0
        # Who follows it.
        self._is_cancelled = False
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._clock = clock
        self._submitted_s = clock()
        self._first_s: float | None = None
        self._ended_s, self.error = 0.0, ""  # what failed

    @property
    def said_ids(self) -> list[int]:
        """The reply so far."""
        return self.ids[len(self.sequence) :]

    @property
    def is_reading(self) -> bool:
        """Whether there is more to compute than the id said last."""
        return not self.said or self.num_computed < len(self.ids) - 1

    def cancel(self) -> None:
        """Ask for its end; what was said stays. Does nothing to a request that has ended."""
        self._is_cancelled = True

    def overdue(self, now_s: float) -> Reason | None:
        """Why it must end without having finished, if it must."""
        if self._is_cancelled:
            return "cancelled"
        return "deadline" if self.deadline_at_s is not None and now_s >= self.deadline_at_s else None

    def say(self, said: Said) -> None:
        """One more id."""
        if self._first_s is None:
            self._first_s = self._clock()
        self.ids.append(said.token_id)
        with self._changed:
            self.said.append(said)
            self._tell()

    def end(self, reason: Reason, error: str = "") -> None:
        """Nothing more will come; after an error, `result` raises it."""
        self.error = error
        self._ended_s = self._clock()
        self.entering = None
        with self._changed:
            self.reason = reason
            self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def __iter__(self) -> Iterator[Said]:
        for at in itertools.count():
            with self._changed:
                self._changed.wait_for(lambda at=at: at < len(self.said) or self.reason is not None)
                if at >= len(self.said):
                    return
            yield self.said[at]

    def parts(self) -> Iterator[Part]:
        """Texts as soon as they are certain, pictures when they are finished."""
        writer = part_stream(self.renderer, self.sampling.stop)
        for said in self:
            yield from writer.take(said.token_id)
        yield from writer.finish()

    async def __aiter__(self) -> AsyncIterator[Said]:
        """The same in an event loop. Whoever leaves before the end cancels the request."""
        async with contextlib.aclosing(self._news(_Pace())) as news:
            async for some in news:
                for said in some:
                    yield said

    async def aparts(self, every_s: float = 0.0) -> AsyncIterator[Part]:
        """`parts` in an event loop: the first at once, the others at most every `every_s` seconds and at the end.

        Texts that came since are one part then. The loop is not woken for what it will not give yet.
        """
        writer, pace, num_said = part_stream(self.renderer, self.sampling.stop), _Pace(), 0
        async with contextlib.aclosing(self._news(pace)) as news:
            async for some in news:
                num_said += len(some)
                if num_said > HURRY:  # a drawing, perhaps, which has its first part late
                    pace.every_s = every_s
                for part in writer.take(*(said.token_id for said in some)):
                    pace.every_s = every_s
                    yield part
        for part in writer.finish():
            yield part

    async def _news(self, pace: _Pace) -> AsyncGenerator[list[Said]]:
        """What was said since the last time, as often as `pace` says; its end is told at once.

        Who waits longer than that for the next id is told of it, and does not look for it again and again.
        """
        loop, told, at, hurries = asyncio.get_running_loop(), asyncio.Event(), 0, True

        def wake() -> None:
            if hurries or self.reason is not None:
                told.set()

        def tell() -> None:
            if hurries or self.reason is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(wake)

        with self._changed:
            self._listeners.append(tell)
        try:
            while True:
                hurries, timer = True, None
                told.clear()
                ended = self.reason is not None
                if news := self.said[at:]:
                    at += len(news)
                    yield news
                if ended:
                    return
                if news and pace.every_s:
                    hurries = False
                    told.clear()
                    if self.reason is not None:
                        continue
                    timer = loop.call_at(_next(loop.time(), pace.every_s), told.set)
                await told.wait()
                if timer is not None:
                    timer.cancel()
        finally:
            with self._changed:
                self._listeners.remove(tell)
            if self.reason is None:
                self.cancel()

    def result(self, timeout_s: float | None = None) -> Result:
        """The finished reply. TimeoutError where it takes longer, RuntimeError where the engine failed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.reason is not None, timeout_s):
                raise TimeoutError(f"no end within {timeout_s} s")
        assert self.reason is not None
        if self.reason == "error":
            raise RuntimeError(self.error)
        return Result(
            message=Message("model", cut(self.renderer.decode(self.said_ids), self.sampling.stop)),
            said=tuple(self.said),
            reason=self.reason,
            num_prompt_tokens=len(self.sequence),
            num_reused_tokens=self.num_reused or 0,
            first_s=None if self._first_s is None else self._first_s - self._submitted_s,
            total_s=self._ended_s - self._submitted_s,
        )

    async def aresult(self) -> Result:
        """`result` in an event loop."""
        async for _ in self:
            pass
        return self.result()
