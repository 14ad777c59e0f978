"""What is embedded and found: a piece of a file, and where in the file it lies."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from castor.content import Media, Part

KINDS = ("image", "audio", "video", "document", "text", "code")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in its file a piece lies: a page, a span of time, or lines; nothing of it for a whole picture."""

    page: int | None = None  # from 1
    start_s: float | None = None
    end_s: float | None = None
    first_line: int | None = None  # from 1
    last_line: int | None = None

    def __str__(self) -> str:
        if self.page is not None:
            return f"page {self.page}"
        if self.start_s is not None and self.end_s is not None:
            return f"{_clock(self.start_s)}–{_clock(self.end_s)}"
        if self.first_line is not None:
            is_one = self.last_line in (None, self.first_line)
            return f"line {self.first_line}" if is_one else f"lines {self.first_line}–{self.last_line}"
        return ""

    def values(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_json(self) -> str:
        """As a store keeps it."""
        return json.dumps(self.values())

    @classmethod
    def from_json(cls, text: str) -> Place:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of a file: what a vector is made of, and the text by which words find it ("" where there is none)."""

    place: Place
    parts: tuple[Part, ...]
    text: str = ""
    title: str = ""  # of a text: the headings above it

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return len(self.text) + sum(part.held_bytes for part in self.parts if isinstance(part, Media))


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"
