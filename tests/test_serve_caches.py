"""Cached contents through Google's client: computed once, used again, and gone when they should be."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from serving import Served, new_model, sample, serving

from castor.content import Image, Message, Text
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
errors, types = genai.errors, genai.types
LONG = "how many red circles are there? " * 12


def test_a_beginning_is_computed_once_and_the_answer_is_the_same(served: Served, google: Any) -> None:
    picture = types.Part.from_bytes(data=sample("scene.png"), mime_type="image/png")
    contents = [types.Content(role="user", parts=[types.Part(text=LONG), picture])]
    cached = google.caches.create(
        model="tiny", config={"contents": contents, "system_instruction": "be blue", "ttl": "300s", "display_name": "d"}
    )
    asked = [Message.system("be blue"), Message.user(Text(LONG), Image(sample("scene.png")))]
    beginning = served.model.renderer.encode(asked)
    assert cached.usage_metadata.total_token_count == len(beginning)
    config = {"cached_content": cached.name, "response_modalities": ["TEXT"]}
    reply = google.models.generate_content(model="tiny", contents="and blue?", config=config)
    block = served.service.answerer.engine.config.block_tokens
    assert reply.usage_metadata.cached_content_token_count == len(beginning) // block * block
    whole = [*contents, types.Content(role="user", parts=[types.Part(text="and blue?")])]
    plain = {"system_instruction": "be blue", "response_modalities": ["TEXT"]}
    assert reply.text == google.models.generate_content(model="tiny", contents=whole, config=plain).text
    assert reply.usage_metadata.prompt_token_count > len(beginning)


def test_get_list_change_and_delete(served: Served, google: Any) -> None:
    made = google.caches.create(model="tiny", config={"system_instruction": "be red", "ttl": "100s"})
    assert made.model == "models/tiny" and google.caches.get(name=made.name) == made
    assert made.name in [cached.name for cached in google.caches.list()]
    later = google.caches.update(name=made.name, config={"ttl": "600s"})
    assert 480 < (later.expire_time - made.expire_time).total_seconds() < 520
    google.caches.delete(name=made.name)
    for use in (
        lambda: google.caches.get(name=made.name),
        lambda: google.models.generate_content(model="tiny", contents="x", config={"cached_content": made.name}),
    ):
        with pytest.raises(errors.ClientError) as missing:
            use()
        assert missing.value.code == 404


def test_what_is_wrong_is_named(served: Served, google: Any) -> None:
    def refused(method: str, path: str, body: Any) -> str:
        reply = httpx.request(method, f"{served.url}/v1beta/{path}", json=body)
        assert reply.status_code == 400, reply.text
        return reply.json()["error"]["message"]

    contents = [{"parts": [{"text": "a"}]}]
    assert "ttl" in refused("POST", "cachedContents", {"model": "tiny", "contents": contents, "ttl": "5 minutes"})
    assert "up to" in refused("POST", "cachedContents", {"model": "tiny", "contents": contents, "ttl": "9999999s"})
    assert "expireTime" in refused(
        "POST", "cachedContents", {"model": "tiny", "contents": contents, "expireTime": "soon"}
    )
    assert "contents" in refused("POST", "cachedContents", {"model": "tiny"})
    assert "unknown key" in refused("POST", "cachedContents", {"model": "tiny", "pinned": True})
    made = google.caches.create(model="tiny", config={"contents": "a"})
    assert "only ttl" in refused("PATCH", made.name, {"displayName": "x"})
    body = {"contents": contents, "cachedContent": made.name, "systemInstruction": {"parts": [{"text": "s"}]}}
    assert "systemInstruction" in refused("POST", "models/tiny:generateContent", body)
    missing = httpx.post(f"{served.url}/v1beta/cachedContents", json={"model": "other", "contents": contents})
    assert missing.status_code == 404


def test_each_key_has_its_own(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec), keys=("one", "two")) as served:
        first, second = (genai.Client(api_key=key, http_options={"base_url": served.url}) for key in ("one", "two"))
        made = first.caches.create(model="tiny", config={"contents": "a"})
        assert [cached.name for cached in first.caches.list()] == [made.name] and not list(second.caches.list())
        for use in (second.caches.get, second.caches.delete):
            with pytest.raises(errors.ClientError) as missing:
                use(name=made.name)
            assert missing.value.code == 404
