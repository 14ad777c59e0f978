"""Requests that real clients were recorded to send, sent again as they were: each is answered as its client expects.

CASTOR_WIRE names the folder of recordings, a JSON file for each client: {"scenarios": {NAME: {"exchanges": [{"request":
{"method", "path", "query", "headers", "json"}}]}}}.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, new_model, running, sample

import castor
from castor.index.embedder import identity_of
from castor.index.store import Header
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.models import Offer
from castor.server.not_offered import not_offered
from castor.server.stores import NewDocument
from castor.tokens.render import Renderer

FOLDER = os.environ.get("CASTOR_WIRE", "")
RECORDINGS = sorted(Path(FOLDER).glob("*.json")) if FOLDER else []
pytestmark = pytest.mark.skipif(not RECORDINGS, reason="CASTOR_WIRE names no folder of recordings")

VECTORS = ("gemini-embedding-001", "gemini-embedding-2", "local-embed", "my-gemini-vl-embed", "text-embedding-004", "e")
NAMES = (
    "local-gemini",
    "img",
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2.5-VL-3B",
    "Qwen/Qwen2.5-VL",
    "qwen2.5vl:3b",
    "local-gemini-image",
)
# What the recordings ask for and this model or server refuses, found in a request's JSON: a pattern, and what is named.
GEMINI_REFUSALS = {
    r'"(functionDeclarations|googleSearch|codeExecution|urlContext)"': r"tools|unknown key",
    r'"function(Call|Response)"': r"functioncall|functionresponse|tools",
    r'"minP"': "minP",
    r'"presencePenalty": 0\.1': "presencePenalty",
    r'"speechConfig"|"AUDIO"': "speechConfig|responseModalities",
    r'"imageSize"': "imageConfig",
    r'"outputDimensionality": 64': "from 1 to 24",
    r'"file_uri": "[^"]*", "mime_type": "application/pdf"|"data": "eA=="': "inlineData|fileData",
    r'"fileName"|"file_name"': "JSON",
    r'"(UklGRnh4eHg=|bXA0|JVBERg==|-__--__-)"': r"inlineData",
}
OPENAI_REFUSALS = {
    r'"tools": \[|"tool_call': "tools|functioncall|tool_calls",
    r'"(logprobs|logit_bias|audio|presence_penalty)": [^nf]': "logprobs|logit_bias|audio|presence_penalty",
    r'"mm_processor_kwargs"': "mm_processor_kwargs",
    r'base64,AAAA"|"UklGRg=="|JVBERg==': r"messages\[0\]",
    r'"input": \[\[1': "token ids",
    r'"input": \[\{"type": "text", "text": "x"\}, \{"type": "image_url"': "texts are rated",
}
LISTS = ("/models", "/files", "/cachedContents", "/batches", "/fileSearchStores", "/documents")
OPENAI = (  # ends of the addresses that OpenAI's clients alone ask
    *("chat/completions", "/embeddings", "images/generations", "audio/transcriptions", "/moderations"),
)


@pytest.fixture(scope="module")
def served(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    published = pytest.importorskip("published")
    folder = tmp_path_factory.mktemp("vectors")
    published.write_tower_checkpoint(folder, "embedding_gemma2")
    model = new_model(tiny_config, renderer, codec)
    offers = [Offer.of_model(model, NAMES), Offer.of_model(castor.load(folder, device="cpu"), VECTORS)]
    with running(Served(create_app(offers, ServerConfig(max_tokens=4)), model)) as server:
        yield server


def offered(request: dict[str, Any]) -> bool:
    """Whether the request is for a route of this server."""
    path = request["path"]
    routes = r"/v1(beta)?/(models|cachedContents|batches|interactions|fileSearchStores)(/.*)?"
    routes += r"|(/upload)?/v1(beta)?/files(/.*)?|/upload/v1(beta)?/fileSearchStores/.*"
    routes += r"|/upload/session/.*|.*(" + "|".join(OPENAI) + ")"
    return re.fullmatch(routes, path) is not None and not_offered(path) is None


def keep_file(served: Served) -> None:
    """The recordings speak of files/abc123, of cachedContents/c1 and of two batches."""
    state = served.service.state
    cached = {"model": "models/local-gemini", "displayName": "", "tokens": 1}
    fields = {"contents": [{"parts": [{"text": "long"}]}]}
    batch = {"model": "local-gemini", "embeds": False, "display_name": "", "from_file": False, "count": 0}
    for kind, name, body in (
        ("cachedContent", "c1", {**cached, "fields": fields}),
        ("batch", "b1", {**batch, "state": "SUCCEEDED"}),
        ("batch", "b2", {**batch, "embeds": True, "state": "SUCCEEDED"}),
    ):
        if all(record.id != name for record in state.all(kind, "")):
            state.add(kind, "", body, 1000.0, record_id=name)
    store = served.service.files
    if not any(file.id == "abc123" for file in store.all("")):
        data = sample("scene.png")
        secret = store.begin("", name="files/abc123", display_name="x", mime_type="image/png", size_bytes=len(data))
        store.append(store.upload(secret), data)
        store.finish(secret)


def keep_store(served: Served, tmp: Path) -> None:
    """The recordings speak of fileSearchStores/st1 with a document, an operation and a picture."""
    stores = served.service.file_search.stores
    if any(store.id == "st1" for store in stores.all("")) and stores.counts(stores.find("st1", "")) != {}:
        return
    model = served.service.models.find("e").answerer.model
    header = Header(model="gemini-embedding-001", identity=identity_of(model), dimensions=24)
    new = NewDocument(display_name="d", mime_type="text/plain", metadata=[], window=None, is_import=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("castor.server.stores._id_of", lambda name: "st1")
        store = next((each for each in stores.all("") if each.id == "st1"), None) or stores.add("", "st", header)
        for name in ("d1", "op2", "m1"):
            patch.setattr("castor.server.stores._id_of", lambda _, name=name: name)
            (tmp / name).write_bytes(b"content")
            document = stores.add_document(store, tmp / name, new)
            served.service.state.change(document, {**document.body, "state": "ACTIVE"})


def send(http: httpx.Client, request: dict[str, Any], session: str) -> httpx.Response:
    """The recorded request; a piece of an upload as many zeros to the address that the server gave."""
    dropped = ("host", "content-length", "connection", "accept-encoding", "transfer-encoding")
    headers = {key: value for key, value in request["headers"].items() if key.lower() not in dropped}
    path = request["path"] + (f"?{request['query']}" if request.get("query") else "")
    content = json.dumps(request["json"]).encode() if request.get("json") is not None else b""
    if request["path"].startswith("/upload/session/"):
        path, content = session, bytes(int(re.match(r"<(\d+)", request.get("body") or "<0").group(1)))
    return http.request(request["method"], path, headers=headers, content=content)


def check(request: dict[str, Any], reply: httpx.Response) -> str:
    """Asserts that the reply is what its client can read; gives "answered" or "refused"."""
    path, body = request["path"], json.dumps(request.get("json"))
    is_openai = path.endswith(OPENAI)
    known = OPENAI_REFUSALS if is_openai else GEMINI_REFUSALS
    if "pageToken=p2" in request["query"]:  # the token of the recorder's own list
        assert reply.status_code == 400 and "pageToken" in reply.json()["error"]["message"]
        return "refused"
    is_asking = is_openai or ":" in path.rpartition("/")[2] or path.endswith("/interactions")
    is_asking = is_asking and not path.endswith(":importFile")  # which takes a file's name and is offered
    reasons = [named for pattern, named in known.items() if re.search(pattern, body)] if is_asking else []
    if ":asyncBatch" in path:  # its requests are read when their turn comes, but its file at once
        reasons = [named for named in reasons if named == "JSON"]
    if reasons:
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert is_openai or error["status"] == "INVALID_ARGUMENT"
        assert re.search("|".join(reasons), error["message"], re.IGNORECASE), error
        return "refused"
    if path.endswith("transcriptions"):  # its body was not recorded
        assert reply.status_code == 400 and "file must be" in reply.json()["error"]["message"]
        return "refused"
    assert reply.status_code == 200, reply.text
    if path.endswith("/embeddings"):
        given = request["json"].get("input")
        assert len(reply.json()["data"]) == (len(given) if isinstance(given, list) and given else 1)
    elif path.endswith(":batchEmbedContents"):
        assert len(reply.json()["embeddings"]) == len(request["json"]["requests"])
    elif path.endswith(":embedContent"):
        assert len(reply.json()["embedding"]["values"]) == 24
    elif path.endswith("/interactions"):
        events = reply.text.count("event: interaction.completed") if request["json"].get("stream") else 0
        assert events == 1 or reply.json()["steps"]
    elif is_openai:
        check_chat(request["json"], reply)
    elif path.endswith(":streamGenerateContent"):
        pieces = [json.loads(event[6:]) for event in reply.content.split(b"\r\n\r\n") if event]
        assert pieces[-1]["candidates"][0]["finishReason"] and pieces[-1]["usageMetadata"]["totalTokenCount"] > 0
    elif path.endswith(":generateContent"):
        check_answer(reply.json())
    elif path.endswith(":countTokens"):
        assert reply.json()["totalTokens"] > 0
    else:
        check_resource(request, reply)
    return "answered"


def check_answer(reply: dict[str, Any]) -> None:
    types = pytest.importorskip("google.genai.types")
    types.GenerateContentResponse.model_validate(reply)
    for candidate in reply["candidates"]:
        assert candidate["content"]["role"] == "model" and candidate["content"]["parts"]
        assert candidate["finishReason"] in ("STOP", "MAX_TOKENS")
    assert {"promptTokenCount", "candidatesTokenCount", "totalTokenCount"} <= set(reply["usageMetadata"])


def check_chat(asked: dict[str, Any], reply: httpx.Response) -> None:
    chat = pytest.importorskip("openai.types.chat")
    if asked.get("stream"):
        events = [event[6:] for event in reply.content.split(b"\n\n") if event]
        assert events.pop() == b"[DONE]"
        for event in events:
            chat.ChatCompletionChunk.model_validate_json(event, strict=False)
    else:
        chat.ChatCompletion.model_validate(reply.json())


def check_resource(request: dict[str, Any], reply: httpx.Response) -> None:
    path = request["path"]
    if path.startswith("/upload/session/"):
        is_last = "finalize" in request["headers"]["x-goog-upload-command"]
        assert reply.headers["x-goog-upload-status"] == ("final" if is_last else "active")
        told = reply.json().get("file", reply.json()) if is_last else {}
        assert not is_last or told["name"].startswith(("files/", "fileSearchStores/st1/upload/operations/"))
    elif path.startswith("/upload/"):
        assert reply.headers["x-goog-upload-status"] == "active" and reply.headers["x-goog-upload-url"]
    elif path.endswith(":download"):
        assert reply.content == sample("scene.png")
    elif "/media/" in path:
        assert reply.content == b"content"
    elif "/operations/" in path or path.endswith(":importFile"):
        told = reply.json()
        assert told["name"].startswith("fileSearchStores/st1/") and (not told.get("done") or told["response"]["parent"])
    elif request["method"] == "DELETE" or path.endswith(":cancel"):
        assert reply.json() == {}
    elif request["method"] == "GET" and path.endswith(LISTS):
        key = path.rpartition("/")[2]
        assert all("name" in item for item in reply.json()["operations" if key == "batches" else key])
    else:
        kinds = ("models/", "files/", "cachedContents/", "batches/", "fileSearchStores/")
        assert reply.json()["name"].startswith(kinds)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_requests_are_answered(served: Served, recording: Path, tmp_path: Path) -> None:
    scenarios = json.loads(recording.read_text(encoding="utf-8"))["scenarios"]
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for name, scenario in scenarios.items():
            session = ""
            for exchange in scenario["exchanges"]:
                request = exchange["request"]
                keep_file(served)
                keep_store(served, tmp_path)
                reply = send(http, request, session)
                session = reply.headers.get("x-goog-upload-url", session)
                if not offered(request):
                    expected = {501} if not_offered(request["path"]) else {404, 405}
                    if reply.status_code not in expected or "error" not in reply.json():
                        wrong.append(f"{name}: {request['path']}: {reply.status_code}, not in {expected}")
                    outcomes["not offered"] += 1
                    continue
                try:
                    outcomes[check(request, reply)] += 1
                except (AssertionError, KeyError, ValueError) as error:
                    wrong.append(f"{name}: {request['method']} {request['path']}: {str(error)[:300]!r}")
                for file in served.service.files.all(""):
                    if file.id != "abc123":
                        served.service.files.delete(f"files/{file.id}", "")
    print(recording.stem, dict(outcomes))
    assert not wrong, "\n".join(wrong)
    assert outcomes["answered"] > 0 or outcomes["refused"] > 0
