"""Answers in JSON and log-probabilities, through both clients."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
import torch
from serving import Served

from castor.content import Message
from castor.server.schemas import of_gemini

genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

SHAPE = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
GEMINI_SHAPE = {
    "type": "OBJECT",
    "properties": {
        "count": {"type": "INTEGER", "minimum": 0, "maximum": 9, "format": "int32"},
        "colour": {"type": "STRING", "enum": ["red", "blue"]},
        "note": {"type": "ARRAY", "items": {"type": "BOOLEAN"}, "maxItems": "2", "nullable": True},
    },
    "required": ["colour", "count", "note"],
    "propertyOrdering": ["colour", "count"],
}

LISTS = [[bool(number & 1), bool(number & 2)][:size] for number in range(4) for size in (1, 2)]
SETTINGS = {"max_tokens": 100}


def test_json_through_google_s_client(google: Any) -> None:
    config = {"response_mime_type": "application/json", "temperature": 1.0}
    for seed in range(3):
        own = config | {"response_json_schema": SHAPE, "seed": seed}
        jsonschema.validate(
            json.loads(google.models.generate_content(model="tiny", contents="x", config=own).text), SHAPE
        )
        theirs = config | {"response_schema": GEMINI_SHAPE, "seed": seed}
        found = json.loads(google.models.generate_content(model="tiny", contents="x", config=theirs).text)
        assert list(found) == ["colour", "count", "note"]  # in the order asked for
        assert found["colour"] in ("red", "blue") and 0 <= found["count"] <= 9
        assert found["note"] is None or all(isinstance(value, bool) for value in found["note"]) <= (
            len(found["note"]) <= 2
        )


def test_the_gemini_api_s_schema_becomes_json_schema() -> None:
    schema = of_gemini({"responseMimeType": "application/json", "responseSchema": GEMINI_SHAPE})
    assert schema is not None
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    right = {"colour": "red", "count": 3, "note": [True]}
    assert validator.is_valid(right) and validator.is_valid(right | {"note": None})
    for wrong in ({"colour": "green"}, {"count": 10}, {"note": [1]}, {"note": [True] * 3}, {"more": 1}):
        assert not validator.is_valid(right | wrong)
    assert of_gemini({"responseMimeType": "text/plain"}) is None


def test_json_through_openai_s_client(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SHAPE, "strict": True}}
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": 1.0, "seed": 3}
    reply = client.chat.completions.create(**asked, response_format=form)
    jsonschema.validate(json.loads(reply.choices[0].message.content), SHAPE)
    pieces = client.chat.completions.create(**asked, response_format=form, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == reply.choices[0].message.content
    loose = client.chat.completions.create(**asked, response_format={"type": "json_object"}, max_tokens=20)
    assert loose.choices[0].message.content.startswith("{")


@torch.inference_mode()
def likely(served: Served, ids: list[int]) -> list[list[float]]:
    """Log-probabilities [len(ids)][V] after "x", by one forward over prompt and answer."""
    from castor.tokens.pack import collate

    model = served.model
    sequence = model.renderer.encode([Message.user("x")], reply=True)
    whole = sequence.followed_by(ids)
    logits_TV = model.decoder(collate([[whole]], len(whole)))[0].float()
    return logits_TV[len(sequence) - 1 : len(whole) - 1].log_softmax(-1).tolist()


def test_log_probabilities_are_the_model_s(served: Served, google: Any, client: Any) -> None:
    config = {"response_logprobs": True, "logprobs": 2, "max_output_tokens": 6, "response_modalities": ["TEXT"]}
    [candidate] = google.models.generate_content(model="tiny", contents="x", config=config).candidates
    chosen = candidate.logprobs_result.chosen_candidates
    tables = likely(served, [one.token_id for one in chosen])
    expected = [table[one.token_id] for one, table in zip(chosen, tables, strict=True)]
    assert [one.log_probability for one in chosen] == pytest.approx(expected, abs=1e-4)
    assert candidate.avg_logprobs == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    for top, table in zip(candidate.logprobs_result.top_candidates, tables, strict=True):
        best = [one.log_probability for one in top.candidates]
        assert best == pytest.approx(sorted(table, reverse=True)[:2], abs=1e-4)
    assert "".join(one.token for one in chosen).strip() == candidate.content.parts[0].text.strip()
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 6, "logprobs": True}
    content = client.chat.completions.create(**asked, top_logprobs=2).choices[0].logprobs.content
    assert [one.logprob for one in content] == pytest.approx(expected, abs=1e-4)
    assert all(len(one.top_logprobs) == 2 and bytes(one.bytes).decode(errors="replace") == one.token for one in content)
    *_, last = client.chat.completions.create(**asked, stream=True)
    assert [one.logprob for one in last.choices[0].logprobs.content] == pytest.approx(expected, abs=1e-4)
    assert all(math.isfinite(value) for value in expected)


def test_a_choice_is_bare_text(google: Any) -> None:
    schema = {"type": "STRING", "enum": ["a red (1+1) circle", "größer", "x"]}
    config = {"response_mime_type": "text/x.enum", "response_schema": schema, "temperature": 2.0}
    said = {
        google.models.generate_content(model="tiny", contents="x", config={**config, "seed": seed}).text
        for seed in range(6)
    }
    assert said <= set(schema["enum"]) and len(said) > 1
    with pytest.raises(genai.errors.ClientError, match="enum of texts"):
        google.models.generate_content(model="tiny", contents="x", config={"response_mime_type": "text/x.enum"})
