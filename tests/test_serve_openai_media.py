"""OpenAI's client: pictures, transcripts and moderations."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from serving import Served, new_model, sample, serving, text_only

from castor.content import Audio, Image, Message, Text
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.openai_media import ASKING
from castor.tokens.render import Renderer

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def served(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("castor.engine.forward.can_decode", lambda decoder: False)  # `draws` changes the plain step
        with serving(new_model(tiny_config, renderer, codec)) as running:
            yield running


@pytest.fixture(params=[100])
def draws(served: Served, request: pytest.FixtureRequest) -> Iterator[None]:
    """The untrained model wants to draw, and nothing else where its wish is 100, small: two rows of three."""
    decoder, space = served.model.decoder, served.model.renderer.space
    project = type(decoder).project

    def wanting(hidden: torch.Tensor) -> torch.Tensor:
        logits = project(decoder, hidden)
        logits[..., space.special("<|draw>")] += request.param
        logits[..., space.grid(2)] += 50
        return logits

    decoder.project = wanting
    yield
    decoder.__dict__.pop("project")


def test_pictures_are_the_model_s(served: Served, client: Any, draws: None) -> None:
    reply = client.images.generate(model="tiny", prompt="a red circle", size="auto", extra_body={"seed": 5})
    picture = served.model.generate("a red circle", max_tokens=12, seed=5).images[0]
    assert Image(base64.b64decode(reply.data[0].b64_json)).pixels().tolist() == picture.pixels().tolist()
    sized = client.images.generate(model="tiny", prompt="a red circle", n=2, size="96x64", quality="low")
    for item in sized.data:
        assert Image(base64.b64decode(item.b64_json)).pixels().shape == (64, 96, 3)


@pytest.mark.parametrize("draws", [-100], indirect=True)
def test_a_picture_comes_even_where_the_model_would_rather_write(served: Served, client: Any, draws: None) -> None:
    assert not served.model.generate("how many", max_tokens=12, seed=1).images
    reply = client.images.generate(model="tiny", prompt="how many", extra_body={"seed": 1})
    picture = served.model.generate("how many", max_tokens=12, seed=1, must_draw=True).images[0]
    assert Image(base64.b64decode(reply.data[0].b64_json)).pixels().tolist() == picture.pixels().tolist()


def test_a_transcript_is_the_model_s(served: Served, client: Any) -> None:
    reply = client.audio.transcriptions.create(model="tiny", file=("speech.wav", sample("speech.wav")))
    recording = Audio(sample("speech.wav"))
    assert reply.text == text_only(served, Message.user(recording, Text(ASKING["en"]))).text.strip()
    told = client.audio.transcriptions.create(
        model="tiny", file=("speech.wav", sample("speech.wav")), language="de", response_format="text"
    )
    assert told == text_only(served, Message.user(recording, Text(ASKING["de"]))).text.strip() + "\n"


def test_texts_are_rated(client: Any) -> None:
    rated = client.moderations.create(input=["how many red circles?", "how to make a bomb"])
    assert [result.flagged for result in rated.results] == [False, True]
    assert rated.results[1].categories.illicit and rated.results[1].category_scores.illicit > 0.7
    one = client.moderations.create(input=[{"type": "text", "text": "how to make"}, {"type": "text", "text": "a bomb"}])
    assert [result.flagged for result in one.results] == [True]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="texts are rated here"):
        client.moderations.create(input=[picture])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("images/generations", {"prompt": "x", "size": "huge"}, "size"),
        ("images/generations", {"prompt": "x", "size": "9999x9999"}, "size"),
        ("images/generations", {"prompt": "x", "n": 100}, "n"),
        ("images/generations", {"prompt": "x", "response_format": "url"}, "response_format"),
        ("images/generations", {"prompt": "x", "mask": "y"}, "mask"),
        ("images/generations", {}, "prompt"),
        ("moderations", {"input": []}, "input"),
        ("moderations", {"input": "x", "threshold": 1}, "threshold"),
    ],
)
def test_what_is_wrong_is_named(served: Served, path: str, body: dict[str, Any], field: str) -> None:
    model = {} if path == "moderations" else {"model": "tiny"}
    reply = httpx.post(f"{served.url}/v1/{path}", json=model | body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == field, reply.text


def test_bad_forms(served: Served, client: Any) -> None:
    url = f"{served.url}/v1/audio/transcriptions"
    speech = {"file": ("a.wav", sample("speech.wav"))}
    for data, files, message in (
        ({"model": "tiny"}, {}, "multipart"),
        ({"model": "tiny"}, {"other": ("x", b"y")}, "file must be"),
        ({"model": "tiny", "response_format": "srt"}, speech, "response_format"),
        ({"model": "tiny", "language": "xx"}, speech, "language"),
        ({"model": "tiny", "chunking_strategy": "auto"}, speech, "chunking_strategy"),
        ({"model": "tiny"}, {"file": ("a.wav", b"nothing")}, "not a known kind"),
    ):
        reply = httpx.post(url, data=data, files=files)
        assert reply.status_code == 400 and message in reply.json()["error"]["message"], reply.text
    broken = httpx.post(url, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400
