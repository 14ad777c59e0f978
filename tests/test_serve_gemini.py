"""Google's own client against a real server: what it reads is what the model says when asked directly."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from serving import Served, new_model, sample, serving, text_only, wait_until

from castor.content import Audio, Document, Image, Message, Text, Video
from castor.media.look import Look
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
errors = pytest.importorskip("google.genai.errors")
types = pytest.importorskip("google.genai.types")


@pytest.fixture(scope="module")
def client(served: Served) -> object:
    return client_of(served.url)


def client_of(url: str, version: str | None = None, key: str = "local") -> object:
    options = {"base_url": url} | ({"api_version": version} if version else {})
    return genai.Client(api_key=key, http_options=options)


def post(served: Served, method: str, body: object, **more: object) -> httpx.Response:
    return httpx.post(f"{served.url}/v1beta/models/tiny:{method}", json=body, timeout=60, **more)


def picture() -> Image:
    return Image.from_pixels(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_models_are_listed_and_found(served: Served, version: str) -> None:
    client = client_of(served.url, version)
    assert [m.name for m in client.models.list()] == ["models/tiny", "models/local-gemini", "models/Org/Tiny:3b"]
    assert [m.name for m in client.models.list(config={"page_size": 1})][1] == "models/local-gemini"
    model = client.models.get(model="tiny")
    assert (model.input_token_limit, model.name) == (2048, "models/tiny")
    assert "generateContent" in model.supported_actions
    with pytest.raises(errors.ClientError) as wrong:
        client.models.get(model="gemini-2.5-pro")
    assert (wrong.value.code, wrong.value.status) == (404, "NOT_FOUND")


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_an_answer_is_the_model_s(served: Served, version: str) -> None:
    client = client_of(served.url, version)  # the client must outlive its call
    reply = client.models.generate_content(
        model="tiny", contents="how many red", config={"response_modalities": ["TEXT"]}
    )
    direct = text_only(served, Message.user("how many red"))
    assert reply.text == direct.text
    assert reply.candidates[0].finish_reason == "MAX_TOKENS"
    assert reply.usage_metadata.candidates_token_count == 12
    prompt = served.model.renderer.encode([Message.user("how many red")], reply=True)
    assert reply.usage_metadata.prompt_token_count == len(prompt)
    assert [(d.modality, d.token_count) for d in reply.usage_metadata.prompt_tokens_details] == [("TEXT", len(prompt))]
    assert reply.model_version == "tiny"


def test_sampling_reaches_the_model(served: Served, client: object) -> None:
    config = {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": 7, "max_output_tokens": 9}
    reply = client.models.generate_content(
        model="tiny", contents="red circle", config={**config, "response_modalities": ["TEXT"]}
    )
    direct = text_only(served, Message.user("red circle"), temperature=1.0, top_p=0.9, top_k=40, seed=7, max_tokens=9)
    assert reply.text == direct.text
    stop = direct.text[3:5]
    reply = client.models.generate_content(
        model="tiny",
        contents="red circle",
        config={**config, "stop_sequences": [stop], "response_modalities": ["TEXT"]},
    )
    assert stop not in reply.text and direct.text.startswith(reply.text)
    assert reply.candidates[0].finish_reason == "STOP"


def test_candidates_differ_by_their_seed(served: Served, client: object) -> None:
    config = {"temperature": 1.5, "seed": 3, "candidate_count": 3, "response_modalities": ["TEXT"]}
    reply = client.models.generate_content(model="tiny", contents="red", config=config)
    direct = [text_only(served, Message.user("red"), temperature=1.5, seed=3 + at).text for at in range(3)]
    assert [c.content.parts[0].text for c in reply.candidates] == direct
    assert len(set(direct)) == 3
    assert reply.usage_metadata.candidates_token_count == 36


def test_conversations_and_instructions(served: Served, client: object) -> None:
    chat = client.chats.create(model="tiny", config={"system_instruction": "be blue", "response_modalities": ["TEXT"]})
    first = chat.send_message("how many?").text
    second = chat.send_message("and red?").text
    history = [Message.system("be blue"), Message.user("how many?")]
    assert first == text_only(served, *history).text
    assert second == text_only(served, *history, Message.model(first), Message.user("and red?")).text


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_streams_say_the_same(served: Served, version: str) -> None:
    client = client_of(served.url, version)
    config = {"temperature": 0.8, "seed": 1, "response_modalities": ["TEXT"]}
    whole = client.models.generate_content(model="tiny", contents="größer niño", config=config)
    pieces = list(client.models.generate_content_stream(model="tiny", contents="größer niño", config=config))
    assert len(pieces) > 1  # how many depends on how fast the model is beside the pace of pieces
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    assert [piece.candidates[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].candidates[0].finish_reason == "MAX_TOKENS"
    assert pieces[-1].usage_metadata == whole.usage_metadata


def test_the_bytes_of_a_stream(served: Served) -> None:
    body = {"contents": [{"parts": [{"text": "红色"}]}], "generationConfig": {"seed": 1}}
    reply = post(served, "streamGenerateContent?alt=sse", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.content.split(b"\r\n\r\n")
    assert events.pop() == b"" and len(events) > 1
    for event in events:
        assert event.startswith(b"data: {") and event.isascii() and b"\n" not in event
        assert json.loads(event[6:])["candidates"][0]["index"] == 0
    array = post(served, "streamGenerateContent", body)
    assert array.headers["content-type"] == "application/json"
    pieces = [json.loads(event[6:])["candidates"][0] for event in events], [c["candidates"][0] for c in array.json()]
    texts = ["".join(part["text"] for one in some for part in one["content"]["parts"]) for some in pieces]
    assert texts[0] == texts[1] and pieces[0][-1] == pieces[1][-1]


@pytest.mark.parametrize(
    ("name", "kind", "part", "modalities"),
    [
        ("scene.png", "image/png", Image, {"IMAGE"}),
        ("speech.wav", "audio/wav", Audio, {"AUDIO"}),
        ("clip.mp4", "video/mp4", Video, {"VIDEO", "AUDIO"}),
        ("page.pdf", "application/pdf", Document, {"DOCUMENT"}),
    ],
)
def test_every_medium_is_seen(
    served: Served, client: object, name: str, kind: str, part: type, modalities: set[str]
) -> None:
    data = sample(name)
    contents = [types.Part.from_bytes(data=data, mime_type=kind), "what is it"]
    reply = client.models.generate_content(model="tiny", contents=contents, config={"response_modalities": ["TEXT"]})
    message = Message.user(part(data), "what is it")
    assert reply.text == text_only(served, message).text
    used = {d.modality: d.token_count for d in reply.usage_metadata.prompt_tokens_details}
    assert set(used) <= modalities | {"TEXT"} and set(used) & modalities
    prompt = served.model.renderer.encode([message], reply=True)
    assert sum(used.values()) == len(prompt) == reply.usage_metadata.prompt_token_count
    assert used.get("AUDIO", 0) == len(prompt.frame_at_S)
    assert sum(used.get(m, 0) for m in ("IMAGE", "VIDEO", "DOCUMENT")) == len(prompt.patch_at_P)
    counted = client.models.count_tokens(model="tiny", contents=contents)
    assert counted.total_tokens == len(prompt)


def test_pictures_and_pages_are_told_apart(served: Served) -> None:
    page, still = Document(sample("page.pdf")), picture()
    message = Message.user(page, "a", still, page, "b")
    reply = post(served, "countTokens", {"contents": [message.to_json()]}).json()
    counts = {d["modality"]: d["tokenCount"] for d in reply["promptTokensDetails"]}
    one = {
        kind: len(served.model.renderer.encode([Message.user(part)]).patch_at_P)
        for kind, part in (("DOCUMENT", page), ("IMAGE", still))
    }
    assert (counts["DOCUMENT"], counts["IMAGE"]) == (2 * one["DOCUMENT"], one["IMAGE"])


def test_drawn_pictures_come_back(served: Served, client: object) -> None:
    config = {"temperature": 1.0, "max_output_tokens": 40, "response_modalities": ["TEXT", "IMAGE"]}
    for seed in range(40):  # an untrained model draws by chance
        direct = served.model.generate("draw", temperature=1.0, max_tokens=40, seed=seed)
        if direct.images:
            break
    reply = client.models.generate_content(model="tiny", contents="draw", config={**config, "seed": seed})
    drawn = [part for part in reply.parts if part.inline_data]
    assert [part.inline_data.data for part in drawn] == [image.data for image in direct.images]
    assert drawn[0].inline_data.mime_type == "image/png"
    used = {d.modality: d.token_count for d in reply.usage_metadata.candidates_tokens_details}
    assert used["IMAGE"] > 0
    only = client.models.generate_content(
        model="tiny", contents="draw", config={**config, "seed": seed, "response_modalities": ["IMAGE"]}
    )
    assert only.parts[0].inline_data.mime_type == "image/png"
    assert not any(part.text for part in only.parts)


def test_both_spellings_at_every_level(served: Served) -> None:
    data = base64.urlsafe_b64encode(picture().data).decode().rstrip("=")
    camel = {
        "systemInstruction": {"parts": [{"text": "x"}]},
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": picture_base64()}}]}],
        "generationConfig": {"maxOutputTokens": 5, "topK": 40.0, "stopSequences": ["##"], "candidateCount": "1"},
        "safetySettings": [],
    }
    snake = {
        "system_instruction": {"parts": [{"text": "x"}]},
        "contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": data}}], "role": "user"}],
        "generation_config": {"max_output_tokens": 5, "top_k": 40, "stop_sequences": ["##"], "candidate_count": 1},
        "safety_settings": [],
    }
    replies = [post(served, "generateContent", body).json() for body in (camel, snake)]
    replies[1]["usageMetadata"].pop("cachedContentTokenCount", None)  # the second finds what the first has read
    assert replies[0]["candidates"] == replies[1]["candidates"]
    assert replies[0]["usageMetadata"] == replies[1]["usageMetadata"]


def picture_base64() -> str:
    return base64.b64encode(picture().data).decode()


def with_config(**config: object) -> dict:
    return {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}


def with_part(part: object) -> dict:
    return {"contents": [{"parts": [part]}]}


def with_schema(schema: dict) -> dict:
    return with_config(responseMimeType="application/json", responseSchema=schema)


PICTURE = {"mimeType": "image/png", "data": base64.b64encode(sample("scene.png")).decode()}
REFUSED = [
    ({}, "contents"),
    ({"contents": []}, "contents"),
    ({"contents": [{"parts": []}]}, "parts"),
    ({"contents": [{"parts": [{"text": "x"}], "role": "system"}]}, "role"),
    ({"contents": [{"parts": [{"text": "x"}]}], "surprise": 1}, "surprise"),
    (with_config(minP=0.1), "minP"),
    (with_config(temperature=-1), "temperature"),
    (with_config(temperature="hot"), "temperature"),
    (with_config(topP=2), "topP"),
    (with_config(topK=0.5), "topK"),
    (with_config(maxOutputTokens=0), "maxOutputTokens"),
    (with_config(seed=10**40), "seed"),
    (with_config(candidateCount=99), "candidateCount"),
    (with_config(stopSequences=[""]), "stopSequences"),
    (with_config(presencePenalty=0.5), "presencePenalty"),
    (with_config(responseMimeType="text/csv"), "responseMimeType"),
    (with_config(responseSchema={"type": "OBJECT"}), "responseMimeType"),
    (with_schema({"type": "WORD"}), "responseSchema.type"),
    (with_schema({"type": "OBJECT", "surprise": 1}), "surprise"),
    (with_schema({"anyOf": [{"minItems": -1}]}), "responseSchema.anyOf[0].minItems"),
    (with_config(responseMimeType="application/json", responseJsonSchema=[]), "responseJsonSchema"),
    (with_config(responseMimeType="application/json", responseJsonSchema={"type": "word"}), "response_schema"),
    (with_config(responseMimeType="application/json", responseModalities=["IMAGE"]), "JSON"),
    (with_config(responseModalities=["AUDIO"]), "responseModalities"),
    (with_config(logprobs=3), "responseLogprobs"),
    (with_config(responseLogprobs=True, logprobs=21), "logprobs"),
    (with_config(thinkingConfig={"effort": 1}), "effort"),
    (with_part({"text": 5}), "text"),
    (with_part({"text": "x", "inlineData": {}}), "parts[0]"),
    (with_part({"inlineData": {"mimeType": "image/png", "data": "%%"}}), "base64"),
    (with_part({"inlineData": {"mimeType": "text/plain", "data": "aGk="}}), "text/plain"),
    (with_part({"inlineData": {"mimeType": "image/png", "data": "aGk="}}), "not a known kind"),
    (with_part({"fileData": {"fileUri": "https://example.com/a.png"}}), "fileData"),
    (with_part({"fileData": {"fileUri": "file:///etc/passwd", "mimeType": "image/png"}}), "fileData"),
    (with_part({"text": "x", "videoMetadata": {"fps": 2}}), "videoMetadata"),
    (with_part({"inlineData": {**PICTURE, "displayName": "p"}, "videoMetadata": {"fps": 2}}), "videoMetadata"),
    (
        with_part({"inlineData": PICTURE, "mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}),
        "mediaResolution",
    ),
    (with_config(mediaResolution="FINE"), "mediaResolution"),
    ({**with_config(), "tools": [{"googleSearch": {}}]}, "googleSearch"),
    ({**with_config(), "tools": [{"functionDeclarations": [{"name": "f"}]}]}, "tools"),
    ({**with_config(), "cachedContent": 1}, "cachedContent"),
    ({**with_config(), "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "functionCallingConfig"),
]


@pytest.mark.parametrize(("body", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_would_change_the_answer_is_refused_by_name(served: Served, body: dict, named: str) -> None:
    for method in ("generateContent", "streamGenerateContent?alt=sse"):
        reply = post(served, method, body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
        assert named in error["message"]


def test_media_are_looked_at_as_is_asked(served: Served, client: object) -> None:
    """Resolutions and stretches through the client: the prompt of a part that is looked at so, count for count."""
    picture, film = sample("scene.png"), sample("clip.mp4")
    level = types.PartMediaResolution(level="MEDIA_RESOLUTION_LOW")
    blob, moving = types.Blob(data=picture, mime_type="image/png"), types.Blob(data=film, mime_type="video/mp4")
    cut = types.VideoMetadata(start_offset="0.5s", end_offset="1.5s", fps=4.0)
    uploaded = client.files.upload(file=io.BytesIO(film), config={"mime_type": "video/mp4"})
    stretch = Video(film).with_look(Look(start_s=0.5, end_s=1.5, fps=4.0))
    for parts, config, shown in (
        ([types.Part(inline_data=blob, media_resolution=level)], {}, Image(picture).with_look(Look(resolution="low"))),
        (
            [types.Part(inline_data=blob)],
            {"media_resolution": "MEDIA_RESOLUTION_HIGH"},
            Image(picture).with_look(Look(resolution="high")),
        ),
        (
            [types.Part(inline_data=blob, media_resolution=level)],
            {"media_resolution": "MEDIA_RESOLUTION_HIGH"},
            Image(picture).with_look(Look(resolution="low")),
        ),
        ([types.Part(inline_data=moving, video_metadata=cut)], {}, stretch),
        (
            [types.Part(file_data=types.FileData(file_uri=uploaded.uri, mime_type="video/mp4"), video_metadata=cut)],
            {},
            stretch,
        ),
    ):
        message = Message.user(shown, "what is it?")
        reply = client.models.generate_content(
            model="tiny",
            contents=[types.Content(role="user", parts=[*parts, types.Part(text="what is it?")])],
            config={"response_modalities": ["TEXT"], **config},
        )
        assert reply.text == text_only(served, message).text
        sequence = served.model.encode_prompt([message])
        counts = {each.modality: each.token_count for each in reply.usage_metadata.prompt_tokens_details}
        assert reply.usage_metadata.prompt_token_count == len(sequence)
        seen = counts.get("IMAGE", 0) + counts.get("VIDEO", 0)
        assert seen == len(sequence.patch_at_P) and counts.get("AUDIO", 0) == len(sequence.frame_at_S)
    looks = [Image(picture).with_look(Look(resolution=name)) for name in ("low", "medium", "high")]
    low, medium, high = (len(served.model.encode_prompt([Message.user(look)]).patch_at_P) for look in looks)
    assert low < medium < high


def test_the_client_reads_the_refusal(client: object) -> None:
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="tiny", contents="x", config={"presence_penalty": 0.5})
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert "presencePenalty" in refused.value.message
    with pytest.raises(errors.ServerError) as missing:
        client.tunings.get(name="tunedModels/x")
    assert (missing.value.code, missing.value.status) == (501, "UNIMPLEMENTED")
    with pytest.raises(errors.ClientError):
        list(client.models.generate_content_stream(model="nothing", contents="x"))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1beta/models/tiny:predict", 501),
        ("/v1/models/tiny:predict", 501),
        ("/v1/tunedModels/t1", 501),
        ("/v1beta/corpora", 501),
        ("/v1beta/fileSearchStores/s:importFile", 404),
        ("/v1beta/fileSearchStores/s:sing", 405),
        ("/v1beta/auth_tokens", 501),
        ("/v1beta/models/tiny:sing", 404),
        ("/v1beta/models/tiny", 404),
        ("/v2/models", 404),
        ("/nothing", 404),
    ],
)
def test_what_is_not_offered_says_so(served: Served, path: str, status: int) -> None:
    reply = httpx.post(served.url + path, json={})
    assert reply.status_code == status
    wanted = {501: "UNIMPLEMENTED", 404: "NOT_FOUND", 405: "INVALID_ARGUMENT"}
    assert reply.json()["error"]["status"] == wanted[status]


def test_limits_of_bodies_files_and_pixels(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    from castor.media.limits import Limits

    limits = Limits(max_bytes=20_000, max_pixels=10_000)
    model = new_model(tiny_config, renderer, codec)
    with serving(model, max_body_bytes=100_000, limits=limits) as served:
        reply = post(served, "generateContent", with_part({"text": "x" * 100_000}))
        assert (reply.status_code, reply.json()["error"]["status"]) == (413, "INVALID_ARGUMENT")
        reply = httpx.post(f"{served.url}/v1/models/tiny:generateContent", content=iter([b"x" * 60_000] * 2))
        assert reply.status_code == 413
        head = "POST /v1/models/tiny:generateContent HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(served.socket.getsockname()) as connection:  # too much in the last piece
            connection.sendall(head.encode())
            for size in (60_000, 60_000, 0):
                connection.sendall(f"{size:x}\r\n".encode() + b"x" * size + b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        large = base64.b64encode(bytes(30_000)).decode()
        reply = post(served, "countTokens", with_part({"inlineData": {"mimeType": "image/png", "data": large}}))
        assert reply.status_code == 400 and "max_bytes" in reply.json()["error"]["message"]
        wide = Image.from_pixels(np.zeros((200, 200, 3), dtype=np.uint8)).data
        part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(wide).decode()}}
        reply = post(served, "generateContent", with_part(part))
        assert reply.status_code == 400 and "max_pixels" in reply.json()["error"]["message"]


def test_keys(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    import hashlib

    hashed = "sha256:" + hashlib.sha256(b"second-secret").hexdigest()
    with serving(new_model(tiny_config, renderer, codec), keys=("first-secret", hashed)) as served:
        for key in ("first-secret", "second-secret"):
            client = client_of(served.url, key=key)
            assert client.models.get(model="tiny").name == "models/tiny"
            assert httpx.get(f"{served.url}/v1/models?key={key}").status_code == 200
            assert httpx.get(f"{served.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        for key in ("third", hashed, "first-secre"):
            client = client_of(served.url, key=key)
            with pytest.raises(errors.ClientError) as wrong:
                client.models.get(model="tiny")
            assert (wrong.value.code, wrong.value.status) == (401, "UNAUTHENTICATED")
        assert httpx.get(f"{served.url}/v1/models").status_code == 401
        assert "first-secret" not in str(vars(served.service))


def held(served: Served) -> threading.Event:
    """Makes the model wait at its first token until the event is set."""
    go = threading.Event()
    forward = served.service.answerer.engine.forward
    original = forward.run

    def slow(spans: object) -> object:
        go.wait(30)
        return original(spans)

    forward.run = slow
    return go


def slowed(served: Served) -> list[int]:
    """Makes each step take 20 ms more; the list grows by one at each."""
    steps: list[int] = []
    forward = served.service.answerer.engine.forward
    original = forward.run

    def slow(spans: object) -> object:
        steps.append(1)
        time.sleep(0.02)
        return original(spans)

    forward.run = slow
    return steps


def test_requests_are_answered_together(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec)) as served:
        go, sizes = held(served), []
        forward = served.service.answerer.engine.forward
        original = forward.run

        def counted(spans: list[object]) -> object:
            sizes.append(len(spans))
            return original(spans)

        forward.run = counted
        replies: list[str] = []

        def ask(at: int) -> None:
            body = with_part({"text": f"red {at}"}) | {"generationConfig": {"responseModalities": ["TEXT"]}}
            reply = post(served, "generateContent", body).json()
            replies.append(reply["candidates"][0]["content"]["parts"][0]["text"])

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.service.answerer.num_inside == 3)
        go.set()
        for thread in threads:
            thread.join()
        assert max(sizes) >= 2
        assert sorted(replies) == sorted(text_only(served, Message.user(f"red {at}")).text for at in range(3))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_is_told(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec)) as served:

        def broken(spans: object) -> object:
            raise RuntimeError("out of order")

        served.service.answerer.engine.forward.run = broken
        reply = post(served, "generateContent", with_part({"text": "x"}))
        assert (reply.status_code, reply.json()["error"]["status"]) == (500, "INTERNAL")
        reply = post(served, "generateContent", with_part({"text": "x"}))
        assert (reply.status_code, reply.json()["error"]["status"]) == (503, "UNAVAILABLE")
        assert httpx.get(f"{served.url}/readyz").json() == {"status": "failed"}


def test_the_queue_is_bounded(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec), max_rows=1, max_waiting=1) as served:
        go, statuses = held(served), []

        def ask() -> None:
            statuses.append(post(served, "generateContent", with_part({"text": "x"})).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.service.answerer.num_inside == 2)
        refused = post(served, "generateContent", with_part({"text": "x"}))
        assert (refused.status_code, refused.json()["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert int(refused.headers["retry-after"]) >= 1
        go.set()
        for thread in threads:
            thread.join()
        assert statuses == [200, 200] and served.service.answerer.num_inside == 0


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_who_hangs_up_ends_the_answer(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, method: str
) -> None:
    with serving(new_model(tiny_config, renderer, codec)) as served:
        steps = slowed(served)
        body = with_config(maxOutputTokens=1500, responseModalities=["TEXT"], temperature=1)
        content = json.dumps(body).encode()
        head = f"POST /v1/models/tiny:{method} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection(served.socket.getsockname()) as connection:
            connection.sendall(head.encode() + content)
            wait_until(lambda: len(steps) > 3)
        wait_until(lambda: served.service.answerer.num_inside == 0)
        time.sleep(0.1)
        done = len(steps)
        time.sleep(0.3)
        assert len(steps) == done < 1000
        assert post(served, "generateContent", with_config(maxOutputTokens=1)).status_code == 200


@pytest.mark.parametrize("path", ["/v1beta/models/tiny:streamGenerateContent?alt=sse", "/v1/chat/completions"])
def test_a_stream_has_its_head_before_a_slow_first_token(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("castor.server.service.HEAD_S", 0.05)
    with serving(new_model(tiny_config, renderer, codec)) as served:
        go = held(served)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
        body = body if "chat" in path else with_config(responseModalities=["TEXT"])
        with httpx.stream("POST", served.url + path, json=body, timeout=20) as reply:  # returns with the head
            assert reply.status_code == 200 and not go.is_set()
            go.set()
            lines = [line for line in reply.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines) and len(lines) >= 1
        wait_until(lambda: served.service.answerer.num_inside == 0)
        body |= {"cachedContent": "cachedContents/none"} if "chat" not in path else {"temperature": -1}
        assert httpx.post(served.url + path, json=body, timeout=20).status_code in (400, 403, 404)


def test_a_deadline_of_the_client_is_kept(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec)) as served:
        steps = slowed(served)
        body = with_config(maxOutputTokens=1500, responseModalities=["TEXT"], temperature=1)
        reply = post(served, "generateContent", body, headers={"x-server-timeout": "0.3"})
        assert (reply.status_code, reply.json()["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
        assert len(steps) < 30
        assert post(served, "generateContent", with_config(maxOutputTokens=1)).status_code == 200


def test_async_clients(served: Served) -> None:
    import asyncio

    async def ask() -> list[str]:
        client = client_of(served.url)
        replies = await asyncio.gather(
            *(
                client.aio.models.generate_content(
                    model="tiny", contents=f"red {i}", config={"response_modalities": ["TEXT"]}
                )
                for i in range(4)
            )
        )
        return [reply.text for reply in replies]

    assert asyncio.run(ask()) == [text_only(served, Message.user(f"red {i}")).text for i in range(4)]


def test_a_pil_picture_goes_through(served: Served, client: object) -> None:
    from PIL import Image as Pil

    pixels = picture().pixels()
    reply = client.models.generate_content(
        model="Org/Tiny:3b", contents=[Pil.fromarray(pixels), "x"], config={"response_modalities": ["TEXT"]}
    )
    buffer = io.BytesIO()
    Pil.fromarray(pixels).save(buffer, "PNG")
    assert reply.text == text_only(served, Message.user(Image(buffer.getvalue()), Text("x"))).text
