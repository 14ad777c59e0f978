"""Streamed text: whole characters, none of them twice, in time that does not grow with the reply."""

from __future__ import annotations

import random

import pytest

from castor.content import Text
from castor.engine.stream import WINDOW, TextStream
from castor.tokens.render import Renderer

LINES = (
    "The red circle 🙂 is left of the square.",
    "Ein größeres Haus",
    "红色的圆在蓝色的方块左边",
    "  two  spaces\n\tand a tab ",
)


def streamed(renderer: Renderer, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(renderer, stop)
    parts = [part for token_id in ids for part in stream.take(token_id)]
    parts += stream.finish()
    return [part.text for part in parts if isinstance(part, Text)]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_add_up_to_the_text(renderer: Renderer, seed: int) -> None:
    rng, tokenizer = random.Random(seed), renderer.tokenizer
    ids = tokenizer.encode(" ".join(rng.choice(LINES) for _ in range(12)))
    if seed % 2:  # bytes that form no character, among others that do
        ids = [i if rng.random() < 0.8 else rng.randrange(4, renderer.space.num_text) for i in ids]
    assert len(ids) > 4 * WINDOW
    texts = streamed(renderer, ids)
    assert "".join(texts) == tokenizer.decode(ids)
    for at, text in enumerate(texts[:-1]):
        assert text, at
    assert len(texts) > len(ids) / 4  # it comes piece by piece


def test_a_stop_text_is_found_across_the_window(renderer: Renderer) -> None:
    text = "a" * 3 + " b c d e f g h i j k l m n o p q r s t u v w x y z" * 3 + " STOP HERE and more"
    ids = renderer.tokenizer.encode(text)
    assert "".join(streamed(renderer, ids, ("STOP HERE",))) == text[: text.index("STOP")]


def test_the_work_for_a_piece_does_not_grow(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = renderer.tokenizer.encode(LINES[0]) * 30
    sizes: list[int] = []
    decode = renderer.tokenizer.decode

    def measured(given: list[int]) -> str:
        sizes.append(len(given))
        return decode(given)

    monkeypatch.setattr(renderer.tokenizer, "decode", measured)
    stream = TextStream(renderer, ())
    for token_id in ids:
        list(stream.take(token_id))
    assert max(sizes) <= 2 * WINDOW + 8 < len(ids)
