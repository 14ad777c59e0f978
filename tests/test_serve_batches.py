"""Batches through Google's client: answered beside others, kept over a restart, from requests and from files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from serving import Served, new_model, serving, text_only, wait_until

from castor.content import Message
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
types = genai.types
TEXT = {"responseModalities": ["TEXT"]}
SETTINGS = {"max_tokens": 4}


def client_of(served: Served) -> Any:
    return genai.Client(api_key="local", http_options={"base_url": served.url})


def ended(client: Any, name: str) -> Any:
    wait_until(lambda: client.batches.get(name=name).done, 60)
    return client.batches.get(name=name)


def test_every_request_has_its_answer_in_order(served: Served) -> None:
    client = client_of(served)
    words = ["red", "blue", "how many", "circle", "square"]
    requests = [
        {"contents": word, "config": {"response_modalities": ["TEXT"]}, "metadata": {"key": word}} for word in words
    ]
    requests.append({"contents": "red", "config": {"presence_penalty": 0.5}})
    job = ended(client, client.batches.create(model="tiny", src=requests, config={"display_name": "d"}).name)
    assert (job.state.name, job.display_name, job.model) == ("JOB_STATE_SUCCEEDED", "d", "models/tiny")
    *answers, refused = job.dest.inlined_responses
    for word, answer in zip(words, answers, strict=True):
        assert answer.response.text == text_only(served, Message.user(word), max_tokens=4).text
        assert answer.metadata == {"key": word}
    assert refused.response is None and "presencePenalty" in refused.error.message
    assert job.name in [one.name for one in client.batches.list()]
    client.batches.delete(name=job.name)
    with pytest.raises(genai.errors.ClientError):
        client.batches.get(name=job.name)


def test_from_a_file_into_a_file(served: Served) -> None:
    client = client_of(served)
    lines = [
        {"key": f"k{at}", "request": {"contents": [{"parts": [{"text": "red"}]}], "generationConfig": TEXT}}
        for at in range(3)
    ]
    content = io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    file = client.files.upload(file=content, config={"mime_type": "application/jsonl"})
    job = ended(client, client.batches.create(model="tiny", src=file.name).name)
    answers = [json.loads(line) for line in client.files.download(file=job.dest.file_name).splitlines()]
    assert [answer["key"] for answer in answers] == ["k0", "k1", "k2"]
    wanted = text_only(served, Message.user("red"), max_tokens=4).text
    assert {answer["response"]["candidates"][0]["content"]["parts"][0]["text"] for answer in answers} == {wanted}


def test_a_batch_goes_on_after_a_restart(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path: Path
) -> None:
    """The first server ends in the midst; the second one answers the rest, and keeps what was answered."""
    settings = {"files_folder": str(tmp_path), "max_tokens": 40}
    requests = [{"contents": f"red {at}", "config": {"response_modalities": ["TEXT"]}} for at in range(40)]
    done = "SELECT number, answer FROM batch_rows WHERE answer IS NOT NULL ORDER BY number"
    with serving(new_model(tiny_config, renderer, codec), **settings) as first:
        client = client_of(first)  # it must outlive its call
        name = client.batches.create(model="tiny", src=requests).name
        wait_until(lambda: len(first.service.state.run(done)) >= 3, 60)
    with serving(new_model(tiny_config, renderer, codec), **settings) as second:
        before = second.service.state.run(done)
        client = client_of(second)
        job = ended(client, name)
        after = second.service.state.run(done)
    assert 3 <= len(before) < 40 and set(before) <= set(after)
    assert len(job.dest.inlined_responses) == 40 and all(item.response.text for item in job.dest.inlined_responses)


def test_cancelling_ends_a_batch(served: Served) -> None:
    client = client_of(served)
    requests = [{"contents": f"red {at}", "config": {"max_output_tokens": 200}} for at in range(60)]
    job = client.batches.create(model="tiny", src=requests)
    client.batches.cancel(name=job.name)
    assert client.batches.get(name=job.name).state.name == "JOB_STATE_CANCELLED"
    after = ended(client, client.batches.create(model="tiny", src=requests[:1]).name)
    assert after.state.name == "JOB_STATE_SUCCEEDED"
    with pytest.raises(genai.errors.ClientError, match="makes no vectors"):
        client.batches.create_embeddings(model="tiny", src={"inlined_requests": {"contents": "x"}})
