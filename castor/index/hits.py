"""What a search gives: pieces with their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from castor.index.filters import Filter
from castor.index.piece import Place
from castor.index.store import Store

SNIPPET = 160  # characters
FIRST_S, LAST_S = -62_135_424_000, 253_402_128_000  # a day within the years 1 to 9999, wherever one is


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A piece that was found. `score` is the cosine to the question; `found_by` of "meaning", "words", "name"."""

    path: str
    kind: str
    place: Place
    score: float
    text: str = ""
    title: str = ""
    date_s: float = 0.0
    also: tuple[str, ...] = ()  # other files with the same content
    more: tuple[Place, ...] = ()  # other places of the same file that were found
    found_by: tuple[str, ...] = ()
    piece: int = 0  # its id in the store
    content: int = 0

    @property
    def date(self) -> datetime:
        """When it was taken or last changed, by this machine's clock; a file may claim a year that no date can have."""
        return datetime.fromtimestamp(min(max(self.date_s, FIRST_S), LAST_S))

    def snippet(self, words: Sequence[str] = (), length: int = SNIPPET) -> str:
        """A stretch of the text around the first of the words, or its beginning, in one line."""
        text = " ".join(self.text.split())
        places = [at for at in (text.lower().find(word.lower()) for word in words) if at >= 0]
        start = max(0, min(places, default=0) - length // 3)
        start = text.rfind(" ", 0, start) + 1 if start else 0
        shown = text[start : start + length]
        return ("… " if start else "") + shown + (" …" if start + length < len(text) else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for pipes."""
        also = {"also": list(self.also)} if self.also else {}
        more = {"more": [place.values() for place in self.more]} if self.more else {}
        said = {"title": self.title} if self.title else {}
        text = {"snippet": self.snippet()} if self.text else {}
        date = self.date.isoformat(timespec="seconds")
        found = {"found_by": list(self.found_by)} if self.found_by else {}
        head = {"score": round(self.score, 4), "path": self.path, "kind": self.kind}
        return {**head, **self.place.values(), "date": date, **said, **text, **also, **more, **found}


def hits_of(store: Store, scores: Mapping[int, float], chosen: Filter | None = None) -> list[Hit]:
    """Hits of pieces (id -> cosine), in their order; pieces that no file has any more are left out.

    Of several files with one content, the first that was asked for stands for all.
    """
    rows = store.rows(
        "SELECT pieces.id, pieces.content, place, title, text, kind, taken_s FROM pieces "
        "JOIN contents ON contents.id = pieces.content WHERE pieces.id IN (SELECT value FROM json_each(?))",
        (json.dumps([int(piece) for piece in scores]),),
    )
    files: dict[int, list[tuple[str, int]]] = {}
    contents = json.dumps(sorted({row[1] for row in rows}))
    where, values = (chosen or Filter()).where()
    query = (
        "SELECT content, path, modified_ns FROM files JOIN contents ON contents.id = files.content "
        f"WHERE content IN (SELECT value FROM json_each(:contents)) ORDER BY ({where}) DESC, path"
    )
    for content, path, modified_ns in store.rows(query, {"contents": contents, **values}):
        files.setdefault(content, []).append((path, modified_ns))
    made = {}
    for piece, content, place, title, text, kind, taken_s in rows:
        if content not in files:
            continue
        (path, modified_ns), *others = files[content]
        made[piece] = Hit(
            path=path,
            kind=kind,
            place=Place.from_json(place),
            score=float(scores[piece]),
            text=text,
            title=title,
            date_s=modified_ns / 1e9 if taken_s is None else taken_s,
            also=tuple(other for other, _ in others),
            piece=piece,
            content=content,
        )
    return [made[int(piece)] for piece in scores if int(piece) in made]
