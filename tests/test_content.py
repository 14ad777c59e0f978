"""Messages: JSON both ways, equality, refusals, and parts made from arrays."""

import base64
import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.calls import FunctionCall, FunctionResponse
from castor.content import Audio, Document, Image, Message, Part, Text, Video, part_from_json, part_to_json
from castor.media.image import encode_png
from castor.media.limits import Limits

PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
)


def picture(seed: int = 0, size_px: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)


def sound(seed: int = 0, length: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


def film(seed: int = 0) -> Video:
    frames = np.stack([picture(seed + index, 16) for index in range(2)])
    return Video.from_frames(frames, 4.0, sound(seed, 8000) if seed % 2 else None)


seeds = st.integers(0, 5)
parts = st.one_of(
    st.text().map(Text),
    seeds.map(lambda seed: Image.from_pixels(picture(seed))),
    seeds.map(lambda seed: Audio.from_samples(sound(seed), rate_hz=[16000, 24000][seed % 2])),
    seeds.map(film),
    st.just(Document(PDF)),
    st.just(Audio(bytes(20), mime_type="audio/L16;rate=16000")),
)
messages = st.builds(Message, st.sampled_from(["user", "model", "system"]), st.lists(parts, max_size=5).map(tuple))


@given(messages)
@settings(max_examples=60, deadline=None)
def test_json_round_trip(message: Message) -> None:
    again = Message.from_json(json.loads(json.dumps(message.to_json())))
    assert again == message and again.to_json() == message.to_json()


@given(messages)
@settings(max_examples=20, deadline=None)
def test_pickles_and_copies_are_equal(message: Message) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) == message


def snake(obj: object) -> object:
    """The same JSON with the other spelling of keys and the other base64 alphabet."""
    if isinstance(obj, dict):
        renamed = {"inlineData": "inline_data", "mimeType": "mime_type"}
        return {
            renamed.get(key, key): (
                value.replace("+", "-").replace("/", "_").rstrip("=") if key == "data" else snake(value)
            )
            for key, value in obj.items()
        }
    return [snake(item) for item in obj] if isinstance(obj, list) else obj


@given(messages)
@settings(max_examples=30, deadline=None)
def test_both_spellings_and_alphabets_are_read(message: Message) -> None:
    assert Message.from_json(snake(message.to_json())) == message


def test_json_is_the_gemini_content() -> None:
    pixels = picture()
    message = Message.user("What is this?", Image.from_pixels(pixels))
    data = base64.b64encode(encode_png(pixels)).decode()
    assert message.to_json() == {
        "role": "user",
        "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": data}}],
    }
    assert part_from_json(part_to_json(message.parts[1])) == message.parts[1]


