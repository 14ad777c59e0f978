"""File search: documents are brought in one after the other behind everybody else, and questions find passages.

Vectors are made by the model that the store names, through the same queue as everybody's. A server that ends while a
document is brought in does it anew when it starts again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from castor.content import FunctionCall, FunctionResponse, Message, Part, Text
from castor.index.answer import source_parts
from castor.index.embedder import has_forms, identity_of, piece_prompt, question_prompts
from castor.index.filters import Filter
from castor.index.forms import form_of, is_text, kind_of
from castor.index.hits import Hit
from castor.index.piece import Piece
from castor.index.reading import ReadingConfig, content_key, pieces_of
from castor.index.store import Entry, Header
from castor.server.answering import Answerer, Prompt, Query
from castor.server.errors import ApiError
from castor.server.grounding import Search, Source, asked_at, with_sources
from castor.server.metadata import values_of
from castor.server.service import Service
from castor.server.state import Record
from castor.server.stores import PREFIX, Stores, within
from castor.server.vectors import Wish, embed

BATCH = 16  # passages that are embedded together
BUSY = (429, 503)  # such a request is tried again
ASKED_LETTERS = 4000  # of a question, its last ones: what is searched for
ANSWER_TOKENS = 256  # left for the answer when sources are put before the question, unless less is asked for
MIME_FORMS = {"text/markdown": "markdown", "text/x-markdown": "markdown", "text/x-python": "python"}


class FileSearch:
    """The file search of one server. Its coroutines belong to one event loop."""

    def __init__(self, service: Service) -> None:
        self._service, self._news = service, asyncio.Event()
        self.stores = Stores(service.state, service.files.folder / "stores", service.config.stores_bytes)
        self._facts: weakref.WeakKeyDictionary[Answerer, tuple[str, bool]] = weakref.WeakKeyDictionary()

    # Bringing in

    async def create(self, owner: str, display_name: str, model: str | None) -> Record:
        """A store whose vectors a model makes: the one of that name, or else the server's first that can."""
        offers = self._service.models.offers
        able = [offer for offer in offers if offer.facts.vector_dim is not None]
        offer = self._service.models.find(model) if model else next(iter(able), None)
        if offer is None or offer not in able:
            known = ", ".join(offer.names[0] for offer in able) or "none; castor serve --model atom-vectors has one"
            said = f"{model} makes no vectors" if model else "file search needs a model that makes vectors"
            raise ApiError(400, f"embeddingModel: {said} (there is: {known})", field="embeddingModel")
        name = offer.names[0]
        async with self._service.models.use(name) as answerer:
            identity, _ = await self._known(answerer)
            dimensions = answerer.model.vector_dim
        assert dimensions is not None
        header = Header(model=name, identity=identity, dimensions=dimensions)
        return await asyncio.to_thread(self.stores.add, owner, display_name, header)

    def wake(self) -> None:
        """There may be something to bring in."""
        self._news.set()

    async def run(self) -> None:
        """Bring in documents, the oldest first, until cancelled."""
        await asyncio.to_thread(self.stores.tidy)
        while True:
            self._news.clear()
            while (found := await asyncio.to_thread(self.stores.waiting)) is not None:
                await self._bring_in(*found)
            await self._news.wait()

    async def _bring_in(self, store: Record, document: Record) -> None:
        try:
            await self._finish(store, document)
        except (ApiError, ValueError, OSError) as error:
            why = error.message if isinstance(error, ApiError) else str(error)
            await asyncio.to_thread(self.stores.fail, document, why[:800])

    async def _finish(self, store: Record, document: Record) -> None:
        form, key, pieces = await asyncio.to_thread(self._opened, store, document)
        if pieces is None:
            await asyncio.to_thread(self.stores.finish, store, document, None, key)
            return
        told, vectors = [], []
        while some := await asyncio.to_thread(lambda: list(itertools.islice(pieces, BATCH))):
            told += [(piece.place, piece.title, piece.text) for piece in some]
            vectors += await self._piece_vectors(store, some)
        if not told:
            raise ValueError("there is nothing in it that can be embedded")
        entry = Entry(key=key, kind=kind_of(form), pieces=told, vectors_NE=np.stack(vectors))
        await asyncio.to_thread(self.stores.finish, store, document, entry, key)

    def _opened(self, store: Record, document: Record) -> tuple[str, bytes, Iterator[Piece] | None]:
        """What form a document has, the key of its content, and its pieces (None: the index has them already)."""
        data, body = self.stores.path(store.id, document.id).read_bytes(), document.body
        form = _form_of(data, body["display_name"], body["mime_type"])
        window = body["window"]
        allowed = self._service.config.limits
        limits = dataclasses.replace(
            ReadingConfig().limits,
            max_bytes=allowed.max_bytes,
            max_pixels=allowed.max_pixels,
            max_seconds=allowed.max_seconds,
        )
        config = ReadingConfig(limits=limits)
        if window is not None:
            config = dataclasses.replace(config, window_words=window[0], overlap_words=window[1])
        key = content_key(form if window is None else f"{form} {window}", data)
        with self.stores.index(store) as index:
            is_known = key in index.store.content_ids()
        return form, key, None if is_known else pieces_of(data, form, body["display_name"] or document.id, config)

    async def _piece_vectors(self, store: Record, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """Their vectors; while the server is full, it is tried again."""
        while True:
            try:
                return await self._vectors(store, lambda forms: [piece_prompt(piece, forms) for piece in pieces])
            except ApiError as error:
                if error.status not in BUSY:
                    raise
                await asyncio.sleep(min(30.0, error.retry_after_s or 1.0))

    async def _vectors(self, store: Record, prompts: Callable[[bool], list[list[Part]]]) -> list[np.ndarray]:
        """Vectors of what `prompts` gives, once told whether texts carry the published words; of the store's model."""
        name = store.body["model"]
        async with self._service.models.use(name) as answerer:
            identity, forms = await self._known(answerer)
            if identity != store.body["identity"]:
                message = f"{PREFIX}{store.id} holds vectors of another model than what is served as {name} now"
                raise ApiError(400, message)
            make = [Wish(parts=tuple(prompt)) for prompt in prompts(forms)]
            return (await embed(self._service, name, lambda: make)).values

    async def _known(self, answerer: Answerer) -> tuple[str, bool]:
        """A model's identity, and whether its texts carry the published words."""
        if answerer not in self._facts:
            identity = await asyncio.to_thread(identity_of, answerer.model)
            self._facts[answerer] = identity, has_forms(answerer.model)
        return self._facts[answerer]

    # Finding

    async def ground(self, answerer: Answerer, query: Query, prompt: Prompt) -> tuple[Query, Prompt]:
        """A query that searches, with what was found in front of its question, and its prompt anew."""
        assert query.search is not None
        sources = await self._found(query.search, query.messages)
        return await answerer.in_thread(lambda: _shown(answerer, query, prompt, sources))

    async def _found(self, search: Search, messages: Sequence[Message]) -> list[Source]:
        at = asked_at(messages)
        parts = _searched(messages[at].parts) if at is not None else []
        if not parts:
            return []
        said = " ".join(part.text for part in parts if isinstance(part, Text))
        asked: dict[tuple[str, str], np.ndarray] = {}
        rankings: list[list[Source]] = []
        for store in search.stores:
            model = store.body["model"], store.body["identity"]
            if model not in asked:
                vectors = await self._vectors(store, lambda forms: question_prompts(parts, forms))
                asked[model] = np.stack([vectors[0], vectors[-1]])
            rankings.append(await asyncio.to_thread(self._in_store, store, asked[model], said, search))
        ranked = [(rank, -source.hit.score, source) for ranking in rankings for rank, source in enumerate(ranking)]
        return [source for _, _, source in sorted(ranked, key=lambda entry: entry[:2])][: search.top_k]

    def _in_store(self, store: Record, query_2E: np.ndarray, said: str, search: Search) -> list[Source]:
        """The best passages of one store, of documents that the filter lets pass."""
        documents = {within(document.id): document for document in self.stores.documents(store)}
        chosen = Filter()
        if (condition := search.condition) is not None:
            fitting = [path for path, each in documents.items() if condition(values_of(each.body["metadata"]))]
            chosen = Filter(files=tuple(fitting))
        with self.stores.index(store) as index:
            hits = index.found(query_2E[None], said, chosen, k=search.top_k, per_file=False)
        found = [self._source(store, documents[hit.path], hit) for hit in hits if hit.path in documents]
        return [source for source in found if source is not None]

    def _source(self, store: Record, document: Record, hit: Hit) -> Source | None:
        path = str(self.stores.path(store.id, document.id))
        parts = source_parts(dataclasses.replace(hit, path=path))
        if parts is None:
            return None
        return Source(store=f"{PREFIX}{store.id}", document=document, hit=hit, parts=tuple(parts))


def _form_of(data: bytes, name: str, mime_type: str) -> str:
    """What a document is, by its bytes, and among texts by its name and stated type; ValueError if it is not read."""
    head = data[:4096]
    form = form_of(head, name)
    if form is None and data and is_text(head):
        form = "text"
    if form is None:
        raise ValueError("not a kind of file that is read: texts, PDF, pictures, sound and film are")
    return MIME_FORMS.get(mime_type.partition(";")[0].strip().lower(), form) if form == "text" else form


def _searched(parts: Sequence[Part]) -> list[Part]:
    """What is searched for: the question's media, and the end of its text."""
    found: list[Part] = []
    room = ASKED_LETTERS
    for part in reversed(parts):
        if isinstance(part, Text):
            text = part.text[max(0, len(part.text) - room) :] if room else ""
            room -= len(text)
            found += [Text(text)] if text.strip() else []
        elif not isinstance(part, FunctionCall | FunctionResponse):
            found.append(part)
    return found[::-1]


def _shown(answerer: Answerer, query: Query, prompt: Prompt, sources: Sequence[Source]) -> tuple[Query, Prompt]:
    """As many of the sources as fit, the farthest left out; media that the model cannot read by their text, or not."""
    sources = [read for source in sources if (read := _readable(answerer, source)) is not None]
    room = answerer.max_positions - min(ANSWER_TOKENS, query.samplings[0].max_tokens)
    while sources:
        shown = dataclasses.replace(query, messages=with_sources(query.messages, sources), sources=tuple(sources))
        sequence = answerer.render(shown)
        if len(sequence) <= room:
            counts: dict[Any, int] = dict(answerer.count(shown.messages, sequence))
            more = {name: count - prompt.tokens.get(name, 0) for name, count in counts.items()}
            return shown, Prompt(sequence, prompt.tokens, {name: max(0, count) for name, count in more.items()})
        sources.pop()
    return query, prompt


def _readable(answerer: Answerer, source: Source) -> Source | None:
    if all(isinstance(part, Text) for part in source.parts):
        return source
    try:
        answerer.render(Query(messages=(Message.user(*source.parts),)))
    except ValueError:
        text = source.hit.text
        return dataclasses.replace(source, parts=(Text(text),)) if text else None
    return source
