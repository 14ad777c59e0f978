"""Vectors through both clients: those of `Model.embed`, one for each request, whatever mix of media it is."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Served, new_model, running, sample, serving, wait_until

import castor
from castor.content import Audio, Image, Video
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.models import Offer
from castor.tokens.render import Renderer

published = pytest.importorskip("published")
genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
types = genai.types
QUERY, DOCUMENT = "task: search result | query: ", "title: none | text: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    published.write_tower_checkpoint(folder, "embedding_gemma2")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(castor.load(folder, device="cpu"), aliases=("gemini-embedding-2",)) as server:
        yield server


def close(got: Any, wanted: Any) -> bool:
    return np.abs(np.array(got) - np.array(wanted)).max() < 1e-5


def test_every_content_is_one_vector(served: Served, google: Any) -> None:
    """Flat lists are N vectors by name or one, as the client decides; a Content is one whatever is in it."""
    picture, sound, film = sample("scene.png"), sample("speech.wav"), sample("clip.mp4")
    mixed = types.Content(
        parts=[
            types.Part(text="a red circle"),
            types.Part.from_bytes(data=picture, mime_type="image/png"),
            types.Part.from_bytes(data=sound, mime_type="audio/wav"),
        ]
    )
    moving = types.Content(parts=[types.Part.from_bytes(data=film, mime_type="video/mp4"), types.Part(text="blue")])
    reply = google.models.embed_content(model="tiny", contents=[mixed, moving])
    wanted = served.model.embed(["a red circle", Image(picture), Audio(sound)], [Video(film), "blue"])
    assert len(reply.embeddings) == 2
    for got, vector in zip(reply.embeddings, wanted, strict=True):
        assert close(got.values, vector)
    assert len(google.models.embed_content(model="tiny", contents=["a", "b"]).embeddings) == 2
    assert len(google.models.embed_content(model="gemini-embedding-2", contents=["a", "b"]).embeddings) == 1


def test_tasks_titles_and_dimensions(served: Served, google: Any) -> None:
    def vector(**config: Any) -> Any:
        return google.models.embed_content(model="tiny", contents="a red circle", config=config).embeddings[0].values

    embed = served.model.embed
    assert close(vector(task_type="RETRIEVAL_QUERY"), embed("a red circle", task="Retrieval-query")[0])
    assert close(vector(task_type="RETRIEVAL_DOCUMENT"), embed("a red circle", task="Document")[0])
    titled = vector(task_type="RETRIEVAL_DOCUMENT", title="Shapes", output_dimensionality=8)
    assert close(titled, embed("title: Shapes | text: a red circle", dimensions=8)[0])
    assert close(np.linalg.norm(titled), 1.0)
    picture = types.Content(parts=[types.Part.from_bytes(data=sample("scene.png"), mime_type="image/png")])
    config = {"task_type": "RETRIEVAL_DOCUMENT"}
    shown = google.models.embed_content(model="tiny", contents=[picture], config=config)
    assert close(shown.embeddings[0].values, embed([Image(sample("scene.png"))])[0])


def test_what_is_wrong_is_named(served: Served) -> None:
    def refused(**request: Any) -> str:
        reply = httpx.post(f"{served.url}/v1beta/models/tiny:embedContent", json=request)
        assert reply.status_code == 400 and reply.json()["error"]["status"] == "INVALID_ARGUMENT", reply.text
        return reply.json()["error"]["message"]

    content = {"parts": [{"text": "a"}]}
    assert "from 1 to 24" in refused(content=content, outputDimensionality=25)
    assert "taskType='SEARCH'" in refused(content=content, taskType="SEARCH")
    assert "title" in refused(content=content, taskType="CLUSTERING", title="x")
    assert "model='models/other'" in refused(content=content, model="models/other")
    assert "content" in refused()
    assert "vector of nothing" in refused(content={"parts": [{"text": ""}]})
    assert "unknown key 'autoTruncate'" in refused(content=content, autoTruncate=True)
    assert "tokens" in refused(content={"parts": [{"text": "red " * 90000}]})
    asked = {"contents": [content]}
    answer = httpx.post(f"{served.url}/v1beta/models/tiny:generateContent", json=asked)
    assert answer.status_code == 400 and "writes no answers" in answer.json()["error"]["message"]


def test_usage_and_a_single_vector(served: Served) -> None:
    parts = [{"text": "a red circle"}, {"inlineData": {"mimeType": "image/png", "data": _b64("scene.png")}}]
    reply = httpx.post(f"{served.url}/v1/models/tiny:embedContent", json={"content": {"parts": parts}}).json()
    wanted = served.model.embed(["a red circle", Image(sample("scene.png"))])[0]
    assert close(reply["embedding"]["values"], wanted)
    used = {item["modality"]: item["tokenCount"] for item in reply["usageMetadata"]["promptTokensDetails"]}
    assert used["IMAGE"] > 0 and sum(used.values()) == reply["usageMetadata"]["promptTokenCount"]
    model = httpx.get(f"{served.url}/v1/models/tiny", headers={"x-goog-api-key": "x"}).json()
    assert model["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents", "asyncBatchEmbedContent"]


def _b64(name: str) -> str:
    return base64.b64encode(sample(name)).decode()


def test_openai_s_client(served: Served, client: Any) -> None:
    """base64 (which its client asks for by itself) and numbers, one text and several, fewer dimensions."""
    wanted = served.model.embed("a red circle", "blue")
    both = client.embeddings.create(model="tiny", input=["a red circle", "blue"])
    assert [item.index for item in both.data] == [0, 1]
    assert close([item.embedding for item in both.data], wanted)
    plain = client.embeddings.create(model="tiny", input="a red circle", encoding_format="float")
    assert close(plain.data[0].embedding, wanted[0]) and plain.usage.total_tokens > 0
    short = client.embeddings.create(model="tiny", input="a red circle", dimensions=8, user="u")
    assert close(short.data[0].embedding, served.model.embed("a red circle", dimensions=8)[0])
    task = client.embeddings.create(model="tiny", input="blue", extra_body={"task_type": "RETRIEVAL_QUERY"})
    assert close(task.data[0].embedding, served.model.embed("blue", task="Retrieval-query")[0])


def test_media_in_openai_s_forms(served: Served, client: Any) -> None:
    uri = f"data:image/png;base64,{_b64('scene.png')}"
    shown, both = served.model.embed([Image(sample("scene.png"))], ["d", Image(sample("scene.png"))])
    part = {"type": "image_url", "image_url": {"url": uri}}
    for value in ([uri], [part]):
        assert close(client.embeddings.create(model="tiny", input=value).data[0].embedding, shown)
    fused = {"content": [{"type": "text", "text": "d"}, part]}
    assert close(client.embeddings.create(model="tiny", input=[fused]).data[0].embedding, both)
    messages = [{"role": "user", "content": fused["content"]}]
    made = client.embeddings.create(model="tiny", input=[], extra_body={"messages": messages})
    assert len(made.data) == 1 and close(made.data[0].embedding, both)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [[1, 2, 3]]}, "token ids"),
        ({"input": [1, 2]}, "token ids"),
        ({"input": []}, "1 to 2048"),
        ({"input": ""}, "vector of nothing"),
        ({"input": "a", "dimensions": 25}, "from 1 to 24"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "late_chunking": True}, "late_chunking"),
        ({"input": "a", "messages": [{"role": "user", "content": "b"}]}, "exclude each other"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "other roles"),
    ],
)
def test_what_openai_s_client_asks_wrongly(served: Served, body: dict[str, Any], message: str) -> None:
    reply = httpx.post(f"{served.url}/v1/embeddings", json={"model": "tiny", **body})
    assert reply.status_code == 400 and message in reply.json()["error"]["message"], reply.text


def test_several_models_are_loaded_when_they_are_asked_for(
    folder: Path, tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path: Path
) -> None:
    """One answers, one makes vectors; memory for one alone, so that each makes room for the other."""
    new_model(tiny_config, renderer, codec).save(tmp_path / "answers")
    offers = [Offer.of_name(str(tmp_path / "answers"), ("answers",)), Offer.of_name(str(folder), ("vectors",))]
    most = max(offer.facts.num_bytes for offer in offers)
    app = create_app(offers, ServerConfig(memory_bytes=most, idle_s=0.4, max_tokens=4))
    served = Served(app, castor.load(folder, device="cpu"))
    with running(served):
        client = genai.Client(api_key="x", http_options={"base_url": served.url})
        methods = {model.name: model.supported_actions for model in client.models.list()}
        assert "generateContent" in methods["models/answers"] and "embedContent" in methods["models/vectors"]
        assert [offer.answerer for offer in offers] == [None, None]
        assert client.models.generate_content(model="answers", contents="how many").candidates
        assert offers[0].answerer is not None and offers[1].answerer is None
        got = client.models.embed_content(model="vectors", contents="a red circle").embeddings[0].values
        assert close(got, served.model.embed("a red circle")[0])
        assert offers[0].answerer is None and offers[1].answerer is not None
        with pytest.raises(genai.errors.ClientError, match="makes no vectors"):
            client.models.embed_content(model="answers", contents="a")
        wait_until(lambda: offers[1].answerer is None)
        assert 'castor_model_loaded{model="vectors"} 0.0' in httpx.get(f"{served.url}/metrics").text
        offers[0].num_users = 1  # in use by somebody, and as large as all that may be
        assert client.models.generate_content(model="answers", contents="how many").candidates
        offers[0].facts = dataclasses.replace(offers[0].facts, num_bytes=most)
        with pytest.raises(genai.errors.ServerError, match="no room for vectors") as full:
            client.models.embed_content(model="vectors", contents="a")
        assert full.value.code == 503
        offers[0].num_users = 0
        wait_until(lambda: offers[0].answerer is None)


def test_a_batch_of_vectors(served: Served, google: Any) -> None:
    contents = [types.Content(parts=[types.Part(text=word)]) for word in ("a red circle", "blue")]
    source = types.EmbeddingsBatchJobSource(
        inlined_requests={"contents": contents, "config": {"output_dimensionality": 8}}
    )
    name = google.batches.create_embeddings(model="tiny", src=source).name
    wait_until(lambda: google.batches.get(name=name).done, 60)
    found = google.batches.get(name=name).dest.inlined_embed_content_responses
    wanted = served.model.embed("a red circle", "blue", dimensions=8)
    assert close([item.response.embedding.values for item in found], wanted)
    assert found[0].response.token_count > 0
