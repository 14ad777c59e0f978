"""What the model is really given: resized pictures and log-mel frames, taken out of the rendered sequence.

Showing these, and not the file on disk, is the only honest way to show what a model saw.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from castor.tokens.sequence import Sequence
from castor.tokens.vision import unpatchify

if TYPE_CHECKING:
    from castor.tokens.render import Renderer


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The model's view of one prompt."""

    pictures: tuple[np.ndarray, ...]  # uint8 [H, W, 3], one per image, frame or page
    spectrogram_HW3: np.ndarray | None  # uint8, high frequencies on top; None without sound
    num_tokens: int  # whole prompt
    num_media_tokens: int  # of which pictures and sound


def see(renderer: "Renderer", sequence: Sequence) -> Seen:
    """The pictures and the sound inside a rendered sequence."""
    blocks_P = sequence.block_T[sequence.patch_at_P]
    pictures = tuple(
        unpatchify(sequence.patches_PC[blocks_P == block], sequence.patch_xy_P2[blocks_P == block])
        for block in sorted(set(blocks_P.tolist()))
    )
    spectrogram = None
    if len(sequence.frames_SF) and renderer.config.audio == "log_mel":
        spectrogram = spectrogram_picture(sequence.frames_SF, renderer.config.num_mels)
    return Seen(
        pictures=pictures,
        spectrogram_HW3=spectrogram,
        num_tokens=len(sequence),
        num_media_tokens=len(sequence.patch_at_P) + len(sequence.frame_at_S),
    )


def spectrogram_picture(frames_SF: np.ndarray, num_mels: int) -> np.ndarray:
    """Log-mel frames [S, k * num_mels] as a picture uint8 [num_mels, k * S, 3], time to the right."""
    energy_TM = frames_SF.reshape(-1, num_mels)
    low, high = np.percentile(energy_TM, (2, 99.5))
    level_MT = np.clip((energy_TM.T[::-1] - low) / max(1e-6, high - low), 0, 1)
    return heat(level_MT)


_HEAT = np.array(
    [(8, 10, 28), (46, 26, 102), (128, 36, 130), (214, 66, 98), (250, 144, 72), (253, 240, 178)],
    dtype=np.float64,
)


def heat(level_HW: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] as colours from night blue over magenta to pale yellow, uint8 [H, W, 3]."""
    place = level_HW * (len(_HEAT) - 1)
    channels = [np.interp(place, np.arange(len(_HEAT)), _HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def waveform_peaks(samples_S: np.ndarray, num_bars: int = 160) -> list[float]:
    """Loudest absolute sample in each of `num_bars` equal stretches, scaled to a maximum of 1."""
    if not len(samples_S):
        return [0.0] * num_bars
    edges = np.linspace(0, len(samples_S), num_bars + 1).astype(int)
    peaks = [float(np.abs(samples_S[a : max(a + 1, b)]).max()) for a, b in zip(edges, edges[1:], strict=False)]
    loudest = max(peaks) or 1.0
    return [peak / loudest for peak in peaks]
