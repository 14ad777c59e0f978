"""How a published checkpoint's media become tokens, from the files of its processor.

`processor_config.json` (for pictures alone also `preprocessor_config.json`) over the defaults of their classes.
A value that would change what the model is given, and that nothing here computes, is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json
from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import ModelConfig
from castor.tokens.gemma_media import GEMMA_MEDIA
from castor.tokens.render import RenderConfig
from castor.tokens.video import VideoRule

PROCESSOR = "processor_config.json"
# What the log-mel columns of an audio tower are computed with (castor.tokens.audio), by transformers' names.
_LOG_MEL = {
    "sampling_rate": 16_000,
    "frame_length": 320,
    "hop_length": 160,
    "fft_length": 512,
    "fft_overdrive": False,
    "min_frequency": 0,
    "max_frequency": 8000,
    "mel_floor": 0.001,
    "preemphasis": 0,
    "dither": 0,
    "input_scale_factor": 1,
    "per_bin_mean": None,
    "per_bin_stddev": None,
}
_RAW = {"sampling_rate": 16_000}
_PIXELS = {"do_resize": True, "do_rescale": True, "resample": 3, "rescale_factor": 1 / 255}


def media_of(folder: Path, config: ModelConfig) -> RenderConfig:
    """Sizes of pictures and sounds; ValueError names a value of the processor that does not fit."""
    processor = read_object(folder, PROCESSOR)
    image = {**read_object(folder, "preprocessor_config.json"), **_part(processor, "image_processor")}
    frames, sound = _part(processor, "video_processor"), _part(processor, "feature_extractor")
    is_tower = isinstance(config.audio, AudioTowerConfig)
    for part, only in ((image, _PIXELS), (frames, _PIXELS), (sound, _LOG_MEL if is_tower else _RAW)):
        _check(folder, part, only)
    image_tokens = _whole(folder, image, "max_soft_tokens", "image_tokens", GEMMA_MEDIA.image_tokens)
    media = dataclasses.replace(
        GEMMA_MEDIA,
        image_tokens=image_tokens,
        frame_tokens=_whole(folder, frames, "max_soft_tokens", "frame_tokens", GEMMA_MEDIA.frame_tokens),
        samples_per_token=_whole(folder, sound, "audio_samples_per_token", "samples_per_token", 640),
        audio="usm" if is_tower else "raw",
    )
    if config.family == "embedding_gemma2":
        media = dataclasses.replace(media, page_tokens=image_tokens)
    if config.vision is not None:
        sizes = {"patch_size": config.vision.patch_size, "pooling_kernel_size": config.vision.pooling_kernel_size}
        for part in (image, frames):
            _check(folder, part, sizes)
        media = dataclasses.replace(media, patch_size=sizes["patch_size"], pooling=sizes["pooling_kernel_size"])
    if isinstance(config.audio, AudioTowerConfig):
        _check(folder, sound, {"feature_size": config.audio.num_mels})
        media = dataclasses.replace(media, num_mels=config.audio.num_mels)
    return media


def video_of(folder: Path, config: ModelConfig) -> VideoRule:
    """Which frames of a video are seen and what is told with them."""
    processor = read_object(folder, PROCESSOR)
    video = _part(processor, "video_processor")
    if config.family != "embedding_gemma2":
        _check(folder, video, {"fps": None})
        return VideoRule(num_frames=_whole(folder, video, "num_frames", "num_frames", 32))
    _check(folder, video, {"num_frames": None, "do_sample_frames": True})
    fps, most = video.get("fps", 1), video.get("max_frames", 32)
    overflow = video.get("overflow_strategy", "uniform")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        raise ValueError(f"{folder}: the processor states {fps!r} for fps; a positive number is needed")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ValueError(f"{folder}: the processor states {most!r} for max_frames; a whole number is needed")
    if overflow not in ("uniform", "truncate", None):
        raise ValueError(f"{folder}: the processor states {overflow!r} for overflow_strategy")
    return VideoRule(
        num_frames=None if overflow is None else most,
        fps=float(fps),
        overflow=overflow or "uniform",
        times="nearest" if video.get("add_timestamps") else None,
        with_sound=bool(processor.get("load_audio_from_video") or video.get("load_audio_from_video")),
    )


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file."""
    if not (folder / name).is_file():
        return {}
    value = load_json(folder / name)
    if not isinstance(value, dict):
        raise ValueError(f"{folder / name}: must be a JSON object")
    return value


def _check(folder: Path, part: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """ValueError for a field that has another value than the only one that fits."""
    for key, fitting in only.items():
        value = part.get(key, fitting)
        is_near = isinstance(value, int | float) and fitting is not None and abs(value - fitting) < 1e-6
        if value != fitting and not is_near:
            raise ValueError(
                f"{folder}: the processor states {key}={value!r}, which is not supported (only {fitting!r})"
            )


def _whole(folder: Path, part: Mapping[str, Any], key: str, name: str, default: int) -> int:
    value = part.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{folder}: the processor states {value!r} for {name}; a whole number is needed")
    return value


def _part(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}
