"""Sound as frames, one token each: 40 ms of raw samples (Gemma 4 unified), or a few log-mel columns of 10 ms.

All at 16 kHz. Log-mel suits small models, which cannot learn a filter bank from raw samples, and audio towers.
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
USM_WINDOW, USM_COLUMNS = 320, 4  # samples in a column of an audio tower's log-mel: 20 ms; columns in its token


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


def usm_columns(samples_S: np.ndarray, num_mels: int = 128) -> np.ndarray:
    """Log-mel magnitudes as Gemma 4's audio tower takes them, float32 [L, num_mels], one column each 10 ms.

    Column i sees 20 ms (Hann) around sample 160 i. There are (S - 1) // 160 of them, those whose samples, and one more,
    are all there; a sound of at most 160 samples gives none. The same values as transformers' feature extractor.
    """
    samples_S = _checked(samples_S)
    num_columns = max(0, (len(samples_S) - 1) // HOP)
    if num_columns == 0:
        return np.zeros((0, num_mels), dtype=np.float32)
    padded = np.pad(samples_S, (USM_WINDOW // 2, 0))
    windows = np.lib.stride_tricks.sliding_window_view(padded, USM_WINDOW)[::HOP][:num_columns]
    hann = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(USM_WINDOW) / USM_WINDOW)).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(windows * hann, n=FFT, axis=-1))
    return np.log(magnitudes @ _triangles(num_mels).T + FLOOR).astype(np.float32)


def usm_frames(samples_S: np.ndarray, num_mels: int = 128) -> np.ndarray:
    """The columns of `usm_columns`, four to a token, float32 [T, 4 * num_mels], oldest first.

    The last token is filled up with columns of zeros. They cannot be taken for sound, whose value would be 0 in every
    band at once: silence is -6.9. Sounds of any length are taken whole (transformers cuts them off after 30 s).
    """
    columns = usm_columns(samples_S, num_mels)
    filled = np.pad(columns, ((0, -len(columns) % USM_COLUMNS), (0, 0)))
    return filled.reshape(-1, USM_COLUMNS * num_mels)


def usm_num_tokens(num_samples: int) -> int:
    """Tokens that so many samples become: rows of `usm_frames`."""
    return -(-max(0, (num_samples - 1) // HOP) // USM_COLUMNS)


@functools.cache
def _hann() -> torch.Tensor:
    import torch

    return torch.hann_window(WINDOW)


@functools.cache
def mel_filters(num_mels: int) -> np.ndarray:
    """Triangles, float32 [num_mels, FFT // 2 + 1], equally spaced in 2595 log10(1 + f / 700) up to 8 kHz.

    Each triangle's weights sum to 1, so that a value is a mean magnitude, whatever the triangle's width.
    """
    filters, middle_hz = _triangles(num_mels), _corners_hz(num_mels)[1:-1, None]
    total = filters.sum(axis=1, keepdims=True)
    nearest = np.abs(_bins_hz() - middle_hz).argmin(axis=1)
    empty = total[:, 0] == 0  # narrower than the distance between bins: take the nearest bin
    filters[empty, nearest[empty]] = 1.0
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


def _triangles(num_mels: int) -> np.ndarray:
    """Triangles of height 1, float64 [num_mels, FFT // 2 + 1]; those between two bins are empty."""
    corners_hz, bins_hz = _corners_hz(num_mels), _bins_hz()
    low, middle, high = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising, falling = (bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle)
    return np.maximum(0.0, np.minimum(rising, falling))


def _corners_hz(num_mels: int) -> np.ndarray:
    top_mel = 2595.0 * math.log10(1.0 + RATE_HZ / 2 / 700.0)
    return 700.0 * (10.0 ** (np.linspace(0.0, top_mel, num_mels + 2) / 2595.0) - 1.0)


def _bins_hz() -> np.ndarray:
    return np.arange(FFT // 2 + 1) * (RATE_HZ / FFT)


def _checked(samples_S: np.ndarray) -> np.ndarray:
    if samples_S.ndim != 1:
        raise ValueError(f"samples have shape {list(samples_S.shape)}, not [S]")
    return np.ascontiguousarray(samples_S, dtype=np.float32)
