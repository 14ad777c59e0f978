"""Pieces of streamed answers are gathered: fewer of them, nothing lost, the first at once, in every form."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from serving import new_model, scripted, serving

import castor.engine.request
from castor.content import Image, Message, Part, Text
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.connections import Together
from castor.tokens.render import Renderer

SAID = " ".join(f"größer {number} red circle" for number in range(12))
NEVER_S = 1e6  # a multiple of which does not come
Script = Callable[..., None]


@pytest.fixture
def model(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> Model:
    return new_model(tiny_config, renderer, codec)


@pytest.fixture
def script(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr("castor.engine.forward.can_decode", lambda decoder: False)  # it changes the plain step
    with scripted(model) as given:
        yield given


def followed(model: Model, every_s: float, **how: Any) -> list[tuple[float, Part]]:
    """The parts that a follower in an event loop is given, and when."""

    async def follow() -> list[tuple[float, Part]]:
        request, started = engine.submit([Message.user("x")], SamplingConfig(max_tokens=400, **how)), time.monotonic()
        return [(time.monotonic() - started, part) async for part in request.aparts(every_s)]

    with Engine(model, EngineConfig(cache_tokens=4096, num_guesses=0)) as engine:
        return asyncio.run(follow())


def text_of(parts: list[tuple[float, Part]]) -> str:
    return "".join(part.text for _, part in parts if isinstance(part, Text))


@pytest.mark.parametrize("said", [SAID, "niño", "红色 🙂 红色 🙂 红色 🙂"])
def test_gathered_texts_are_the_same_text(model: Model, script: Script, said: str) -> None:
    script(Text(said))
    single = followed(model, 0.0)
    script(Text(said))
    gathered = followed(model, NEVER_S)
    assert text_of(single) == text_of(gathered) == said
    first = gathered[0][1]  # how much of it depends on when the loop had its turn
    assert isinstance(first, Text) and said.startswith(first.text)
    assert len(gathered) <= 2  # the first, and with the end the rest
    assert said != SAID or len(single) > len(gathered)


def test_pieces_come_at_their_pace(model: Model, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    say = Engine._say

    def slowly(self: Engine, *given: Any) -> None:
        time.sleep(0.005)
        say(self, *given)

    monkeypatch.setattr(Engine, "_say", slowly)
    script(Text(SAID))
    times = [at for at, _ in followed(model, 0.1)]
    assert 4 < len(times) <= times[-1] / 0.1 + 3, times  # one with each multiple of the pace, the first and the last


def test_nobody_looks_for_what_is_not_there(model: Model, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that come more slowly than the pace are told one by one: the loop does not wake in vain between them."""
    say, woken = Engine._say, []

    def slowly(self: Engine, *given: Any) -> None:
        time.sleep(0.02)
        say(self, *given)

    monkeypatch.setattr(Engine, "_say", slowly)
    script(Text("red circle red circle"))
    expected = len(followed(model, 0.0))
    monkeypatch.setattr(castor.engine.request, "_next", lambda now_s, every_s: woken.append(now_s) or now_s + every_s)
    script(Text("red circle red circle"))
    assert len(followed(model, 0.0005)) == expected
    assert len(woken) <= expected + 1


def test_a_stop_text_and_a_picture_among_gathered_texts(model: Model, script: Script) -> None:
    drawing = Image.from_pixels(np.zeros((32, 32, 3), dtype=np.uint8))
    found = []
    for every_s in (0.0, NEVER_S):
        script(Text("red circle"), drawing, Text("blue square"))
        found.append([part for _, part in followed(model, every_s, may_draw=True)])
    single, gathered = found
    kinds = [type(part) for part in gathered]
    assert kinds.count(Image) == 1 and 0 < kinds.index(Image) < len(kinds) - 1
    assert [part for part in single if isinstance(part, Image)] == [
        part for part in gathered if isinstance(part, Image)
    ]
    for some in found:
        at = [isinstance(part, Image) for part in some].index(True)
        assert [text_of([(0.0, part) for part in half]) for half in (some[:at], some[at + 1 :])] == [
            "red circle",
            "blue square",
        ]
    script(Text(SAID))
    assert text_of(followed(model, NEVER_S, stop=("3 red",))) == SAID[: SAID.index("3 red")]


