"""The seam between server and model: prompts are read in threads, and one engine answers all of them together.

A request takes a place before its prompt is read, and there are only so many places. Whoever stops listening to an
answer ends it, at the next token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from castor.content import Document, Image, Message, Part
from castor.engine.engine import Engine, EngineConfig, QueueFull
from castor.engine.model import Model
from castor.engine.request import Request, Said
from castor.engine.sample import SamplingConfig
from castor.media.limits import Limits
from castor.server.errors import ApiError
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.sequence import Sequence
from castor.tokens.space import IdSpace

if TYPE_CHECKING:
    from castor.server.grounding import Search, Source

Modality = Literal["TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT"]
Tokens = Mapping[Modality, int]
T = TypeVar("T")
STEP_TOKENS = 512  # read in one step of the engine
CALM = 8  # requests beyond which pieces come less often, so that the pieces of all are no more than those of so many
QUICK_TOKENS, QUICK_BYTES = 2048, 2**18  # of prompts, and of their media, that are handed over without a thread


@dataclass(frozen=True, kw_only=True)
class Calling:
    """An answer that is held to the schemas of functions: which, whether it must call one, and how many calls."""

    names: tuple[str, ...]
    must: bool = True
    most: int = 8


def calling_of(names: Seq[str], tools: Seq[Mapping[str, Any]], place: str, **options: Any) -> Calling:
    """An answer that is held to some of the functions declared (no names: to all); ApiError 400 for what there is not.

    `options` are those of `Calling`.
    """
    known = [str(tool.get("name")) for tool in tools]
    if not known:
        raise ApiError(400, f"{place}: no functions are declared that could be called", field=place)
    if unknown := [name for name in names if name not in known]:
        raise ApiError(400, f"{place}: no function is called {unknown[0]!r:.60}", field=place)
    return Calling(names=tuple(names or known), **options)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a client asks, whichever API it speaks."""

    messages: tuple[Message, ...]
    samplings: tuple[SamplingConfig, ...] = (SamplingConfig(),)  # one for each candidate
    draws: bool = True  # whether the answer may hold pictures
    writes: bool = True  # whether the answer's text is wanted
    tools: tuple[Mapping[str, Any], ...] = ()
    calling: Calling | None = None  # None: as the model likes
    thinking: bool = False
    shows_thoughts: bool = False
    deadline_s: float | None = None
    blocks: Mapping[str, int] = field(default_factory=dict)  # categories of texts, and from which level on
    priority: int = 0  # of higher priority first
    search: Search | None = None  # in files, before the answer
    sources: tuple[Source, ...] = ()  # that were found, and stand before the question


class Prompt(NamedTuple):
    """A rendered prompt and its tokens by modality: the client's own, and those that a search put beside them."""

    sequence: Sequence
    tokens: Tokens
    found: Tokens = MappingProxyType({})


class End(NamedTuple):
    """How an answer ended, the tokens that were said, and each of them."""

    reason: Literal["stop", "length"]
    tokens: Tokens
    said: tuple[Said, ...]
    num_reused: int  # tokens of the prompt that were known from earlier ones
    num_thought: int  # of the tokens said, those of thoughts


