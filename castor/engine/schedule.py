"""Scheduler: which tokens of which requests are computed in the next step. Knows blocks and numbers, no tensors.

A step carries the last id of every request that speaks, and in what is left of the token budget the next chunk of those
that still read, the earliest first. A request that needs a block when none is free takes those of the latest one that
runs, which waits again and later computes anew; the earliest never gives way, so that all of them end. Where few speak,
guesses at what they say next may be computed behind their last id (`draft.py`), each a span of its own.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from castor.engine.blocks import Blocks
from castor.engine.draft import MOST_SPEAKING
from castor.engine.request import Request


class Span(NamedTuple):
    """Tokens of a request to be computed in one step, from `start` up to `stop`."""

    request: Request
    start: int
    stop: int
    guess: int | None = None  # an id in place of one that was said

    @property
    def is_last(self) -> bool:
        """Whether an id is chosen after it."""
        return self.guess is not None or self.stop == len(self.request.ids)

    @property
    def last_id(self) -> int:
        """The id that it ends with, where it is one of a reply."""
        return self.request.ids[-1] if self.guess is None else self.guess


class Scheduler:
    """Requests that wait and requests that run, in their order."""

    def __init__(
        self, blocks: Blocks, *, max_rows: int, token_budget: int, reuse_prefixes: bool = True, num_guesses: int = 0
    ) -> None:
        """`num_guesses`: of each request that speaks, at most, where few do."""
        self.blocks, self.max_rows, self.token_budget = blocks, max_rows, token_budget
        self.reuse_prefixes, self.num_guesses = reuse_prefixes, num_guesses
        self.running: list[Request] = []
        self.exhausted: Request | None = None  # found no room in the last plan, though it was alone
        self._waiting: list[tuple[tuple[int, int], Request]] = []

    @property
    def waiting(self) -> list[Request]:
        """Those that wait, in no order."""
        return [request for _, request in self._waiting]

    @property
    def num_waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """One more that waits."""
        request.tables = self.blocks.new_tables()
        heapq.heappush(self._waiting, (request.order, request))

    def remove(self, request: Request) -> None:
        """Forget a request, wherever it is, and free what it holds."""
        self.blocks.release(request.tables)
        if request in self.running:
            self.running.remove(request)
        else:
            self._waiting = [entry for entry in self._waiting if entry[1] is not request]
            heapq.heapify(self._waiting)

    def plan(self) -> list[Span]:
        """The next step; blocks for it are taken. Empty where nothing runs or waits, or all blocks are `exhausted`."""
        self.exhausted = None
        self.running.sort(key=lambda request: request.order)
        spans: list[Span] = []
        budget = self.token_budget - sum(not request.is_reading for request in self.running)
        num_before, at = len(self.running), 0
        while at < len(self.running):  # the list loses its last ones where blocks run out
            request = self.running[at]
            stop = self._chunk_end(request, budget, is_first=not any(span.request.is_reading for span in spans))
            if stop > request.num_computed and self._secure(request, stop):
                spans.append(Span(request, request.num_computed, stop))
                budget -= stop - request.num_computed if request.is_reading else 0
            at += 1
        if len(self.running) == num_before:  # else there are no blocks to begin or guess anything with
            speaking = [span.request for span in spans if not span.request.is_reading]
            for request in speaking if self.num_guesses and len(speaking) <= MOST_SPEAKING else ():
                guesses = self._guesses(request, budget)
                spans, budget = spans + guesses, budget - len(guesses)
            self._admit(spans, budget)
        return spans

    def _guesses(self, request: Request, budget: int) -> list[Span]:
        """Spans of guesses behind the last id, where there are blocks that nobody who runs needs now."""
        stop, left = len(request.ids), request.sampling.max_tokens - len(request.said) - 1
        guesses = request.lookup.guess(request.ids, min(self.num_guesses, budget, left))
        if not self.blocks.grow(request.tables, stop + len(guesses)):
            return []
        return [Span(request, stop + at, stop + at + 1, guess) for at, guess in enumerate(guesses)]

    def advance(self, span: Span) -> None:
        """A span was computed: what is full can be used by others, what nobody looks at any more is free."""
        request = span.request
        request.num_computed = span.stop
        size = self.blocks.block_tokens
        if self.reuse_prefixes and span.stop // size > span.start // size:
            self.blocks.name(request.tables, request.prefix.keys(request.ids, span.stop))
        self.blocks.slide(request.tables, span.stop)

    def fits(self, request: Request, num_tokens: int) -> bool:
        """Whether a request could ever be computed up to `num_tokens`."""
        return self.blocks.fits(num_tokens, self._most_at_once(request))

    def _admit(self, spans: list[Span], budget: int) -> None:
        """Begin with those that wait, in their order; none overtakes another that does not fit yet."""
        while self._waiting and len(self.running) < self.max_rows and budget > 0:
            request = self._waiting[0][1]
            if self.reuse_prefixes:
                keys = request.prefix.keys(request.ids, len(request.ids) - 1)
                request.num_computed = self.blocks.reuse(request.tables, keys)
            is_first = not any(span.request.is_reading for span in spans)
            stop = self._chunk_end(request, budget, is_first=is_first)
            # each that runs may need one more block soon: not to be preempted at once, leave it
            room = len(request.ids) + len(self.running) * self.blocks.block_tokens
            has_room = self.blocks.has_room(request.tables, room, self._most_at_once(request)) or not self.running
            if stop == request.num_computed or not has_room or not self.blocks.grow(request.tables, stop):
                self.blocks.release(request.tables)
                request.num_computed = 0
                return
            heapq.heappop(self._waiting)
            self.running.append(request)
            request.num_reused = request.num_computed if request.num_reused is None else request.num_reused
            spans.append(Span(request, request.num_computed, stop))
            budget -= stop - request.num_computed

    def _chunk_end(self, request: Request, budget: int, *, is_first: bool) -> int:
        """Where the next chunk ends: within the budget, in no picture. The first to read gets on whatever it costs."""
        if not request.is_reading:
            return len(request.ids)
        end = min(len(request.ids), request.num_computed + max(budget, 0))
        while end > request.num_computed and not request.prefix.may_split(end):
            end -= 1
        if end == request.num_computed and is_first:
            end += 1
            while not request.prefix.may_split(end):
                end += 1
        return end

    def _most_at_once(self, request: Request) -> int:
        return max(self.token_budget, request.prefix.longest_picture)

    def _secure(self, request: Request, stop: int) -> bool:
        """Blocks up to `stop`, if need be those of later requests; False where it had to give way itself."""
        while not self.blocks.grow(request.tables, stop):
            latest = self.running[-1]
            if latest is request and len(self.running) == 1:  # a picture past the limit that it came with
                self.exhausted = request
                return False
            self.preempt(latest)
            if latest is request:
                return False
        return True

    def preempt(self, request: Request) -> None:
        """Take all blocks of one that runs; it waits in its place in the order, and computes anew what it had."""
        self.running.remove(request)
        self.blocks.release(request.tables)
        request.num_computed, request.entering = 0, None
        request.num_preempted += 1
        heapq.heappush(self._waiting, (request.order, request))