def test_makers_and_views() -> None:
    message = Message.model("a", Image.from_pixels(picture()), Text("b"))
    assert message.role == "model" and message.text == "ab" and message.images == (message.parts[1],)
    assert Message.system("x") == Message("system", (Text("x"),))
    assert Message.user() == Message("user", [])
    assert Message.from_json({"parts": [{"text": "hi", "inlineData": None}]}) == Message.user("hi")


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        ([], "message: must be a JSON object"),
        ({"role": "user"}, "parts must be a list"),
        ({"role": "robot", "parts": []}, "'robot'"),
        ({"role": ["user"], "parts": []}, "role must be"),
        ({"parts": [], "extra": 1}, "unknown key 'extra'"),
        ({"parts": ["hi"]}, r"parts\[0\]: must be a JSON object"),
        ({"parts": [{}]}, "exactly one"),
        ({"parts": [{"text": "a"}, {"text": "b", "fileData": {}}]}, r"parts\[1\]: needs exactly one"),
        ({"parts": [{"text": 5}]}, "must be a string"),
        ({"parts": [{"executableCode": {}}]}, "'executableCode'"),
        ({"parts": [{"functionCall": {}}]}, r"parts\[0\].functionCall: .* name of a function"),
        ({"parts": [{"functionCall": {"name": "f", "args": [1]}}]}, "args must be an object"),
        ({"parts": [{"functionResponse": {"name": "f", "response": {"a": float("nan")}}}]}, "not JSON"),
        ({"parts": [{"functionResponse": {"name": "f", "output": 1}}]}, "unknown key 'output'"),
        ({"parts": [{"functionCall": {"name": "f", "id": 7}}]}, "id must be a string"),
        ({"parts": [{"functionCall": {"name": "f"}, "text": "a"}]}, "exactly one"),
        ({"parts": [{"functionCall": {"name": "f"}, "thought": True}]}, "beside functionCall"),
        ({"parts": [{"text": "a", "thought": "yes"}]}, "thought is true or false"),
        ({"parts": [{"inlineData": {"data": "AAAA"}}]}, "mimeType is needed"),
        ({"parts": [{"inlineData": {"mimeType": "image/png"}}]}, "base64 data must be a string"),
        ({"parts": [{"inlineData": {"mimeType": "image/png", "data": "A"}}]}, "not valid base64"),
        ({"parts": [{"inlineData": {"mimeType": "image/png", "data": "é!"}}]}, "not valid base64"),
        ({"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}, "empty"),
        (
            {"parts": [{"inlineData": {"mimeType": "text/html", "data": "AAAA"}}]},
            "unsupported mimeType 'text/html'",
        ),
        ({"parts": [{"inlineData": {"mimeType": "image/png", "mime_type": "image/png"}}]}, "twice"),
        (
            {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA", "size": 3}}]},
            "unknown key 'size'",
        ),
        ({"parts": [{"fileData": {"fileUri": "a.png"}}]}, "no folder"),
        ({"parts": [{"fileData": {"fileUri": "https://x.org/a.png"}}]}, "remote"),
    ],
)
def test_wrong_json_is_named(obj: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Message.from_json(obj)


def test_files_are_read_only_below_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    image = Image.from_pixels(picture())
    for path in (folder / "a b.png", folder / "deep/c.png", tmp_path / "secret.png"):
        path.write_bytes(image.data)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")

    def read(uri: str, **extra: str) -> Part:
        return part_from_json({"fileData": {"fileUri": uri, **extra}}, base_dir=folder)

    assert read("a b.png") == read("deep/../a b.png") == read("deep/c.png", mimeType="image/png") == image
    assert read(f"file://{folder}/a%20b.png") == image and read(str(folder / "deep/c.png")) == image
    for uri in ("../secret.png", "link.png", str(tmp_path / "secret.png"), f"file://{tmp_path}/secret.png"):
        with pytest.raises(ValueError, match="outside"):
            read(uri)
    with pytest.raises(ValueError, match="no such file"):
        read("missing.png")
    with pytest.raises(ValueError, match="not a usable path|cannot be read"):
        read("a\0b")
    with pytest.raises(ValueError, match="audio"):
        read("a b.png", mimeType="audio/wav")
    assert read("a b.png").name == "a b.png"


def test_sources_agree(tmp_path: Path) -> None:
    data = encode_png(picture())
    path = tmp_path / "dot.png"
    path.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    sources = [path, str(path), f"file://{path}", data, bytearray(data), memoryview(data), uri]
    assert len({Image(source) for source in sources}) == 1
    assert Image(path).name == "dot.png" and Image(data, name="mine").name == "mine"
    assert Document("data:application/pdf," + "".join(f"%{byte:02x}" for byte in PDF)) == Document(PDF)


def test_parts_from_arrays_encode_only_when_asked() -> None:
    for part in (Image.from_pixels(picture()), Audio.from_samples(sound()), film(1)):
        assert "not encoded" in repr(part)
        assert part.data and "bytes" in repr(part)
        assert type(part)(part.data) == part


def test_parts_are_values() -> None:
    pixels = picture()
    part = Image.from_pixels(pixels)
    pixels[:] = 0
    part.pixels()[:] = 0
    assert np.array_equal(part.pixels(), picture())
    with pytest.raises(AttributeError, match="immutable"):
        part.name = "other"
    with pytest.raises(AttributeError):
        part.extra = 1
    assert part != Image.from_pixels(picture(1)) and part != Text("x")
    assert hash(part) == hash(Image.from_pixels(picture(), name="another name"))
    read = Image(part.data)
    read.pixels()[:] = 0
    assert np.array_equal(read.pixels(), picture())


def test_clip_of_arrays_is_exact() -> None:
    frames = np.stack([picture(index, 16) for index in range(16)])
    clip = Video.from_frames(frames, 8.0, sound(0, 32000)).clip()
    assert np.array_equal(clip.frames_FHWC, frames) and np.array_equal(clip.samples_S, sound(0, 32000))
    assert np.array_equal(clip.times_s, np.arange(16) / 8) and clip.duration_s == 2.0


def test_samples_of_another_rate_are_resampled() -> None:
    wave = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
    samples = Audio.from_samples(wave, rate_hz=44100).samples()
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(samples) == 16000 and np.abs(samples - wanted)[500:-500].max() < 1e-3


def test_wrong_arrays_are_refused() -> None:
    for make in (
        lambda: Image.from_pixels(picture().astype(np.float32)),
        lambda: Image.from_pixels(picture()[..., :2]),
        lambda: Image.from_pixels(np.zeros((0, 4, 3), np.uint8)),
        lambda: Audio.from_samples(np.zeros(0, np.float32)),
        lambda: Audio.from_samples(np.zeros(5, np.int16)),
        lambda: Audio.from_samples(np.array([np.nan], np.float32)),
        lambda: Audio.from_samples(sound(), rate_hz=0),
        lambda: Video.from_frames(picture()[None], fps=0),
        lambda: Video.from_frames(picture(), fps=8),
        lambda: Video.from_frames(np.zeros((0, 4, 4, 3), np.uint8), fps=8),
        lambda: Message("user", ("text",)),
        lambda: Text(5),
    ):
        with pytest.raises(ValueError, match="must|needs|limit"):
            make()


def test_a_part_keeps_to_later_limits() -> None:
    for part in (Image.from_pixels(picture()), Image(encode_png(picture()))):
        assert part.pixels().shape == (8, 8, 3)
        with pytest.raises(ValueError, match="max_pixels=10"):
            part.pixels(Limits(max_pixels=10))
    with pytest.raises(ValueError, match="max_seconds"):
        Audio.from_samples(sound(0, 16000)).samples(Limits(max_seconds=0.5))
    with pytest.raises(ValueError, match="max_seconds"):
        film().clip(Limits(max_seconds=0.1))
    small = {"parts": [{"inlineData": {"mimeType": "image/png", "data": "A" * 4000}}]}
    with pytest.raises(ValueError, match="max_bytes=100"):
        Message.from_json(small, limits=Limits(max_bytes=100))


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ValueError, match="not Unicode text"):
        Text("a \udcff")


def test_thoughts_and_calls_round_trip() -> None:
    call = FunctionCall("weather", {"city": "Köln", "days": [1, 2], "units": {"metric": True}}, id="c1")
    messages = [
        Message.model(Text("Look it up.", thought=True), call, FunctionCall("now")),
        Message.user(FunctionResponse("weather", {"sky": "blue", "high": 21.5}, id="c1"), FunctionResponse("now")),
    ]
    for message in messages:
        values = json.loads(json.dumps(message.to_json()))
        assert Message.from_json(values) == message
        assert hash(Message.from_json(values)) == hash(message)
    assert messages[0].to_json()["parts"][:2] == [
        {"text": "Look it up.", "thought": True},
        {"functionCall": {"id": "c1", "name": "weather", "args": dict(call.args)}},
    ]
    snake = {"parts": [{"function_call": {"name": "now"}}, {"text": "hm", "thought": False}]}
    assert Message.from_json(snake).parts == (FunctionCall("now"), Text("hm"))
    assert Message.model(Text("hidden", thought=True), "said").text == "said"
    assert Text("a") != Text("a", thought=True)
    changed = {"a": [1]}
    kept = FunctionCall("f", changed)
    changed["a"].append(2)
    assert kept.args == {"a": [1]}
