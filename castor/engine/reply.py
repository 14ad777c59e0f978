"""From the ids of a reply to its parts: at once, or as early as each is certain."""

from __future__ import annotations

from collections.abc import Iterator

from castor.content import Image, Part, Text
from castor.tokens.render import Renderer


def cut(parts: tuple[Part, ...], stop: tuple[str, ...]) -> tuple[Part, ...]:
    """The parts up to the first stop text."""
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and (at := _first(part.text, stop)) is not None:
            return (*kept, Text(part.text[:at])) if at else tuple(kept)
        kept.append(part)
    return tuple(kept)


def _first(text: str, stop: tuple[str, ...]) -> int | None:
    places = [at for at in (text.find(word) for word in stop) if at >= 0]
    return min(places, default=None)


class PartWriter:
    """Turns ids into parts as early as they are certain: whole characters, and no half of a stop text."""

    def __init__(self, renderer: Renderer, stop: tuple[str, ...]) -> None:
        self.renderer, self.stop = renderer, stop
        self.pieces: list[int] = []
        self.drawing: list[int] = []
        self.given = 0

    def take(self, token_id: int) -> Iterator[Part]:
        """What is certain with one more id."""
        space = self.renderer.space
        if self.drawing or token_id == space.special("<|draw>"):
            if not self.drawing:
                yield from self.finish()
            self.drawing.append(token_id)
            if token_id == space.special("<draw|>"):
                yield from (part for part in self.renderer.decode(self.drawing) if isinstance(part, Image))
                self.drawing = []
            return
        self.pieces.append(token_id)
        text = self.renderer.tokenizer.decode(self.pieces)
        certain = text.rstrip("\ufffd")
        held = max((_overlap(certain, word) for word in self.stop), default=0)
        yield from self._give(certain[: len(certain) - held])

    def finish(self) -> Iterator[Part]:
        """What is left when no more ids come."""
        if self.pieces:
            text = self.renderer.tokenizer.decode(self.pieces)
            yield from self._give(text if (at := _first(text, self.stop)) is None else text[:at])
        self.pieces, self.given = [], 0

    def _give(self, text: str) -> Iterator[Part]:
        if (at := _first(text, self.stop)) is not None:
            text = text[:at]
        if len(text) > self.given:
            yield Text(text[self.given :])
            self.given = len(text)


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of `text` begin `word`."""
    return next((n for n in range(min(len(word), len(text)), 0, -1) if text.endswith(word[:n])), 0)