def google(reply: httpx.Response) -> tuple[list[str], Any]:
    pieces = [json.loads(line[6:]) for line in reply.text.split("\r\n\r\n") if line]
    return of_google(pieces)


def of_google(pieces: list[dict[str, Any]]) -> tuple[list[str], Any]:
    candidates = [piece["candidates"][0] for piece in pieces]
    texts = [part["text"] for one in candidates for part in one["content"]["parts"] if part["text"]]
    return texts, (candidates[-1].get("logprobsResult"), pieces[-1]["usageMetadata"])


def openai(reply: httpx.Response) -> tuple[list[str], Any]:
    *pieces, last = [line[6:] for line in reply.text.split("\n\n") if line]
    choices = [json.loads(piece)["choices"][0] for piece in pieces]
    assert last == "[DONE]"
    return [c["delta"]["content"] for c in choices if c["delta"].get("content")], choices[-1]["logprobs"]


def interactions(reply: httpx.Response) -> tuple[list[str], Any]:
    events = [json.loads(block.partition("data: ")[2]) for block in reply.text.split("\n\n") if block]
    return [e["delta"]["text"] for e in events if e["event_type"] == "step.delta"], events[-1]["interaction"]["usage"]


FORMS: dict[str, Any] = {
    "/v1beta/models/tiny:streamGenerateContent?alt=sse": google,
    "/v1beta/models/tiny:streamGenerateContent": lambda reply: of_google(reply.json()),
    "/v1/chat/completions": openai,
    "/v1beta/interactions": interactions,
}


def body_of(path: str) -> dict[str, Any]:
    if "chat" in path:
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
        return {**asked, "max_tokens": 300, "logprobs": True, "top_logprobs": 2}
    if "interactions" in path:
        return {"model": "tiny", "input": "x", "stream": True, "generation_config": {"max_output_tokens": 300}}
    config = {"maxOutputTokens": 300, "responseLogprobs": True, "logprobs": 2}
    return {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}


@pytest.mark.parametrize("path", FORMS)
def test_every_form_says_the_same_in_fewer_pieces(model: Model, script: Script, path: str) -> None:
    found = []
    for piece_s in (0.0, NEVER_S):
        with serving(model, piece_s=piece_s, rates_safety=False) as served:
            script(Text(SAID))
            found.append(FORMS[path](httpx.post(served.url + path, json=body_of(path), timeout=60)))
    (single, about), (gathered, about_gathered) = found
    assert "".join(single) == "".join(gathered) == SAID
    assert len(single) > 20 and len(gathered) == 2
    assert about == about_gathered  # log-probabilities of every token, and what was used


def test_what_is_written_in_one_turn_is_sent_together() -> None:
    class Wire:
        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.closed = False

        def write(self, data: bytes) -> None:
            self.sent.append(bytes(data))

        def close(self) -> None:
            self.closed = True

        def is_closing(self) -> bool:
            return self.closed

    async def turns() -> Wire:
        wire = Wire()
        together: Any = Together(wire, asyncio.get_running_loop())  # ty: ignore[invalid-argument-type]
        for piece in (b"head", b"", b"first"):
            together.write(piece)
        assert wire.sent == []
        await asyncio.sleep(0)
        assert wire.sent == [b"headfirst"]
        together.write(b"x" * 70_000)  # more than is held back
        assert len(wire.sent) == 2
        together.write(b"last")
        together.close()
        assert wire.sent[2:] == [b"last"] and wire.closed
        together.write(b"late")
        await asyncio.sleep(0)
        return wire

    assert len(asyncio.run(turns()).sent) == 3
