"""Ids as they come into parts as early as they are certain: whole characters, and no half of a stop text."""

from __future__ import annotations

from collections.abc import Iterator

from castor.content import Image, Part, Text
from castor.tokens.gemma import GemmaRenderer
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


WINDOW = 16  # pieces, in which every character that the newest one may complete has begun


class TextStream:
    """Replies of our own models: text pieces, and an image once it is finished."""

    def __init__(self, renderer: Renderer, stop: tuple[str, ...]) -> None:
        self.renderer, self.stop = renderer, stop
        self.pieces: list[int] = []
        self.drawing: list[int] = []
        self.given = 0
        # Decoding all pieces for each new one would cost the square of a reply: only those from `start` on are.
        self.start, self.before, self.overlap = 0, "", 0  # `before` holds the first `overlap` characters from `start`

    def take(self, *ids: int) -> Iterator[Part]:
        """What more ids make certain, neighbouring texts as one."""
        space, is_grown = self.renderer.space, False
        for token_id in ids:
            if not self.drawing and token_id != space.special("<|draw>"):
                self.pieces.append(token_id)
                is_grown = True
                continue
            if not self.drawing:
                yield from self.finish()
                is_grown = False
            self.drawing.append(token_id)
            if token_id == space.special("<draw|>"):
                yield from (part for part in self.renderer.decode(self.drawing) if isinstance(part, Image))
                self.drawing = []
        if is_grown:
            certain = self._text().rstrip("\ufffd")
            held = max((_overlap(certain, word) for word in self.stop), default=0)
            yield from self._give(certain[: len(certain) - held])

    def finish(self) -> Iterator[Part]:
        """What is left at the end."""
        if self.pieces:
            text = self.renderer.tokenizer.decode(self.pieces)
            yield from self._give(text if (at := _first(text, self.stop)) is None else text[:at])
        self.pieces, self.given = [], 0
        self.start, self.before, self.overlap = 0, "", 0

    def _text(self) -> str:
        """The text of all pieces."""
        decode = self.renderer.tokenizer.decode
        text = self.before + decode(self.pieces[self.start :])[self.overlap :]
        if len(self.pieces) - self.start >= 2 * WINDOW and not text.endswith("\ufffd"):
            self.start, self.before = len(self.pieces) - WINDOW, text
            self.overlap = len(decode(self.pieces[self.start :]))
        return text

    def _give(self, text: str) -> Iterator[Part]:
        if (at := _first(text, self.stop)) is not None:
            text = text[:at]
        if len(text) > self.given:
            yield Text(text[self.given :])
            self.given = len(text)


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of `text` begin `word`."""
    return next((n for n in range(min(len(word), len(text)), 0, -1) if text.endswith(word[:n])), 0)


class PartStream:
    """Replies of published checkpoints: texts and thoughts piece by piece, calls and pictures whole."""

    def __init__(self, renderer: GemmaRenderer, stop: tuple[str, ...]) -> None:
        self.renderer, self.stop = renderer, stop
        self.ids: list[int] = []
        self.given: list[Part] = []

    def take(self, *ids: int) -> Iterator[Part]:
        """What more ids make certain, neighbouring texts as one."""
        self.ids += ids
        *finished, last = self.renderer.decode(self.renderer.tokenizer.settled(self.ids)) or (Text(""),)
        yield from self._give([*finished, last] if isinstance(last, Image) else finished)
        if isinstance(last, Text) and not last.text.startswith("<|tool_call>"):
            certain = last.text.rstrip("\ufffd\n")
            held = max((_overlap(certain, word) for word in self.stop), default=0)
            yield from self._give([*finished, Text(certain[: len(certain) - held], last.thought)])

    def finish(self) -> Iterator[Part]:
        """What is left at the end."""
        yield from self._give(list(cut(self.renderer.decode(self.ids), self.stop)))

    def _give(self, parts: list[Part]) -> Iterator[Part]:
        """What of these parts was not given yet; the last one given may have grown."""
        for at, part in enumerate(cut(tuple(parts), self.stop)):
            before = self.given[at] if at < len(self.given) else None
            if before is None:
                if part == Text(""):  # nothing yet: a call or a picture may still come in its place
                    break
                self.given.append(part)
            elif isinstance(part, Text) and isinstance(before, Text) and len(part.text) > len(before.text):
                self.given[at] = part
                part = Text(part.text[len(before.text) :], part.thought)
            else:
                continue
            if not isinstance(part, Text) or part.text:
                yield part


def part_stream(renderer: Renderer | GemmaRenderer, stop: tuple[str, ...]) -> TextStream | PartStream:
    """The stream of this renderer's replies."""
    return PartStream(renderer, stop) if isinstance(renderer, GemmaRenderer) else TextStream(renderer, stop)
