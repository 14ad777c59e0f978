"""The seam between server and model: prompts are read in threads, answers come from one thread, one at a time.

A request takes a place before its prompt is read, and there are only so many places. Whoever stops listening to an
answer ends it, at the next token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from castor.content import Document, Image, Message, Part
from castor.engine.generate import generate_ids
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.engine.stream import PartStream, TextStream
from castor.media.limits import Limits
from castor.server.errors import ApiError
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.sequence import Sequence
from castor.tokens.space import IdSpace

Modality = Literal["TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT"]
Tokens = Mapping[Modality, int]


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a client asks, whichever API it speaks."""

    messages: tuple[Message, ...]
    samplings: tuple[SamplingConfig, ...] = (SamplingConfig(),)  # one for each candidate
    draws: bool = True  # whether the answer may hold pictures
    writes: bool = True  # whether the answer's text is wanted
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False
    shows_thoughts: bool = False
    deadline_s: float | None = None


class Prompt(NamedTuple):
    """A rendered prompt and its tokens by modality."""

    sequence: Sequence
    tokens: Tokens


class End(NamedTuple):
    """How an answer ended, and the tokens that were said."""

    reason: Literal["stop", "length"]
    tokens: Tokens


class Answerer:
    """Answers for one model. Its methods belong to one event loop; `close` ends its threads."""

    def __init__(self, model: Model, *, max_waiting: int = 16, limits: Limits | None = None) -> None:
        self.model, self.max_waiting = model, max_waiting
        if limits is not None:
            model.renderer.limits = limits
        self.num_inside = 0
        self._mean_s = 1.0  # of recent answers
        self._speaker = ThreadPoolExecutor(1, thread_name_prefix="castor-answers")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="castor-reads")

    def close(self) -> None:
        """End the threads once what they do is done."""
        self._speaker.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    @property
    def can_draw(self) -> bool:
        """Whether answers may hold pictures."""
        return self.model.codec is not None

    @property
    def knows_tools(self) -> bool:
        """Whether functions can be declared to this model, and thinking asked for."""
        return isinstance(self.model.renderer, GemmaRenderer)

    @property
    def max_positions(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.model.decoder.config.text.max_position_embeddings

    @property
    def is_full(self) -> bool:
        """Whether there is no place for one more request."""
        return self.num_inside > self.max_waiting

    @contextmanager
    def place(self) -> Generator[None]:
        """A place among those who are answered or wait; ApiError 429 where there is none."""
        if self.is_full:
            message = f"{self.num_inside} requests are under way and no more may wait; try again later"
            raise ApiError(429, message, retry_after_s=self._mean_s * self.num_inside)
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    async def read(self, make: Callable[[], Query]) -> tuple[Query, Prompt]:
        """What `make` reads from a request, and its prompt rendered, both in a thread. ValueError: it cannot be."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, make)

    def _read(self, make: Callable[[], Query]) -> tuple[Query, Prompt]:
        query, renderer = make(), self.model.renderer
        if isinstance(renderer, GemmaRenderer):
            sequence = renderer.encode(query.messages, reply=True, tools=query.tools, thinking=query.thinking)
        elif query.tools:
            raise ValueError("tools: this model knows no functions")
        else:
            sequence = renderer.encode(query.messages, reply=True)
        self.model.decoder.check_length(len(sequence), 1)
        return query, Prompt(sequence, _count(self.model, query.messages, sequence))

    async def answer(self, query: Query, prompt: Prompt, sampling: SamplingConfig) -> AsyncIterator[Part | End]:
        """The parts of one answer as they come, and last its End. TimeoutError at the query's deadline."""
        room = self.max_positions - len(prompt.sequence)
        sampling = dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, room))
        loop, started_s = asyncio.get_running_loop(), time.monotonic()
        job = _Job(self.model, prompt.sequence, sampling, query.draws and self.can_draw, loop)
        future = loop.run_in_executor(self._speaker, job.run)
        end_s = None if query.deadline_s is None else started_s + query.deadline_s
        try:
            while True:  # no timeout around a yield: what follows may run in another task
                left_s = None if end_s is None else end_s - time.monotonic()
                if (item := await asyncio.wait_for(job.said.get(), left_s)) is None:
                    break
                yield item
            await future
        finally:
            job.is_cancelled.set()
            future.cancel()
            self._mean_s += 0.2 * (time.monotonic() - started_s - self._mean_s)


@dataclass
class _Job:
    """One answer in the making. `run` belongs to the answering thread, `said` to the event loop."""

    model: Model
    sequence: Sequence
    sampling: SamplingConfig
    draws: bool
    loop: asyncio.AbstractEventLoop
    said: asyncio.Queue[Part | End | None] = field(default_factory=asyncio.Queue)
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Say everything, then None; an error reaches whoever awaits the thread."""
        try:
            for item in self._items():
                self._send(item)
        finally:
            self._send(None)

    def _send(self, item: Part | End | None) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.said.put_nowait, item)

    def _items(self) -> Iterator[Part | End]:
        renderer, stop = self.model.renderer, self.sampling.stop
        writer = PartStream(renderer, stop) if isinstance(renderer, GemmaRenderer) else TextStream(renderer, stop)
        ids: list[int] = []
        for _, token_id in generate_ids(self.model.decoder, renderer, [self.sequence], self.sampling, draw=self.draws):
            if self.is_cancelled.is_set():
                return
            ids.append(token_id)
            yield from writer.take(token_id)
        yield from writer.finish()
        text = renderer.tokenizer.decode([i for i in ids if i < renderer.space.num_text]) if stop else ""
        is_long = len(ids) >= self.sampling.max_tokens and not any(word in text for word in stop)
        drawn = sum(i >= renderer.space.num_text for i in ids) if isinstance(renderer.space, IdSpace) else 0
        yield End("length" if is_long else "stop", {"TEXT": len(ids) - drawn, "IMAGE": drawn})


def _count(model: Model, messages: Seq[Message], sequence: Sequence) -> Tokens:
    """Tokens of a prompt by modality; marks around media and times of frames count as text."""
    space, ids_T = model.renderer.space, sequence.ids_T
    counts: dict[Modality, int] = dict.fromkeys(("TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT"), 0)
    counts["AUDIO"] = len(sequence.frame_at_S)
    if len(sequence.patch_at_P):
        is_frame_P = ids_T[sequence.patch_at_P] == space.special("<|video|>")
        counts["VIDEO"] = int(is_frame_P.sum())
        block_P = sequence.block_T[sequence.patch_at_P][~is_frame_P]
        kinds = iter(_still_kinds(messages, model.renderer.limits))
        kind_of: dict[int, Modality] = {}
        for block in block_P.tolist():
            if block not in kind_of:
                kind_of[block] = next(kinds, "IMAGE")
            counts[kind_of[block]] += 1
    if isinstance(space, IdSpace):
        counts["IMAGE"] += int((ids_T >= space.first_code).sum())
    counts["TEXT"] = len(ids_T) - sum(counts.values())
    return counts


def _still_kinds(messages: Seq[Message], limits: Limits) -> Iterator[Modality]:
    """For every picture and page that is read, in order, which it is."""
    for part in (part for message in messages if message.role != "model" for part in message.parts):
        if isinstance(part, Image):
            yield "IMAGE"
        elif isinstance(part, Document):
            yield from ("DOCUMENT" for _ in part.pages(limits, dpi=9.0))  # drawn small, only to be counted
