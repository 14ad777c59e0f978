"""A long video as segments of equal length, one after the other, each with its frames and its stretch of sound."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from castor.media.audio import LIBAV_FORMATS, RATE_HZ, decode_sound_track, libav_errors, open_container
from castor.media.limits import Limits, MediaError, decoding
from castor.media.sniff import sniff
from castor.media.video import SAME_TIME_S, decode_frames, frame_times
from castor.media.whole import check_whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """[start_s, end_s) of a video: frames uint8 [F, H, W, 3] at a steady rate, samples at 16 kHz or None."""

    start_s: float
    end_s: float
    frames_FHWC: np.ndarray
    samples_S: np.ndarray | None


def has_pictures(data: bytes, name: str) -> bool:
    """Whether a container holds moving pictures, or (as sound recorded in a browser) sound alone."""
    with decoding(name, "video", libav_errors()), open_container(data, LIBAV_FORMATS[sniff(data) or ""]) as container:
        return bool(container.streams.video)


def video_seconds(data: bytes, name: str, limits: Limits) -> float:
    """How long a video lasts, from its packets; MediaError."""
    with decoding(name, "video", libav_errors()):
        return frame_times(data, name, limits, _checked(data, name))[2]


def frame_at(data: bytes, name: str, limits: Limits, time_s: float) -> np.ndarray:
    """The frame on screen at `time_s` from the beginning, uint8 [H, W, 3]; the last one at the end. MediaError."""
    libav_format = _checked(data, name)
    with decoding(name, "video", libav_errors()):
        starts_s, keys, _ = frame_times(data, name, limits, libav_format)
        at = int(np.searchsorted(starts_s, starts_s[0] + time_s + SAME_TIME_S, side="right")) - 1
        return decode_frames(data, name, limits, libav_format, starts_s[[max(at, 0)]], keys)[0][0]


def video_segments(
    data: bytes, name: str, limits: Limits, longest_s: float, fps: float, from_s: float = 0.0
) -> Iterator[Segment]:
    """As few segments of equal length as are none longer than `longest_s`, with `fps` frames a second.

    Those that end before `from_s` are left out. Only one segment's frames are in memory at a time; the sound track is
    decoded once. Raises MediaError.
    """
    libav_format = _checked(data, name)
    with decoding(name, "video", libav_errors()):
        starts_s, keys, duration_s = frame_times(data, name, limits, libav_format)
        samples_S = decode_sound_track(data, name, limits, from_s=starts_s[0])
    count = max(1, math.ceil(duration_s / longest_s - 1e-6))
    bounds_s = np.linspace(0.0, duration_s, count + 1)
    for start_s, end_s in zip(bounds_s[:-1], bounds_s[1:], strict=True):
        if end_s <= from_s:
            continue
        ticks_s = np.arange(start_s, end_s - SAME_TIME_S, 1 / fps) + starts_s[0]
        shown = np.unique(np.searchsorted(starts_s, ticks_s + SAME_TIME_S, side="right") - 1)
        with decoding(name, "video", libav_errors()):
            frames_FHWC, _ = decode_frames(data, name, limits, libav_format, starts_s[np.maximum(shown, 0)], keys)
        piece_S = None if samples_S is None else samples_S[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        has_sound = piece_S is not None and len(piece_S) > 0
        yield Segment(
            start_s=float(start_s),
            end_s=float(end_s),
            frames_FHWC=frames_FHWC,
            samples_S=piece_S if has_sound else None,
        )


def _checked(data: bytes, name: str) -> str:
    kind = sniff(data)
    if kind is None or kind not in LIBAV_FORMATS or not kind.startswith("video/"):
        raise MediaError(f"{name}: not a known kind of video ({kind or data[:8]!r})")
    check_whole(data, kind, name)
    return LIBAV_FORMATS[kind]
