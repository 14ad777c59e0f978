"""Interactions through Google's client: the same answers as generateContent's, kept and gone on from."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from serving import Served, sample, text_only

from castor.content import Image, Message, Text

genai = pytest.importorskip("google.genai")
TEXT = {"response_modalities": ["text"]}


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    client = genai.Client(api_key="local", http_options={"base_url": served.url})
    if not hasattr(client, "interactions"):
        pytest.skip("this client has no interactions")
    return client


def test_an_interaction_and_the_next(served: Served, client: Any) -> None:
    first = client.interactions.create(model="tiny", input="how many", system_instruction="be blue", **TEXT)
    answer = text_only(served, Message.system("be blue"), Message.user("how many")).text
    assert (first.output_text, first.status, first.model) == (answer, "incomplete", "tiny")
    assert first.usage.total_output_tokens == 12 and first.usage.total_input_tokens > 0
    second = client.interactions.create(model="tiny", input="and red?", previous_interaction_id=first.id, **TEXT)
    asked = [Message.user("how many"), Message.model(answer), Message.user("and red?")]
    assert second.output_text == text_only(served, *asked).text
    again = client.interactions.get(second.id)
    assert again.output_text == second.output_text and again.previous_interaction_id == first.id
    client.interactions.delete(second.id)
    assert httpx.get(f"{served.url}/v1/interactions/{second.id}").status_code == 404
    unkept = client.interactions.create(model="tiny", input="red", store=False, **TEXT)
    assert httpx.get(f"{served.url}/v1/interactions/{unkept.id}").status_code == 404


def test_a_stream_says_the_same(served: Served, client: Any) -> None:
    options = {"model": "tiny", "input": "how many", "generation_config": {"seed": 3, "temperature": 0.9}, **TEXT}
    whole = client.interactions.create(**options)
    events = list(client.interactions.create(**options, stream=True))
    kinds = [event.event_type for event in events]
    assert kinds[:2] == ["interaction.created", "step.start"] and kinds[-2:] == ["step.stop", "interaction.completed"]
    assert "".join(event.delta.text for event in events if event.event_type == "step.delta") == whole.output_text
    done = events[-1].interaction
    assert done.status == whole.status and done.usage.total_tokens == whole.usage.total_tokens
    assert client.interactions.get(done.id).output_text == whole.output_text


def test_media_and_their_answer(served: Served, client: Any) -> None:
    picture = sample("scene.png")
    content = [
        {"type": "text", "text": "describe"},
        {"type": "image", "mime_type": "image/png", "data": base64.b64encode(picture).decode()},
    ]
    wanted = text_only(served, Message.user(Text("describe"), Image(picture))).text
    for given in (content, [{"type": "user_input", "content": content}]):
        assert client.interactions.create(model="tiny", input=given, **TEXT).output_text == wanted


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "tiny"}, 400, "input"),
        ({"model": "other", "input": "x"}, 404, "not served"),
        ({"input": "x"}, 400, "model"),
        ({"model": "tiny", "input": "x", "background": True}, 400, "background"),
        ({"model": "tiny", "input": "x", "tools": [{"type": "google_search"}]}, 400, "no other tools"),
        ({"model": "tiny", "input": "x", "previous_interaction_id": "int_0"}, 404, "int_0"),
        ({"model": "tiny", "input": [{"type": "hologram"}]}, 400, "hologram"),
        ({"model": "tiny", "input": "x", "generation_config": {"min_p": 0.1}}, 400, "min_p"),
        (
            {"model": "tiny", "input": [{"type": "image", "data": "AAAA", "mime_type": "image/png"}]},
            400,
            "not a known kind",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named(served: Served, body: dict, status: int, message: str, stream: bool) -> None:
    reply = httpx.post(f"{served.url}/v1beta/interactions", json=body | ({"stream": True} if stream else {}))
    assert reply.status_code == status and message in reply.json()["error"]["message"], reply.text
    assert isinstance(reply.json()["error"]["code"], str)
