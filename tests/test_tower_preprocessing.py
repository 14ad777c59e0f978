"""What the media towers are given, against transformers' processors on decoded files: pictures, log-mel, video."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import castor
from castor.content import Audio, Image, Message, Video
from castor.tokens import audio, video
from castor.tokens.pack import collate
from castor.tokens.render import Renderer
from castor.tokens.vision import patchify, resize_to_budget

transformers = pytest.importorskip("transformers")
SAMPLES = Path(castor.__file__).parent / "samples"


def picture_file(folder: Path, height_px: int, width_px: int, ending: str) -> Path:
    """The sample scene stretched to these pixels, with noise, as a file."""
    scene = Pillow.open(SAMPLES / "scene.png").convert("RGB").resize((width_px, height_px))
    noise = np.random.default_rng(height_px).integers(-20, 21, (height_px, width_px, 3))
    pixels = np.clip(np.asarray(scene).astype(int) + noise, 0, 255).astype(np.uint8)
    path = folder / f"{height_px}x{width_px}.{ending}"
    Pillow.fromarray(pixels).save(path)
    return path


FILES = [(7, 9, "png"), (64, 64, "png"), (333, 217, "jpg"), (40, 700, "webp"), (1200, 90, "png"), (1536, 2048, "jpg")]


@pytest.mark.parametrize("max_tokens", [70, 280, 1120])
def test_squares_of_files_equal_their_patches(tmp_path: Path, max_tokens: int) -> None:
    """Their patches, padded, in reading order; ours by squares of 3 x 3 patches, which the tower takes apart."""
    from castor.models.vision_tower import VisionTowerConfig, _split

    processor = transformers.models.gemma4.image_processing_pil_gemma4.Gemma4ImageProcessorPil(
        max_soft_tokens=max_tokens
    )
    pictures = [Image(picture_file(tmp_path, *file)).pixels() for file in FILES]
    theirs = processor(pictures, return_tensors="pt")
    for index, pixels in enumerate(pictures):
        squares, xy = patchify(resize_to_budget(pixels, 16, 3, max_tokens), 48)
        assert theirs["num_soft_tokens_per_image"][index] == len(squares)
        patches, places = _split(
            torch.from_numpy(squares).float() / 255.0, torch.from_numpy(xy).long(), VisionTowerConfig()
        )
        wanted_places = theirs["image_position_ids"][index]
        at = {tuple(place): i for i, place in enumerate(wanted_places.tolist()) if place != [-1, -1]}
        assert len(at) == len(patches)
        order = [at[tuple(place)] for place in places.tolist()]
        torch.testing.assert_close(theirs["pixel_values"][index][order].float(), patches, atol=1e-6, rtol=0)


def sounds() -> list[np.ndarray]:
    """Decoded files, stretches of them, and noise; lengths around hops and around whole tokens."""
    speech = Audio(SAMPLES / "speech.wav").samples()
    stereo, file = np.random.default_rng(1).standard_normal((30_000, 2)) * 0.1, io.BytesIO()
    soundfile.write(file, stereo, 44_100, format="OGG")
    music = Audio(file.getvalue()).samples()  # resampled and mixed
    rng = np.random.default_rng(0)
    lengths = [161, 320, 321, 640, 641, 801, 4000, 16_000, 16_001, 100_003]
    return [speech, music, speech[:12_345], np.zeros(5000, np.float32)] + [
        rng.standard_normal(n).astype(np.float32) * 0.3 for n in lengths
    ]


def test_log_mel_equals_transformers_extractor_bit_for_bit() -> None:
    extractor = transformers.Gemma4AudioFeatureExtractor()
    for alone in (True, False):  # a batch is padded to its longest
        parts = sounds()
        batches = [[part] for part in parts] if alone else [parts]
        for batch in batches:
            theirs = extractor(batch, return_tensors="np")
            for index, samples in enumerate(batch):
                columns = audio.usm_columns(samples)
                mask = theirs["input_features_mask"][index]
                assert mask.sum() == len(columns) and mask[: len(columns)].all()
                np.testing.assert_array_equal(theirs["input_features"][index][: len(columns)], columns)
                assert not theirs["input_features"][index][len(columns) :].any()


def test_log_mel_is_its_slow_formula() -> None:
    samples = np.random.default_rng(0).standard_normal(1000) * 0.1
    got = audio.usm_columns(samples.astype(np.float32), num_mels=20)
    assert got.shape == (6, 20)
    hertz = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 22)]
    for column in (0, 3, 5):
        spectrum = np.zeros(257, dtype=complex)
        for n in range(320):
            at = column * 160 - 160 + n
            hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / 320)
            spectrum += (samples[at] if at >= 0 else 0.0) * hann * np.exp(-2j * np.pi * np.arange(257) * n / 512)
        for band in (0, 7, 19):
            low, middle, high = hertz[band : band + 3]
            value = sum(
                max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle))) * size
                for f, size in zip(np.arange(257) * 31.25, np.abs(spectrum), strict=True)
            )
            assert got[column, band] == pytest.approx(math.log(value + 0.001), abs=1e-4)


def test_tokens_of_sound_are_as_many_as_their_processor_says() -> None:
    theirs = SimpleNamespace(feature_extractor=transformers.Gemma4AudioFeatureExtractor(), audio_seq_length=10**9)
    count = transformers.Gemma4Processor._compute_audio_num_tokens
    for num_samples in [*range(0, 2000, 7), 16_000, 48_001, 479_999, 480_000]:
        samples = np.zeros(num_samples, np.float32)
        frames = audio.usm_frames(samples, 16)
        assert len(frames) == audio.usm_num_tokens(num_samples) == count(theirs, samples, 16_000)
        assert frames.shape[1] == 64


def test_filling_is_zero_and_sound_is_not() -> None:
    for samples in sounds():
        columns = audio.usm_columns(samples)
        rows = audio.usm_frames(samples).reshape(-1, 128)
        np.testing.assert_array_equal(rows[: len(columns)], columns)
        assert not rows[len(columns) :].any() and columns.any(axis=1).all()


def test_log_mel_from_samples_to_soft_tokens_equals_transformers() -> None:
    """Extractor and tower together on files of different lengths, padded theirs, packed ours."""
    from castor.models.audio_tower import AudioTower, AudioTowerConfig

    config = AudioTowerConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, output_proj_dims=24)
    torch.manual_seed(0)
    theirs = transformers.Gemma4AudioModel(transformers.Gemma4AudioConfig(**config.to_hf())).eval()
    ours = AudioTower(config)
    ours.load_state_dict(theirs.state_dict())
    parts = sounds()
    features = transformers.Gemma4AudioFeatureExtractor()(parts, return_tensors="pt")
    rows = [torch.from_numpy(audio.usm_frames(part)) for part in parts]
    clip = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row) for row in rows]))
    with torch.no_grad():
        output = theirs(features["input_features"], features["input_features_mask"])
        got = ours(torch.cat(rows), clip)
    torch.testing.assert_close(got, output.last_hidden_state[output.attention_mask], atol=1e-4, rtol=1e-4)


def test_frames_equally_spaced_are_those_of_their_sampling() -> None:
    from transformers.video_utils import VideoMetadata, default_sample_indices_fn

    for num_stored in range(1, 200):
        for num_frames in (1, 5, 32):
            ours = video.spaced_frames(num_stored, num_frames)
            if num_frames <= num_stored:
                metadata = VideoMetadata(total_num_frames=num_stored, fps=24.0)
                np.testing.assert_array_equal(ours, default_sample_indices_fn(metadata, num_frames=num_frames))
            else:
                np.testing.assert_array_equal(ours, np.arange(num_stored))


def their_rated_sampling() -> object:
    """`sample_frames` of EmbeddingGemma 2's video processor, out of its file, since the module needs torchvision."""
    path = Path(inspect.getfile(transformers)).parent / "models/embedding_gemma2/video_processing_embedding_gemma2.py"
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "sample_frames"
    ]
    found[0].returns = None
    for argument in found[0].args.args:
        argument.annotation = None
    space: dict[str, object] = {"np": np, "logger": SimpleNamespace(warning_once=print)}
    exec(compile(ast.Module(found, []), "reference", "exec"), space)
    return space["sample_frames"]