class Answerer:
    """Answers for one model. Its methods belong to one event loop; `close` ends its threads."""

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 16,
        max_waiting: int = 16,
        piece_s: float = 0.0,
        limits: Limits | None = None,
    ) -> None:
        """`max_rows` requests are answered together, and `max_waiting` more may wait; `piece_s` between two parts,
        longer where many are answered."""
        self.model, self.max_rows, self.num_places = model, max_rows, max_rows + max_waiting
        self.piece_s = piece_s
        if limits is not None:
            model.renderer.limits = limits
        self.num_inside = 0
        self._mean_s = 1.0  # of recent answers
        config = EngineConfig(max_rows=max_rows, max_waiting=self.num_places, token_budget=STEP_TOKENS + max_rows)
        self.engine = Engine(model, config).start()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="castor-reads")

    def close(self) -> None:
        """End the threads; answers under way are broken off."""
        self._readers.shutdown(cancel_futures=True)
        self.engine.close()

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
        return self.num_inside >= self.num_places

    @property
    def _wait_s(self) -> float:
        """Roughly until a place is free."""
        return self._mean_s * self.num_inside / self.max_rows

    @contextmanager
    def place(self) -> Generator[None]:
        """A place among those who are answered or wait; ApiError 429 where there is none."""
        if self.is_full:
            message = f"{self.num_inside} requests are under way and no more may wait; try again later"
            raise ApiError(429, message, retry_after_s=self._wait_s)
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    async def read(self, make: Callable[[], Query]) -> tuple[Query, Prompt]:
        """What `make` reads from a request, and its prompt rendered, both in a thread. ValueError: it cannot be."""
        return await self.in_thread(lambda: self._read(make))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in one of the threads that read."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def count(self, messages: Seq[Message], sequence: Sequence) -> Tokens:
        """Tokens of a prompt by modality; marks around media and times of frames count as text."""
        return _count(self.model, messages, sequence)

    def _read(self, make: Callable[[], Query]) -> tuple[Query, Prompt]:
        query = self._held(make())
        sequence = self.render(query)
        self.model.decoder.check_length(len(sequence), 1)
        return query, Prompt(sequence, self.count(query.messages, sequence))

    def _held(self, query: Query) -> Query:
        """The query with the grammar of its functions, where the answer is held to them."""
        calling, renderer = query.calling, self.model.renderer
        if calling is None or not isinstance(renderer, GemmaRenderer):
            return query
        chosen = [tool for tool in query.tools if tool.get("name") in calling.names]
        options = {"must": calling.must, "most": calling.most, "thinks": query.thinking}
        grammar = renderer.call_grammar(chosen, **options)
        samplings = tuple(dataclasses.replace(each, response_grammar=grammar) for each in query.samplings)
        return dataclasses.replace(query, samplings=samplings)

    def render(self, query: Query, *, reply: bool = True) -> Sequence:
        """The prompt of a query, up to where the answer begins or, without `reply`, up to the end of what was said."""
        renderer = self.model.renderer
        if isinstance(renderer, GemmaRenderer):
            return renderer.encode(query.messages, reply=reply, tools=query.tools, thinking=query.thinking)
        if query.tools:
            raise ValueError("tools: this model knows no functions")
        return renderer.encode(query.messages, reply=reply)

    async def answer(self, query: Query, prompt: Prompt, sampling: SamplingConfig) -> AsyncGenerator[Part | End]:
        """The parts of one answer as they come, and last its End; who leaves before that cancels it.

        TimeoutError at the query's deadline, ApiError where the engine can take no more or fails.
        """
        room, started_s = self.max_positions - len(prompt.sequence), time.monotonic()
        draws = query.draws and self.can_draw
        must_draw = draws and not query.writes and sampling.response_grammar is None
        sampling = dataclasses.replace(
            sampling, max_tokens=min(sampling.max_tokens, room), may_draw=draws, must_draw=must_draw
        )
        request = await self.submit(prompt.sequence, sampling, query.deadline_s, query.priority)
        try:
            async for part in request.aparts(self.piece_s * max(1.0, self.num_inside / CALM)):
                yield part
            yield self._end(request)
        finally:
            request.cancel()
            self._mean_s += 0.2 * (time.monotonic() - started_s - self._mean_s)

    async def submit(
        self, sequence: Sequence, sampling: SamplingConfig, deadline_s: float | None, priority: int = 0
    ) -> Request:
        """Hand a prompt to the engine; in a thread where grammars, or digests of media, take their time."""
        hand_over = partial(self.engine.submit_tokens, sequence, sampling, deadline_s=deadline_s, priority=priority)
        try:
            if _is_quick(sequence, sampling):
                return hand_over()
            pending = self._readers.submit(hand_over)
            try:
                return await asyncio.wrap_future(pending)
            except asyncio.CancelledError:
                pending.add_done_callback(_cancel)
                raise
        except QueueFull as error:
            raise ApiError(429, f"{error}; try again later", retry_after_s=self._wait_s) from None
        except RuntimeError:
            if not self.engine.is_closed:
                raise
            raise ApiError(503, "this server's model answers no more; the server must be started again") from None

    def _end(self, request: Request) -> End:
        """How a request ended; TimeoutError and ApiError as for `answer`."""
        reason = request.reason
        if reason == "deadline":
            raise TimeoutError
        if reason == "memory":
            raise ApiError(503, "no memory is left for this answer; try again later", retry_after_s=self._wait_s)
        if reason == "cancelled":
            raise ApiError(503, "the server ended before this answer did")
        if reason == "error":
            raise ApiError(500, f"the server failed at this answer: {request.error}")
        assert reason is not None, "parts end with the request"
        space, ids = self.model.renderer.space, request.said_ids
        drawn = sum(i >= space.num_text for i in ids) if isinstance(space, IdSpace) else 0
        tokens: Tokens = {"TEXT": len(ids) - drawn, "IMAGE": drawn}
        return End(reason, tokens, tuple(request.said), request.num_reused or 0, _num_thought(self.model, ids))


def _num_thought(model: Model, ids: Seq[int]) -> int:
    """How many of a reply's ids are of thoughts, their marks included."""
    if not isinstance(model.renderer, GemmaRenderer):
        return 0
    begin, end = (model.renderer.space.specials.get(name) for name in ("<|channel>", "<channel|>"))
    count, is_thought = 0, False
    for token_id in ids:
        is_thought = is_thought or token_id == begin
        count += is_thought
        is_thought = is_thought and token_id != end
    return count


def _is_quick(sequence: Sequence, sampling: SamplingConfig) -> bool:
    """Whether the engine takes a prompt within a moment."""
    grammars = (sampling.response_schema, sampling.response_regex, sampling.response_grammar)
    features = sequence.patches_PC.nbytes + sequence.frames_SF.nbytes
    return len(sequence) < QUICK_TOKENS and features < QUICK_BYTES and not any(each is not None for each in grammars)


def _cancel(pending: Future[Request]) -> None:
    if not pending.cancelled() and pending.exception() is None:
        pending.result().cancel()


def _count(model: Model, messages: Seq[Message], sequence: Sequence) -> Tokens:
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
