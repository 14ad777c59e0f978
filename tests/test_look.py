"""How media are looked at: budgets as a renderer's own, stretches as films cut by hand, and JSON both ways."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest

import castor
from castor.content import Audio, Document, Image, Message, Text, Video
from castor.media.look import Look
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence

SAMPLES = Path(castor.__file__).parent / "samples"
RATE_HZ = 16_000


def film(seconds: int = 6, fps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Frames that each have a shade of their own, and a sound that rises."""
    shades = np.linspace(20, 230, seconds * fps).astype(np.uint8)
    frames_FHWC = np.ones((seconds * fps, 48, 64, 3), np.uint8) * shades[:, None, None, None]
    return frames_FHWC, np.linspace(-0.9, 0.9, seconds * RATE_HZ).astype(np.float32)


def same(one: Sequence, other: Sequence) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Sequence)
    )


def changed(renderer: Renderer, **settings: int | float) -> Renderer:
    config = dataclasses.replace(renderer.config, **settings)
    return Renderer(renderer.tokenizer, renderer.space, config, limits=renderer.limits)


@pytest.mark.parametrize(
    ("resolution", "factors"), [("low", (0.25, 1, 0.25)), ("medium", (1, 1, 0.5)), ("high", (4, 4, 1))]
)
def test_a_resolution_is_a_budget(renderer: Renderer, resolution: str, factors: tuple[float, ...]) -> None:
    config = renderer.config
    own = (config.image_tokens, config.frame_tokens, config.page_tokens)
    image, frame, page = (max(1, round(tokens * factor)) for tokens, factor in zip(own, factors, strict=True))
    plain = changed(renderer, image_tokens=image, frame_tokens=frame, page_tokens=page)
    for part in (Image(SAMPLES / "scene.png"), Video.from_frames(*film()[:1], 4.0), Document(SAMPLES / "page.pdf")):
        looked = part.with_look(Look(resolution=resolution))
        assert same(renderer.encode([Message.user(looked)]), plain.encode([Message.user(part)])), part
        assert looked != part and looked.with_look(Look()) == part
    picture = Image(SAMPLES / "scene.png").with_look(Look(num_tokens=image))
    assert same(renderer.encode([Message.user(picture)]), plain.encode([Message.user(Image(SAMPLES / "scene.png"))]))


def test_a_stretch_of_a_film_is_the_film_cut_by_hand() -> None:
    frames_FHWC, samples_S = film()
    whole = Video.from_frames(frames_FHWC, 4.0, samples_S)
    stored = Video(whole.data)
    look = Look(start_s=1.5, end_s=4.0, fps=2.0)
    wanted = [6, 8, 10, 12, 14]
    for part in (whole, stored):
        clip = part.with_look(look).clip()
        assert np.abs(clip.frames_FHWC.mean((1, 2, 3)) - frames_FHWC[wanted].mean((1, 2, 3))).max() < 3
        assert np.allclose(clip.times_s, [1.5, 2.0, 2.5, 3.0, 3.5], atol=1e-3)
        assert (clip.start_s, clip.end_s, clip.duration_s) == (1.5, 4.0, 2.5)
        assert np.array_equal(clip.samples_S, part.clip().samples_S[24_000:64_000])
    assert np.array_equal(whole.with_look(look).clip().frames_FHWC, frames_FHWC[wanted])
    evenly = whole.with_look(Look(start_s=1.0, end_s=3.0)).clip(num_frames=2)
    assert np.array_equal(evenly.frames_FHWC, frames_FHWC[[6, 10]]), "the middles of two equal spans"
    inside = whole.with_look(Look(start_s=1.1, end_s=1.2)).clip()
    assert np.array_equal(inside.frames_FHWC, frames_FHWC[[4]]) and inside.times_s.tolist() == [1.1]
    late = whole.with_look(Look(start_s=5.0, end_s=99.0)).clip()
    assert late.end_s == 6.0 and np.array_equal(late.samples_S, samples_S[80_000:])
    for part in (whole, stored):
        with pytest.raises(ValueError, match=r"lasts 6\.\d s, and has nothing from 7 s on"):
            part.with_look(Look(start_s=7.0)).clip()


def test_an_animation_has_stretches(tmp_path: Path) -> None:
    import PIL.Image

    frames = [PIL.Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 60, 120, 180, 240)]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=500)
    clip = Video(data.getvalue()).with_look(Look(start_s=1.0, end_s=2.0)).clip()
    assert clip.times_s.tolist() == [1.0, 1.5] and np.abs(clip.frames_FHWC[:, 0, 0, 0] - [120.0, 180.0]).max() < 9


def test_sound_of_a_stretch_stands_between_its_frames(renderer: Renderer) -> None:
    frames_FHWC, samples_S = film()
    cut = Video.from_frames(frames_FHWC[8:16], 4.0, samples_S[2 * RATE_HZ : 4 * RATE_HZ])
    part = Video.from_frames(frames_FHWC, 4.0, samples_S).with_look(Look(start_s=2.0, end_s=4.0))
    one, other = (renderer.encode([Message.user(each)]) for each in (part, cut))
    assert np.array_equal(one.frames_SF, other.frames_SF) and np.array_equal(one.patches_PC, other.patches_PC)
    assert not np.array_equal(one.ids_T, other.ids_T), "its times are those of the film"


def test_json_says_how_to_look() -> None:
    picture, clip = (SAMPLES / "scene.png").read_bytes(), (SAMPLES / "clip.mp4").read_bytes()
    message = Message.user(
        Image(picture).with_look(Look(resolution="high")),
        Image(picture).with_look(Look(num_tokens=7)),
        Video(clip).with_look(Look(start_s=0.5, end_s=1.25, fps=3.0, resolution="low")),
        "text",
    )
    assert Message.from_json(message.to_json()) == message
    assert message.to_json()["parts"][2]["videoMetadata"] == {
        "startOffset": "0.500000000s",
        "endOffset": "1.250000000s",
        "fps": 3.0,
    }
    inline = message.to_json()["parts"][0]["inlineData"]
    said = {"inline_data": inline, "media_resolution": {"level": "media_resolution_medium"}}
    assert Message.from_json({"parts": [said]}).parts[0] == Image(picture).with_look(Look(resolution="medium"))
    for wrong, named in (
        ({"mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}, "low, medium, high"),
        ({"mediaResolution": {"numTokens": 0}}, "num_tokens"),
        ({"videoMetadata": {"fps": 2}}, "films"),
        ({"videoMetadata": {"startOffset": "2"}}, "startOffset"),
        ({"videoMetadata": {"speed": 2}}, "speed"),
    ):
        with pytest.raises(ValueError, match=named):
            Message.from_json({"parts": [{"inlineData": inline, **wrong}]})
    with pytest.raises(ValueError, match="for media"):
        Message.from_json({"parts": [{"text": "x", "videoMetadata": {"fps": 2}}]})


def test_what_cannot_be_is_refused(renderer: Renderer) -> None:
    for wrong in ({"fps": 0}, {"fps": 25.0}, {"start_s": 2.0, "end_s": 1.0}, {"num_tokens": 0}, {"resolution": "huge"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Look(**wrong)
    with pytest.raises(ValueError, match="no resolution"):
        Audio(SAMPLES / "speech.wav").with_look(Look(resolution="low"))
    with pytest.raises(ValueError, match="at most"):
        renderer.encode([Message.user(Image(SAMPLES / "scene.png").with_look(Look(num_tokens=100_000)))])
    assert Text("x") != Image(SAMPLES / "scene.png")
