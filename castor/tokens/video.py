"""Which stored frames of a video published models see, and in what order frames, times and sound are told.

Gemma 4 sees equally many frames of every video, EmbeddingGemma 2 one a second; the rules are those of transformers'
processors. Castor's own models choose frames in `castor.media.video`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from castor.tokens.audio import RATE_HZ, usm_num_tokens


@dataclass(frozen=True)
class Frame:
    """A place for the soft tokens of one sampled frame."""

    index: int


@dataclass(frozen=True)
class Stretch:
    """A place for the soft tokens [start, stop) of the sound track."""

    start: int
    stop: int


Telling = list[str | Frame | Stretch]


def spaced_frames(num_stored: int, num_frames: int = 32) -> np.ndarray:
    """Indices of `num_frames` equally spaced frames, the first among them; of all where there are fewer."""
    _check_counts(num_stored, num_frames)
    num_frames = min(num_stored, num_frames)
    return np.arange(num_frames, dtype=np.int64) * num_stored // num_frames


def rated_frames(
    num_stored: int,
    stored_fps: float,
    duration_s: float,
    *,
    fps: float = 1.0,
    max_frames: int | None = 32,
    overflow: Literal["uniform", "truncate"] = "uniform",
) -> np.ndarray:
    """Indices of `fps` frames a second, at least one; where they are more than `max_frames`, so many of them.

    Those are equally spaced with both ends among them, or the first ones ("truncate"). A video that is stored at less
    than `fps` shows frames several times.
    """
    _check_counts(num_stored, 1 if max_frames is None else max_frames)
    if not (stored_fps > 0 and fps > 0):
        raise ValueError(f"frames per second must be positive, got {stored_fps!r} stored and {fps!r} wanted")
    if overflow not in ("uniform", "truncate"):
        raise ValueError(f"overflow={overflow!r} is neither 'uniform' nor 'truncate'")
    num_sampled = max(1, int(duration_s * fps))
    indices = np.minimum(num_stored - 1, (np.arange(num_sampled) * (stored_fps / fps)).astype(np.int64))
    if max_frames is None or len(indices) <= max_frames:
        return indices
    if overflow == "truncate":
        return indices[:max_frames]
    return indices[np.linspace(0, len(indices) - 1, max_frames, dtype=np.int64)]


def time_stamp(time_s: float) -> str:
    """Minutes and seconds as "mm:ss", seconds rounded down."""
    return f"{int(time_s) // 60:02d}:{int(time_s) % 60:02d}"


def told(times_s: Iterable[float], *, to_nearest: bool = False) -> Telling:
    """Each frame after its time, separated by spaces: "00:00 ", Frame(0), " 00:01 ", Frame(1), ...

    Gemma 4 rounds times down; EmbeddingGemma 2, where it tells times at all, to the nearest second.
    """
    telling: Telling = []
    for index, time_s in enumerate(times_s):
        stamp = time_stamp(round(time_s) if to_nearest else time_s)
        telling += [f"{' ' if index else ''}{stamp} ", Frame(index)]
    return telling


def told_with_sound(times_s: Iterable[float], duration_s: float, num_sound_tokens: int) -> Telling:
    """Frames and the sound track by seconds, as EmbeddingGemma 2 is told: after a frame the sound until the next one.

    A second of sound is as many tokens as a second alone would be; the last second takes what is left. The sound track
    is heard whole before it is cut. Times are rounded to the nearest second.
    """
    seconds = [round(time_s) for time_s in times_s]
    if not seconds:
        raise ValueError("a video without frames cannot be told")
    end = max(1, int(duration_s))
    first, each = seconds[0], usm_num_tokens(RATE_HZ)
    stretches = {
        second: Stretch(
            min((second - first) * each, num_sound_tokens), min((second - first + 1) * each, num_sound_tokens)
        )
        for second in range(first, end)
    }
    if stretches:
        stretches[end - 1] = Stretch(stretches[end - 1].start, num_sound_tokens)
    telling: Telling = []
    for index, second in enumerate(seconds):
        telling += [f"{' ' if index else ''}{time_stamp(second)} ", Frame(index)]
        for heard in range(second, seconds[index + 1] if index + 1 < len(seconds) else end):
            stretch = stretches.get(heard)
            if stretch is not None and stretch.stop > stretch.start:
                telling += [f" {time_stamp(heard)} ", stretch]
    return telling


@dataclass(frozen=True, kw_only=True)
class VideoRule:
    """How one family of models samples a video and is told it; as it stands, Gemma 4's way."""

    num_frames: int | None = 32  # equally spaced ones; beside `fps` the most there may be, None: any number
    fps: float | None = None  # frames a second
    overflow: Literal["uniform", "truncate"] = "uniform"  # which are kept where `fps` gives too many
    times: Literal["down", "nearest"] | None = "down"  # rounding of the times that are told; None: no times
    with_sound: bool = False  # the sound track is told between the frames

    def __post_init__(self) -> None:
        if self.num_frames is None and self.fps is None:
            raise ValueError("num_frames and fps are both None: how many frames of a video are seen?")
        if self.with_sound and self.times != "nearest":
            raise ValueError("the sound track of a video is told with times to the nearest second, or not at all")

    def choose(self, num_stored: int, duration_s: float) -> np.ndarray:
        """Indices of the frames that are seen; some of them twice where fewer are stored than are wanted."""
        if self.fps is None:
            assert self.num_frames is not None
            return spaced_frames(num_stored, self.num_frames)
        stored_fps = num_stored / duration_s
        return rated_frames(
            num_stored, stored_fps, duration_s, fps=self.fps, max_frames=self.num_frames, overflow=self.overflow
        )

    def tell(self, times_s: Iterable[float], duration_s: float, num_sound_tokens: int) -> Telling:
        """The order of frames, times and stretches of the sound track, if there is one and it is told."""
        times_s = [round(float(time_s), 3) for time_s in times_s]  # a second that a container rounded stays whole
        if self.times is None:
            return [Frame(index) for index in range(len(times_s))]
        if self.with_sound and num_sound_tokens:
            return told_with_sound(times_s, round(duration_s, 3), num_sound_tokens)
        return told(times_s, to_nearest=self.times == "nearest")


def _check_counts(num_stored: int, num_frames: int) -> None:
    if num_stored < 1 or num_frames < 1:
        raise ValueError(f"{num_frames} frames of a video of {num_stored} cannot be chosen")
