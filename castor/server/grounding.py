"""Answers from file search: what a request asks of it, the passages put before the question, and what they support.

Passages stand in the last message of the user, each under a number, as `castor ask` shows them to a model. What an
answer takes from them is told by what can be seen in it: a sentence is supported by the passages whose numbers it
names, and by those in which its words stand one after the other. Nothing else is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from castor.calls import json_fields
from castor.content import Audio, Document, Image, Message, Part, Text, Video
from castor.index.answer import CITED, prompt_of
from castor.index.hits import Hit
from castor.index.words import spaced
from castor.server.bodies import texts, whole
from castor.server.errors import ApiError
from castor.server.metadata import Condition, read_filter
from castor.server.state import Record

KEYS = {"fileSearchStoreNames", "topK", "metadataFilter"}
MAX_STORES, DEFAULT_TOP_K, MAX_TOP_K = 10, 5, 50
QUOTED_WORDS, QUOTED_LETTERS = 4, 12  # of a sentence, from which on having its words in order is no chance
SENTENCE = re.compile(r"(?:[^.!?。！？\n]|[.!?](?![\s\[]|$))+[.!?。！？]*(?:\s*\[\d{1,3}\])*")
OpenStore = Callable[[str], Record]  # a store of the asking client by its name


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is asked of file search."""

    stores: tuple[Record, ...]
    top_k: int = DEFAULT_TOP_K
    condition: Condition | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A passage that was found: its store, its document, where it lies, and what a model is shown of it."""

    store: str  # its name
    document: Record
    hit: Hit
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The document's resource name."""
        return f"{self.store}/documents/{self.document.id}"

    @property
    def title(self) -> str:
        """What the document is called."""
        return self.document.body["display_name"] or self.document.id

    def chunk(self) -> dict[str, Any]:
        """The Gemini API's GroundingChunk."""
        body, place = self.document.body, self.hit.place
        context: dict[str, Any] = {"title": self.title, "text": self.hit.text, "documentName": self.name}
        context["fileSearchStore"] = self.store
        if body["metadata"]:
            context["customMetadata"] = body["metadata"]
        if place.page is not None:
            context["pageNumber"] = place.page
        if self.hit.kind not in ("text", "code"):
            context["mediaId"] = f"{self.store}/media/{self.document.id}"
        return {"retrievedContext": {key: value for key, value in context.items() if value != ""}}


def read_search(tool: object, place: str, open_store: OpenStore) -> Search:
    """The content of a fileSearch tool; ApiError names a wrong field, or a store that there is not."""
    fields = json_fields(tool, place, KEYS)
    names = texts(fields.get("fileSearchStoreNames", []), f"{place}.fileSearchStoreNames", MAX_STORES)
    if not names:
        raise ApiError(400, f"{place}.fileSearchStoreNames names no store", field=f"{place}.fileSearchStoreNames")
    condition = None
    if (said := fields.get("metadataFilter")) is not None:
        if not isinstance(said, str):
            raise ApiError(400, f"{place}.metadataFilter is a text", field=f"{place}.metadataFilter")
        condition = read_filter(said) if said.strip() else None
    return Search(
        stores=tuple(open_store(name) for name in dict.fromkeys(names)),
        top_k=whole(fields.get("topK", DEFAULT_TOP_K), f"{place}.topK", 1, MAX_TOP_K),
        condition=condition,
    )


def asked_at(messages: Sequence[Message]) -> int | None:
    """Which message is the question: the last of the user's that says or shows something."""
    shown = (Text, Image, Audio, Video, Document)
    for at in range(len(messages) - 1, -1, -1):
        if messages[at].role == "user" and any(isinstance(part, shown) for part in messages[at].parts):
            return at
    return None


def with_sources(messages: Sequence[Message], sources: Sequence[Source]) -> tuple[Message, ...]:
    """The messages with the sources, under their numbers, before the question."""
    at = asked_at(messages)
    if at is None or not sources:
        return tuple(messages)
    shown = [(replace(each.hit, path=each.title), each.parts) for each in sources]
    parts = prompt_of(shown, messages[at].parts)
    return (*messages[:at], Message("user", tuple(parts)), *messages[at + 1 :])


def grounding(sources: Sequence[Source], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """groundingMetadata of an answer's parts (JSON): all sources, and which sentence rests on which.

    Offsets are counted in bytes of UTF-8 within their part, as the API has them.
    """
    passages = [_words(each.hit.text) for each in sources]
    supports = []
    for number, part in enumerate(parts):
        if "text" not in part or part.get("thought"):
            continue
        for start, end in _sentences(part["text"]):
            said = part["text"][start:end]
            if not (found := _supporting(said, passages)):
                continue
            begin = len(part["text"][:start].encode())
            segment = {"startIndex": begin, "endIndex": begin + len(said.encode()), "text": said}
            segment |= {"partIndex": number} if number else {}
            supports.append({"segment": segment, "groundingChunkIndices": found})
    chunks = [each.chunk() for each in sources]
    return {"groundingChunks": chunks, **({"groundingSupports": supports} if supports else {})}


def citations(sources: Sequence[Source], text: str) -> list[dict[str, Any]]:
    """The same of one text as the Interactions API's annotations: one for each source of each sentence."""
    found = []
    for support in grounding(sources, [{"text": text}]).get("groundingSupports", ()):
        segment = support["segment"]
        for at in support["groundingChunkIndices"]:
            told = sources[at].chunk()["retrievedContext"]
            names = {"title": "file_name", "text": "source", "pageNumber": "page_number", "mediaId": "media_id"}
            citation = {"type": "file_citation", "document_uri": told["documentName"]}
            citation |= {names[key]: value for key, value in told.items() if key in names}
            found.append({**citation, "start_index": segment["startIndex"], "end_index": segment["endIndex"]})
    return found


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    for found in SENTENCE.finditer(text):
        said = found[0].strip()
        if said:
            start = found.start() + found[0].index(said[0])
            yield start, start + len(said)


def _supporting(sentence: str, passages: Sequence[Sequence[str]]) -> list[int]:
    """The passages that a sentence names by their numbers, or has its words from."""
    named = {int(number) - 1 for number in CITED.findall(sentence)} & set(range(len(passages)))
    words = _words(CITED.sub(" ", sentence))
    if len(words) >= QUOTED_WORDS and sum(map(len, words)) >= QUOTED_LETTERS:
        named |= {at for at, passage in enumerate(passages) if _holds(passage, words)}
    return sorted(named)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", spaced(text).lower())


def _holds(passage: Sequence[str], words: Sequence[str]) -> bool:
    return f" {' '.join(words)} " in f" {' '.join(passage)} "