_RATED = their_rated_sampling()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([0.5, 1.0, 12.0, 23.976, 24.0, 25.0, 29.97, 60.0]),
    st.sampled_from([0.5, 1, 2.0]),
    st.sampled_from([(32, "uniform"), (7, "uniform"), (7, "truncate"), (1, "uniform"), (None, None)]),
)
def test_frames_by_rate_are_those_of_their_sampling(
    num_stored: int, stored_fps: float, fps: float, most: tuple[int | None, str | None]
) -> None:
    metadata = SimpleNamespace(total_num_frames=num_stored, fps=stored_fps, duration=num_stored / stored_fps)
    wanted = _RATED(None, metadata, fps=fps, max_frames=most[0], overflow_strategy=most[1])
    ours = video.rated_frames(
        num_stored, stored_fps, metadata.duration, fps=fps, max_frames=most[0], overflow=most[1] or "uniform"
    )
    np.testing.assert_array_equal(ours, wanted)


def spelled(telling: list[object], per_frame: int) -> str:
    """A telling as their processor writes it: I for a picture token, A for a sound token."""
    out = ""
    for part in telling:
        if isinstance(part, video.Frame):
            out += f"<{'I' * per_frame}>"
        elif isinstance(part, video.Stretch):
            out += f"({'A' * (part.stop - part.start)})"
        else:
            out += part
    return out


