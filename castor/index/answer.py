"""Answers from an index: the pieces nearest to a question are shown to a model that writes, each under a number.

    [1] lease.pdf, page 2
    <the page>
    [2] notes.md, lines 3-9
    <the lines>
    Answer from the sources above ... Question: When does the lease end?

The numbers that the answer names are its citations. Of these only the numbers of real sources count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.content import Audio, Document, Image, Part, Text, Video
from castor.engine.model import Model
from castor.index.hits import Hit
from castor.index.index import Index
from castor.index.reading import FRAMES_PER_SECOND, ReadingConfig
from castor.media.audio import RATE_HZ
from castor.media.document import split_pages
from castor.media.limits import MediaError
from castor.media.segments import video_seconds, video_segments
from castor.media.source import read_file

CITED = re.compile(r"\[(\d{1,3})\]")
ASKED = (
    "Answer the question from the sources above alone, and name each one you use by its number, like [1].\nQuestion: "
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said, the sources that it was given, and the numbers (from 1) of those it names."""

    text: str
    sources: tuple[Hit, ...]
    cited: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for pipes."""
        sources = [{"number": at, **hit.to_json()} for at, hit in enumerate(self.sources, start=1)]
        return {"answer": self.text, "cited": list(self.cited), "sources": sources}


def answer(index: Index, writer: Model, question: Sequence[Part | str], *, k: int = 5, **options: Any) -> Answer:
    """The answer of `writer` to texts and media, from the k nearest pieces. `options`: of `Filter`, and of sampling.

    Sources that do not fit into the writer's length are left out, the farthest first; ValueError if nothing is found.
    """
    names = ("kinds", "paths", "after", "before")
    filters = {name: options.pop(name) for name in names if name in options}
    hits = index.search(*question, k=k, per_file=False, **filters)
    shown = [(hit, parts) for hit in hits if (parts := source_parts(hit)) is not None]
    if not shown:
        raise ValueError(f"{index.folder}: nothing in this index is near the question")
    asked = [Text(part) if isinstance(part, str) else part for part in question]
    most = writer.decoder.config.text.max_position_embeddings - options.get("max_tokens", 256)
    while True:
        prompt = prompt_of(shown, asked)
        if len(shown) == 1 or _length(writer, prompt) <= most:
            break
        shown.pop()
    text = writer.generate(prompt, **options).text.strip()
    cited = sorted({int(number) for number in CITED.findall(text) if 1 <= int(number) <= len(shown)})
    return Answer(text=text, sources=tuple(hit for hit, _ in shown), cited=tuple(cited))


def prompt_of(shown: Sequence[tuple[Hit, Sequence[Part]]], question: Sequence[Part]) -> list[Part]:
    """One message: the sources under their numbers, then what is asked."""
    prompt: list[Part] = []
    for number, (hit, parts) in enumerate(shown, start=1):
        place = f", {hit.place}" if str(hit.place) else ""
        prompt += [Text(f"[{number}] {Path(hit.path).name}{place}\n"), *parts, Text("\n")]
    return [*prompt, Text(ASKED), *question]


def source_parts(hit: Hit) -> list[Part] | None:
    """The piece itself, read from its file anew; None where that is gone or no longer readable."""
    if hit.kind in ("text", "code"):
        return [Text(hit.text)]
    limits, name, place = ReadingConfig().limits, Path(hit.path).name, hit.place
    try:
        data = read_file(hit.path, name, limits)
        if hit.kind == "image":
            return [Image(data, name=name, limits=limits)]
        if hit.kind == "document":
            pages = (page for at, (page, _) in enumerate(split_pages(data, name, limits), start=1) if at == place.page)
            page = next(pages, None)
            return None if page is None else [Document(page, name=name), *([Text(hit.text)] if hit.text else [])]
        if hit.kind == "audio":
            samples_S = Audio(data, name=name, limits=limits).samples()
            start, end = (int((at or 0.0) * RATE_HZ) for at in (place.start_s, place.end_s))
            return [Audio.from_samples(samples_S[start:end], name=name)] if end > start else None
        return [_film(data, name, hit)]
    except MediaError:
        return None


def _film(data: bytes, name: str, hit: Hit) -> Video:
    config, start_s = ReadingConfig(), hit.place.start_s or 0.0
    if video_seconds(data, name, config.limits) <= config.longest_s:
        return Video(data, name=name, limits=config.limits)
    segments = video_segments(data, name, config.limits, config.longest_s, FRAMES_PER_SECOND, start_s + 0.1)
    for segment in segments:
        rate = len(segment.frames_FHWC) / (segment.end_s - segment.start_s)
        return Video.from_frames(segment.frames_FHWC, rate, segment.samples_S, name)
    raise MediaError(f"{name}: the film no longer reaches {hit.place}")


def _length(writer: Model, prompt: Sequence[Part]) -> int:
    from castor.content import Message

    return len(writer.encode_prompt([Message.user(*prompt)]))
