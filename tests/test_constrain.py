"""Replies held to a grammar: whatever the model would say, they parse and are valid."""

from __future__ import annotations

import json
import random
import re
import sys
from typing import Any

import jsonschema
import pytest

from castor.content import Image, Message
from castor.engine.constrain import Constrainer
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.tokens.text import Tokenizer


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose values are bounded, so that every reply ends."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "pattern"]
    kind = rng.choice(["object", "object", "array", "any"] + (kinds if depth else []) if depth < 3 else kinds)
    if kind == "object":
        names = rng.sample(["name", "größe", "红色", "a b", "count", 'q"uote'], rng.randint(1, 3))
        fields = {name: random_schema(rng, depth + 1) for name in names}
        needed = [name for name in names if rng.random() < 0.6]
        return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
    if kind == "array":
        least = rng.randint(0, 2)
        bounds = {"minItems": least, "maxItems": least + rng.randint(0, 2)}
        return {"type": "array", "items": random_schema(rng, depth + 1), **bounds}
    if kind == "any":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
    if kind == "string":
        return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 6)}
    if kind in ("integer", "number"):
        low = rng.randint(-50, 50)
        return {"type": kind, "minimum": low, "maximum": low + rng.randint(0, 40)}
    if kind == "enum":
        return {"enum": rng.sample(["red", "зелёный", 3, 2.5, True, None, "\n"], 3)}
    return {"type": "string", "pattern": "^[a-c]{1,3}-[0-9]+$", "maxLength": 9} if kind == "pattern" else {"type": kind}


def test_replies_are_valid_under_random_schemas(model: Model) -> None:
    schemas = [random_schema(random.Random(seed)) for seed in range(50)]
    engine = Engine(model, EngineConfig(cache_tokens=10_000))
    asked = [
        engine.submit(
            [Message.user("give it")],
            SamplingConfig(max_tokens=500, temperature=index % 3 / 1.5, seed=index, response_schema=schema),
        )
        for index, schema in enumerate(schemas)
    ]
    while engine.step():
        pass
    seen = set()
    for schema, request in zip(schemas, asked, strict=True):
        result = request.result()
        assert result.reason == "stop", schema
        value = json.loads(result.message.text)
        jsonschema.validate(value, schema)
        seen.add(type(value))
    assert {dict, list, str} <= seen


def test_a_reply_matches_its_regex_and_holds_no_picture(model: Model) -> None:
    pattern = r"(ja|nein): [α-ω]{2,4}(红色)?\."
    for seed in range(6):
        reply = model.generate("draw", temperature=2.0, seed=seed, response_regex=pattern)
        assert re.fullmatch(pattern, reply.text) and not any(isinstance(part, Image) for part in reply.parts)


def test_what_a_grammar_allows_is_what_continues_it(model: Model) -> None:
    """At every place of a text that fits, a piece is allowed if and only if the pattern has a match that goes on so."""
    space, tokenizer = model.renderer.space, model.tokenizer
    constraint = Constrainer(tokenizer, space, model.renderer.stop_id).of_regex(r"(red|recd|é){2}")
    wholes = [a + b for a in ("red", "recd", "é") for b in ("red", "recd", "é")]
    said = b""
    for token_id in tokenizer.encode("redé"):
        expected = {
            index
            for index in range(4, tokenizer.vocab_size)
            if (piece := tokenizer.piece_bytes(index)) and any(w.encode().startswith(said + piece) for w in wholes)
        }
        if said.decode(errors="replace") in wholes:
            expected.add(model.renderer.stop_id)
        assert set(constraint.allowed_V().nonzero().flatten().tolist()) == expected
        constraint.take(token_id)
        said += tokenizer.piece_bytes(token_id) or b""
    assert said.decode() == "redé"
    assert constraint.allowed_V().nonzero().flatten().tolist() == [model.renderer.stop_id]


def test_pieces_are_the_bytes_of_their_text(tokenizer: Tokenizer) -> None:
    text = "Größe  红色 🜚\tred ▁ x\n"
    pieces = [tokenizer.piece_bytes(token_id) for token_id in tokenizer.encode(text)]
    assert b"".join(piece or b"" for piece in pieces).decode() == tokenizer.decode(tokenizer.encode(text))
    assert [tokenizer.piece_bytes(token_id) for token_id in range(4)] == [None] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response_schema": {"type": "nonsense"}}, "response_schema: .*nonsense"),
        ({"response_regex": "("}, "response_regex: "),
        ({"response_regex": "x", "response_schema": {}}, "only one of them"),
        ({"response_schema": "x"}, "response_schema='x'"),
    ],
)
def test_a_grammar_that_is_none_is_refused(model: Model, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate("x", **options)


def test_without_the_library_the_extra_is_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"pip install 'castor\[constrain\]'"):
        model.generate("x", response_regex="a")


def test_a_reply_is_one_of_the_choices_and_each_can_be_said(model: Model) -> None:
    """Texts that begin alike or within each other too, at any temperature; the likeliest by the model's own scores."""
    choices = ("red", "red star", "redder", "a", "红色", "2", "22")
    settings = [{"temperature": 3.0, "seed": seed} for seed in range(120)] + [{"temperature": 0.0}]
    engine = Engine(model, EngineConfig(cache_tokens=20_000, max_waiting=200))
    config = [SamplingConfig(max_tokens=40, choices=choices, **each) for each in settings]
    asked = [engine.submit([Message.user("Which?")], each) for each in config]
    while engine.step():
        pass
    said = [request.result().message.text for request in asked]
    assert set(said) == set(choices)
    first = {text: model.tokenizer.encode(text)[0] for text in choices}
    logits_V = model.logits([Message.user("Which?"), Message.model("a")])[-len(model.tokenizer.encode("a")) - 2]
    assert first[said[-1]] == max(first.values(), key=lambda token_id: float(logits_V[token_id]))


@pytest.mark.parametrize("choices", [(), ("a", "")])
def test_choices_that_cannot_be_are_refused(choices: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="choices="):
        SamplingConfig(choices=choices)
