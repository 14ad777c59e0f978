"""What every route works with, and the course of a request that is answered by the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from castor.content import Part
from castor.server.answering import Answerer, End, Modality, Prompt, Query
from castor.server.bodies import number, parse_object, read_body, whole
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.server.fetch import Fetcher
from castor.server.files import FileStore
from castor.server.measures import Measures
from castor.server.models import Models
from castor.server.safety import Classifier
from castor.server.state import State

if TYPE_CHECKING:
    from castor.server.batches import Batches
    from castor.server.file_search import FileSearch

T = TypeVar("T")
SMALL_BYTES = 16_384  # of JSON: parsed sooner than a thread would have begun
HEAD_S = 10.0  # a stream's head is sent by then: some clients wait a minute for it, and a long prompt may take longer


@dataclass(kw_only=True)
class Service:
    """A server's models, settings and state; `request.app.state.service` in a route."""

    models: Models
    config: ServerConfig
    files: FileStore
    measures: Measures
    state: State
    batches: Batches = field(init=False)
    file_search: FileSearch = field(init=False)
    classifier: Classifier | None = None  # rates texts
    fetcher: Fetcher | None = None  # None: nothing is fetched from addresses
    started_s: float = field(default_factory=time.time)
    is_draining: bool = False

    @property
    def answerer(self) -> Answerer:
        """That of the first model, which must be loaded."""
        answerer = self.models.offers[0].answerer
        assert answerer is not None
        return answerer


@dataclass
class Talk:
    """A prompt that holds a place, and the tokens said so far."""

    service: Service
    answerer: Answerer
    query: Query
    prompt: Prompt
    said: dict[Modality, int] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)  # candidates that nobody wants to hear on
    num_thought: int = 0  # tokens of thoughts among those said
    num_reused: int = 0  # of the prompt's tokens, known once the first candidate has ended

    @property
    def answered(self) -> Mapping[Modality, int]:
        """The tokens said so far, thoughts left out."""
        return {**self.said, "TEXT": self.said["TEXT"] - self.num_thought} if self.num_thought else self.said

    async def items(self) -> AsyncIterator[tuple[int, Part | End]]:
        """The parts of every candidate with its number, one candidate after the other."""
        started_s, measures, is_first = time.monotonic(), self.service.measures, True
        try:
            for index, sampling in enumerate(self.query.samplings):
                async with aclosing(self.answerer.answer(self.query, self.prompt, sampling)) as answer:
                    async for item in answer:
                        if is_first:
                            measures.first_token.observe(time.monotonic() - started_s)
                            is_first = False
                        if isinstance(item, End):
                            self._count(item)
                        yield index, item
                        if index in self.stopped:
                            break
        except TimeoutError:
            raise ApiError(504, f"the answer was not done within {self.query.deadline_s:g} s") from None
        except ValueError as error:
            raise ApiError(400, str(error)) from None

    def _count(self, end: End) -> None:
        self.num_reused = self.num_reused or end.num_reused
        self.num_thought += end.num_thought
        self.service.measures.reused.inc(end.num_reused)
        self.service.measures.count_tokens("answer", end.tokens)
        for modality, count in end.tokens.items():
            self.said[modality] = self.said.get(modality, 0) + count


def service_of(request: Request) -> Service:
    """The service behind a request."""
    return request.app.state.service


async def json_of(request: Request) -> dict[str, Any]:
    """A request's JSON object, parsed in a thread unless it is small."""
    config = service_of(request).config
    body = await read_body(request, config.max_body_bytes, config.body_timeout_s)
    return parse_object(body) if len(body) < SMALL_BYTES else await asyncio.to_thread(parse_object, body)


def model_of(body: Mapping[str, Any]) -> str:
    """The name in a body's field `model`; ApiError 400 where there is none."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "model must be the name of a model", field="model")
    return name


def deadline_of(request: Request) -> float | None:
    """Seconds that the client waits, where it says so."""
    stated = request.headers.get("x-server-timeout")
    return None if stated is None else number(stated, "X-Server-Timeout", 0.001, 86_400)


def page_of(request: Request, items: list[Any], key: str) -> dict[str, Any]:
    """One page of a list by pageSize and pageToken, with the token of the next page where there is one."""
    size = whole(request.query_params.get("pageSize") or "50", "pageSize", 0, 1_000_000) or 50
    start = whole(request.query_params.get("pageToken") or "0", "pageToken", 0, 1_000_000)
    more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
    return {key: items[start : start + size], **more}


@asynccontextmanager
async def talk(service: Service, name: str, make: Callable[[], Query]) -> AsyncGenerator[Talk]:
    """Take a place at the model of that name, read what `make` gives, and hold the place until the answer is over."""
    async with service.models.use(name) as answerer:
        with answerer.place():
            yield await begin(service, answerer, make)


async def begin(service: Service, answerer: Answerer, make: Callable[[], Query]) -> Talk:
    """Read what `make` gives; ApiError 400 says what is wrong with it."""
    try:
        query, prompt = await answerer.read(make)
        if query.search is not None:
            query, prompt = await service.file_search.ground(answerer, query, prompt)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    for tokens in (prompt.tokens, prompt.found):
        service.measures.count_tokens("prompt", tokens)
    return Talk(service, answerer, query, prompt)


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled once the client has hung up (ApiError 499, that nobody reads)."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection")
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def begun(request: Request, pieces: AsyncIterator[T]) -> AsyncIterator[T]:
    """A stream's pieces, once the first is there or HEAD_S have passed.

    What goes wrong until then is raised here, and so gets a status of its own; afterwards it is raised in the stream.
    """
    first = asyncio.ensure_future(anext(pieces))
    try:
        await while_there(request, _settled(first))
        if first.done():
            first.result()
    except (ApiError, asyncio.CancelledError):
        first.cancel()
        raise
    return _going_on(first, pieces)


class Streamed(StreamingResponse):
    """A stream that ends when its client does, without a task group, which would cost more than all else of a piece."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces; who leaves is noticed at once, not at the next piece."""
        work, left = asyncio.current_task(), False
        assert work is not None

        def leave(watch: asyncio.Task[None]) -> None:
            nonlocal left
            if not watch.cancelled():
                left = True
                work.cancel()

        watch = asyncio.create_task(self.listen_for_disconnect(receive))
        watch.add_done_callback(leave)
        try:
            await self.stream_response(send)
        except asyncio.CancelledError:
            if not left or work.uncancel():  # the server itself is ending
                raise
        finally:
            watch.remove_done_callback(leave)
            watch.cancel()


async def _settled(first: asyncio.Future[Any]) -> None:
    await asyncio.wait((first,), timeout=HEAD_S)


async def _going_on(first: asyncio.Future[T], rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield await first
    async for piece in rest:
        yield piece


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
