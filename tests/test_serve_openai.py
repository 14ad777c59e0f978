"""OpenAI's own client against a real server, on every address that it may use."""

from __future__ import annotations

import base64

import httpx
import pytest
from serving import Served, new_model, sample, serving, text_only

from castor.content import Audio, Document, Image, Message, Video
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.tokens.render import Renderer

openai = pytest.importorskip("openai")


def client_of(served: Served, mount: str = "/v1", key: str = "local") -> object:
    return openai.OpenAI(api_key=key, base_url=served.url + mount, max_retries=0)


@pytest.fixture(scope="module")
def client(served: Served) -> object:
    return client_of(served)


@pytest.mark.parametrize("mount", ["/v1", "/openai/v1", "/v1beta/openai"])
def test_an_answer_is_the_model_s(served: Served, mount: str) -> None:
    client = client_of(served, mount)
    messages = [
        {"role": "system", "content": "be blue"},
        {"role": "user", "content": "how many"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": [{"type": "text", "text": "and red?"}]},
    ]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=9)
    asked = [Message.system("be blue"), Message.user("how many"), Message.model("three"), Message.user("and red?")]
    assert reply.choices[0].message.content == text_only(served, *asked, max_tokens=9).text
    assert reply.choices[0].finish_reason == "length"
    prompt = served.model.renderer.encode(asked, reply=True)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(prompt), 9)


def test_models(served: Served, client: object) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "local-gemini", "Org/Tiny:3b"]
    assert client.models.retrieve("Org/Tiny:3b").owned_by == "castor"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-5")
    assert "not served" in missing.value.message
    assert [model.id for model in client_of(served, "/openai/v1").models.list()][0] == "tiny"


def test_streams_say_the_same(served: Served, client: object) -> None:
    options = {"model": "tiny", "messages": [{"role": "user", "content": "größer"}], "temperature": 0.9, "seed": 4}
    whole = client.chat.completions.create(**options, n=2)
    pieces = list(client.chat.completions.create(**options, n=2, stream=True, stream_options={"include_usage": True}))
    assert pieces[-1].choices == [] and pieces[-1].usage == whole.usage
    for index in range(2):
        choices = [choice for piece in pieces for choice in piece.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[index].message.content
        assert [c.finish_reason for c in choices if c.finish_reason] == [whole.choices[index].finish_reason]
    plain = list(client.chat.completions.create(**options, stream=True))
    assert all(piece.choices and piece.usage is None for piece in plain)
    direct = text_only(served, Message.user("größer"), temperature=0.9, seed=5).text
    assert whole.choices[1].message.content == direct


def test_the_bytes_of_a_stream(served: Served) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.content.endswith(b"data: [DONE]\n\n") and reply.content.startswith(b"data: {")


def uri(name: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(sample(name)).decode()}"


def test_every_medium_is_seen(served: Served, client: object) -> None:
    sound = {"data": base64.b64encode(sample("speech.wav")).decode(), "format": "wav"}
    cases = [
        (
            {"type": "image_url", "image_url": {"url": uri("scene.png", "image/png"), "detail": "high"}},
            Image,
            "scene.png",
        ),
        ({"type": "input_audio", "input_audio": sound}, Audio, "speech.wav"),
        ({"type": "video_url", "video_url": {"url": uri("clip.mp4", "video/mp4")}}, Video, "clip.mp4"),
        ({"type": "file", "file": {"file_data": uri("page.pdf", "application/pdf")}}, Document, "page.pdf"),
    ]
    for part, medium, name in cases:
        content = [part, {"type": "text", "text": "what is it"}]
        reply = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])
        assert (
            reply.choices[0].message.content == text_only(served, Message.user(medium(sample(name)), "what is it")).text
        )


def test_drawn_pictures_come_back(served: Served, client: object) -> None:
    for seed in range(40):  # an untrained model draws by chance
        direct = served.model.generate("draw", temperature=1.0, max_tokens=40, seed=seed)
        if direct.images:
            break
    options = {"model": "tiny", "messages": [{"role": "user", "content": "draw"}], "temperature": 1.0, "seed": seed}
    reply = client.chat.completions.create(**options, max_tokens=40, modalities=["text", "image"])
    urls = [image["image_url"]["url"] for image in reply.choices[0].message.images]
    assert [base64.b64decode(url.partition(",")[2]) for url in urls] == [image.data for image in direct.images]


REFUSED = [
    ({"temperature": -1}, "temperature"),
    ({"n": 0}, "n"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"stop": [""]}, "stop"),
    ({"extra_body": {"surprise": 1}}, "surprise"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0]"),
    ({"modalities": ["audio"]}, "modalities"),
]


@pytest.mark.parametrize(("more", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_what_would_change_the_answer_is_refused_by_name(client: object, more: dict, field: str) -> None:
    options = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **more}
    for is_stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**options, stream=is_stream)
        assert (refused.value.param, refused.value.type) == (field, "invalid_request_error")


def test_nothing_is_fetched(client: object) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(openai.BadRequestError, match="nothing is fetched"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])


def test_what_is_not_offered_says_so(served: Served) -> None:
    client = openai.OpenAI(api_key="x", base_url=served.url + "/v1", max_retries=3)
    with pytest.raises(openai.APIStatusError) as missing:
        client.audio.speech.create(model="tiny", input="x", voice="alloy")
    assert missing.value.status_code == 501 and missing.value.body["type"] == "server_error"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])


def test_a_wrong_key(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec), keys=("right",)) as served:
        messages = [{"role": "user", "content": "x"}]
        client_of(served, key="right").chat.completions.create(model="tiny", messages=messages, max_tokens=1)
        with pytest.raises(openai.AuthenticationError) as wrong:
            client_of(served, key="wrong").chat.completions.create(model="tiny", messages=messages)
        assert wrong.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client_of(served, key="wrong").models.list()