THEIR_TOKENS = {
    "boi_token": "<",
    "video_token": "I",
    "eoi_token": ">",
    "boa_token": "(",
    "audio_token": "A",
    "eoa_token": ")",
}


def test_frames_are_told_as_their_processors_tell_them() -> None:
    from transformers.models.embedding_gemma2.processing_embedding_gemma2 import EmbeddingGemma2Processor
    from transformers.video_utils import VideoMetadata

    for fps, indices in ((29.97, [0, 29, 58, 3000]), (24.0, [0, 7, 23, 24, 200_000]), (1.0, [0])):
        metadata = VideoMetadata(total_num_frames=10**6, fps=fps, frames_indices=indices)
        inputs = {
            "num_soft_tokens_per_video": [3],
            "video_metadata": [metadata],
            "num_frames_per_video": [len(indices)],
        }
        theirs = transformers.Gemma4Processor.replace_video_token(SimpleNamespace(**THEIR_TOKENS), inputs, 0)
        assert spelled(video.told(metadata.timestamps), 3) == theirs
        fake = SimpleNamespace(**THEIR_TOKENS, timestamp_fmt=EmbeddingGemma2Processor.timestamp_fmt)
        fake.video_processor = SimpleNamespace(add_timestamps=False)
        kwargs = {"videos_kwargs": {"add_timestamps": True}, "load_audio_from_video": False}
        theirs = EmbeddingGemma2Processor.replace_video_token(fake, inputs, 0, **kwargs)
        assert spelled(video.told(metadata.timestamps, to_nearest=True), 3) == theirs


