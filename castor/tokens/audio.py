"""Sound as frames, one token each: 40 ms of raw samples (Gemma 4 unified), or a few log-mel columns of 10 ms.

All at 16 kHz. Log-mel suits small models, which cannot learn a filter bank from raw samples.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

RATE_HZ = 16_000
HOP, WINDOW, FFT = 160, 400, 512  # samples: 10 ms, 25 ms, and the transform's length
FLOOR = 1e-3  # added before the logarithm
# Mean and deviation of the log-mel values of speech at ordinary loudness; constants: silence stays silence.
LOG_MEL_MEAN, LOG_MEL_STD = -3.0, 2.0


def raw_frames(samples_S: np.ndarray, samples_per_token: int = 640) -> np.ndarray:
    """Samples cut into frames, float32 [S, samples_per_token]; the last one is filled with silence."""
    samples_S = _checked(samples_S)
    padded = np.pad(samples_S, (0, -len(samples_S) % samples_per_token))
    return padded.reshape(-1, samples_per_token)


def log_mel_frames(samples_S: np.ndarray, num_mels: int = 80, frames_per_token: int = 4) -> np.ndarray:
    """Log-mel magnitudes, mean about 0, deviation 1 for speech, float32 [S, frames_per_token * num_mels].

    Column i of 10 ms sees 25 ms (Hann) around its middle; columns of one token lie end to end, oldest first.
    The number of tokens is that of `raw_frames`.
    """
    import torch

    samples_S = _checked(samples_S)
    num_tokens = math.ceil(len(samples_S) / (HOP * frames_per_token))
    if num_tokens == 0:
        return np.zeros((0, frames_per_token * num_mels), dtype=np.float32)
    span = num_tokens * frames_per_token * HOP
    margin = (FFT - HOP) // 2
    padded = np.pad(samples_S, (margin, span - len(samples_S) + margin))
    spectrum = torch.stft(
        torch.from_numpy(padded),
        FFT,
        hop_length=HOP,
        win_length=WINDOW,
        window=_hann(),
        center=False,
        return_complex=True,
    ).abs()
    mel = torch.from_numpy(mel_filters(num_mels)) @ spectrum
    normal = (torch.log(mel + FLOOR) - LOG_MEL_MEAN) / LOG_MEL_STD
    return normal.T.reshape(num_tokens, frames_per_token * num_mels).numpy()


@functools.cache
def _hann() -> torch.Tensor:
    import torch

    return torch.hann_window(WINDOW)


@functools.cache
def mel_filters(num_mels: int) -> np.ndarray:
    """Triangles, float32 [num_mels, FFT // 2 + 1], equally spaced in 2595 log10(1 + f / 700) up to 8 kHz.

    Each triangle's weights sum to 1, so that a value is a mean magnitude, whatever the triangle's width.
    """
    top_mel = 2595.0 * math.log10(1.0 + RATE_HZ / 2 / 700.0)
    corners_hz = 700.0 * (10.0 ** (np.linspace(0.0, top_mel, num_mels + 2) / 2595.0) - 1.0)
    bins_hz = np.arange(FFT // 2 + 1) * (RATE_HZ / FFT)
    low, middle, high = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising, falling = (bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    total = filters.sum(axis=1, keepdims=True)
    nearest = np.abs(bins_hz - middle).argmin(axis=1)
    empty = total[:, 0] == 0  # narrower than the distance between bins: take the nearest bin
    filters[empty, nearest[empty]] = 1.0
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


def _checked(samples_S: np.ndarray) -> np.ndarray:
    if samples_S.ndim != 1:
        raise ValueError(f"samples have shape {list(samples_S.shape)}, not [S]")
    return np.ascontiguousarray(samples_S, dtype=np.float32)
