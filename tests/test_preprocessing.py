"""Picture and sound preprocessing against transformers' processors and against slow formulas."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tokens import audio, vision


def random_picture(height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(height_px * width_px).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def reference_merge() -> dict[str, object]:
    """transformers' patch functions, taken from their file, since the module itself needs torchvision."""
    transformers = pytest.importorskip("transformers")
    package = Path(transformers.__file__).parent
    source = (package / "models/gemma4_unified/image_processing_gemma4_unified.py").read_text()
    wanted = {"convert_image_to_patches", "patches_merge", "get_aspect_ratio_preserving_size"}
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name in wanted]
    space: dict[str, object] = {"torch": torch, "math": math}
    exec(compile(ast.Module(functions, []), "reference", "exec"), space)
    return space


PICTURES = [(100, 100), (480, 640), (31, 900), (900, 31), (768, 768), (720, 1280), (50, 70)]


@pytest.mark.parametrize(("height_px", "width_px"), PICTURES)
@pytest.mark.parametrize("max_tokens", [70, 280])
def test_picture_equals_transformers_pillow_processor(height_px: int, width_px: int, max_tokens: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    pixels = random_picture(height_px, width_px)
    theirs = Gemma4ImageProcessorPil(max_soft_tokens=max_tokens)(pixels, return_tensors="np")
    ours = vision.resize_to_budget(pixels, 16, 3, max_tokens)
    patches, xy = vision.patchify(ours, 16)
    count = len(patches)
    np.testing.assert_array_equal(theirs["image_position_ids"][0, :count], xy)
    assert (theirs["image_position_ids"][0, count:] == -1).all()
    np.testing.assert_allclose(theirs["pixel_values"][0, :count], patches / np.float32(255), atol=1e-7)
    merged, _ = vision.patchify(ours, 48)
    assert theirs["num_soft_tokens_per_image"][0] == len(merged) <= max_tokens


@pytest.mark.parametrize(("height_px", "width_px"), [(96, 144), (48, 480), (480, 48)])
def test_merged_patches_equal_those_of_transformers(height_px: int, width_px: int) -> None:
    reference = reference_merge()
    pixels = random_picture(height_px, width_px)
    small = reference["convert_image_to_patches"](torch.from_numpy(pixels).permute(2, 0, 1), 16)
    x, y = torch.meshgrid(torch.arange(width_px // 16), torch.arange(height_px // 16), indexing="xy")
    xy = torch.stack([x, y], -1).reshape(-1, 2)
    merged, merged_xy = reference["patches_merge"](small[None], xy[None], len(small) // 9)
    patches, ours_xy = vision.patchify(pixels, 48)
    np.testing.assert_array_equal(merged[0].numpy(), patches)
    np.testing.assert_array_equal(merged_xy[0].numpy(), ours_xy)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([1, 4, 64, 70, 280, 1120]))
def test_size_is_that_of_transformers(height_px: int, width_px: int, max_tokens: int) -> None:
    rule = _RULE or _RULE.update(reference_merge()) or _RULE

    def theirs() -> tuple[int, int]:
        return rule["get_aspect_ratio_preserving_size"](height_px, width_px, 16, max_tokens * 9, 3)

    def ours() -> tuple[int, int]:
        return vision.budget_size(height_px, width_px, patch_size=16, pooling=3, max_tokens=max_tokens)

    try:
        wanted = theirs()
    except ValueError:
        with pytest.raises(ValueError, match=f"{height_px} x {width_px}"):
            ours()
    else:
        assert ours() == wanted


_RULE: dict[str, object] = {}


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 8), st.randoms(use_true_random=False))
def test_unpatchify_undoes_patchify(rows: int, columns: int, side_px: int, order: object) -> None:
    pixels = random_picture(rows * side_px, columns * side_px)
    patches, xy = vision.patchify(pixels, side_px)
    shuffled = np.array(order.sample(range(len(patches)), len(patches)))
    np.testing.assert_array_equal(vision.unpatchify(patches[shuffled], xy[shuffled]), pixels)


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        vision.patchify(np.zeros((16, 16, 3)), 16)
    with pytest.raises(ValueError, match="17 x 16"):
        vision.patchify(random_picture(17, 16), 16)
    with pytest.raises(ValueError, match="do not make a picture"):
        vision.unpatchify(*(part[:-1] for part in vision.patchify(random_picture(32, 32), 16)))


@pytest.mark.parametrize("num_samples", [0, 1, 639, 640, 641, 16_000])
def test_raw_frames_equal_transformers_extractor(num_samples: int) -> None:
    pytest.importorskip("transformers")
    from transformers import Gemma4UnifiedAudioFeatureExtractor

    samples = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    frames = audio.raw_frames(samples)
    if num_samples == 0:
        assert frames.shape == (0, 640)
        return
    theirs = Gemma4UnifiedAudioFeatureExtractor()(samples, return_tensors="np")
    assert theirs["input_features_mask"].all()
    np.testing.assert_array_equal(theirs["input_features"][0], frames)


def test_log_mel_is_its_slow_formula() -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(1500).astype(np.float32) * 0.1
    got = audio.log_mel_frames(samples)
    assert got.shape == (3, 320) and got.dtype == np.float32
    mel = lambda hz: 2595 * math.log10(1 + hz / 700)  # noqa: E731
    hertz = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(0, mel(8000), 82)]
    for column in (0, 5, 9, 11):
        centre = column * 160 + 80
        spectrum = np.zeros(257, dtype=complex)
        for n in range(400):
            at = centre - 200 + n
            x = samples[at] if 0 <= at < len(samples) else 0.0
            hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / 400)
            spectrum += x * hann * np.exp(-2j * np.pi * np.arange(257) * n / 512)
        for band in (0, 1, 2, 17, 40, 79):
            low, middle, high = hertz[band : band + 3]
            weight = np.array(
                [
                    max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle)))
                    for f in np.arange(257) * 31.25
                ]
            )
            if weight.sum() == 0:
                weight[np.abs(np.arange(257) * 31.25 - middle).argmin()] = 1.0
            value = (weight / weight.sum()) @ np.abs(spectrum)
            wanted = (math.log(value + audio.FLOOR) - audio.LOG_MEL_MEAN) / audio.LOG_MEL_STD
            assert got[column // 4, column % 4 * 80 + band] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("num_samples", [0, 1, 640, 641, 3200])
def test_log_mel_has_as_many_tokens_as_raw(num_samples: int) -> None:
    silence = np.zeros(num_samples, dtype=np.float32)
    assert len(audio.log_mel_frames(silence)) == len(audio.raw_frames(silence))
    assert np.isfinite(audio.log_mel_frames(silence)).all()


def test_wrong_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 100\]"):
        audio.raw_frames(np.zeros((2, 100)))


def test_preprocessing_needs_no_torchvision() -> None:
    assert "torchvision" not in sys.modules