@pytest.mark.parametrize(("stored_fps", "num_stored"), [(29.97, 150), (24.0, 24), (24.0, 10), (25.0, 2000), (2.0, 9)])
@pytest.mark.parametrize("sound_share", [0.0, 0.3, 1.0, 1.07])
def test_frames_and_sound_are_told_as_their_processor_tells_them(
    stored_fps: float, num_stored: int, sound_share: float
) -> None:
    from transformers.models.embedding_gemma2.processing_embedding_gemma2 import EmbeddingGemma2Processor
    from transformers.video_utils import VideoMetadata

    duration_s = num_stored / stored_fps
    indices = video.rated_frames(num_stored, stored_fps, duration_s)
    metadata = VideoMetadata(total_num_frames=num_stored, fps=stored_fps, duration=duration_s, frames_indices=indices)
    num_samples = int(duration_s * sound_share * 16_000)
    mask = np.ones(len(audio.usm_columns(np.zeros(num_samples, np.float32))), dtype=bool)
    fake = SimpleNamespace(
        **THEIR_TOKENS,
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        timestamp_fmt=EmbeddingGemma2Processor.timestamp_fmt,
        compute_sscp=EmbeddingGemma2Processor.compute_sscp,
    )
    fake.audio_frame_boundary = lambda seconds: EmbeddingGemma2Processor.audio_frame_boundary(fake, seconds)
    theirs = EmbeddingGemma2Processor.replace_video_with_audio_token(
        fake,
        {"num_soft_tokens_per_video": [2], "video_metadata": [metadata]},
        0,
        processed_audio={"input_features_mask": [mask]},
        video_to_audio_indices=[0],
    )
    telling = video.told_with_sound(metadata.timestamps, duration_s, audio.usm_num_tokens(num_samples))
    assert spelled(telling, 2) == theirs
    heard = [part for part in telling if isinstance(part, video.Stretch)]
    assert [part.stop for part in heard[:-1]] == [part.start for part in heard[1:]]
    assert sum(part.stop - part.start for part in heard) == audio.usm_num_tokens(num_samples)


def test_resized_frames_are_those_of_their_video_resizing_but_for_rounding() -> None:
    """Their video processor resizes bytes with PyTorch's antialiased bicubic kernel; ours are Pillow's."""
    clip = Video(SAMPLES / "clip.mp4").clip()
    for pixels in clip.frames_FHWC[:3]:
        ours = resize_to_budget(pixels, 16, 3, 70)
        frames = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        theirs = torch.nn.functional.interpolate(frames, ours.shape[:2], mode="bicubic", antialias=True)
        difference = np.abs(ours.astype(int) - theirs[0].permute(1, 2, 0).numpy().astype(int))
        assert difference.max() <= 2 and difference.mean() < 0.05, (difference.max(), difference.mean())


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="0 frames of a video of 5"):
        video.spaced_frames(5, 0)
    with pytest.raises(ValueError, match="32 frames of a video of 0"):
        video.rated_frames(0, 24.0, 1.0)
    with pytest.raises(ValueError, match="0.0 stored"):
        video.rated_frames(5, 0.0, 1.0)
    with pytest.raises(ValueError, match="overflow='last'"):
        video.rated_frames(5, 24.0, 1.0, overflow="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without frames"):
        video.told_with_sound([], 1.0, 3)


def test_a_renderer_for_towers_gives_what_they_take(renderer: Renderer) -> None:
    """Clips are numbered across sequences and rows; the sound track of a video is one clip in several stretches."""
    config = dataclasses.replace(renderer.config, audio="usm", num_mels=16)
    towers = Renderer(renderer.tokenizer, renderer.space, config)
    tone = np.sin(np.arange(20_000) / 5).astype(np.float32)
    stills = np.stack([np.full((16, 16, 3), i * 20, np.uint8) for i in range(8)])
    film = Video.from_frames(stills, 8.0, tone[:16_000])
    first = towers.encode([Message("user", (Audio.from_samples(tone), film, Audio.from_samples(tone[:3000])))])
    second = towers.encode([Message("user", (Audio.from_samples(tone[:5000]),))])
    np.testing.assert_array_equal(first.frames_SF[first.clip_S == 0], audio.usm_frames(tone, 16))
    np.testing.assert_array_equal(first.frames_SF[first.clip_S == 1], audio.usm_frames(tone[:16_000], 16))
    at = first.frame_at_S[first.clip_S == 1]
    assert (np.diff(at) != 1).sum() == 1  # two stretches
    batch = collate([[second, first], [second]], 400)
    assert batch.clip_S is not None
    lengths = [audio.usm_num_tokens(n) for n in (5000, 20_000, 16_000, 3000, 5000)]
    assert batch.clip_S.tolist() == [clip for clip, length in enumerate(lengths) for _ in range(length)]
    apart = renderer.encode([Message("user", (film,))])
    assert apart.clip_S.max() == 1  # without a tower each stretch is heard alone
