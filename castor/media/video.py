"""Moving pictures: files to a few frames with time stamps and a sound track, and back.

A first pass over the packets (nothing decoded) finds when frames are shown, whatever the header says; the
second decodes forward once, skipping what no wanted frame needs. Animated GIFs are videos without sound.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from castor.media.audio import (
    LIBAV_FORMATS,
    RATE_HZ,
    check_samples,
    decode_sound_track,
    libav_errors,
    open_container,
)
from castor.media.image import check_pixels, open_picture, rgb_pixels
from castor.media.limits import Limits, MediaError, decoding
from castor.media.look import WHOLE
from castor.media.sniff import sniff
from castor.media.whole import check_whole

if TYPE_CHECKING:
    import av

# (frames that are stored, duration in s) -> indices of those wanted, never falling; a frame may be wanted twice.
ChooseFrames = Callable[[int, float], np.ndarray]
Span = tuple[float, float | None]  # a stretch, in seconds from the video's start; None: up to its end
SAME_TIME_S = 1e-4  # times closer than this are one, since containers round them
SEEKABLE_FORMATS = ("mp4", "matroska")  # the others have no index, or none to be trusted
DEFAULT_GIF_FRAME_S = 0.1  # what browsers make of a GIF frame without a duration


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames of a video with the times at which they are shown, and its sound track.

    frames_FHWC uint8; times_s float64 [F] from the video's start; samples_S float32 at 16 kHz mono, or None. A stretch
    of a video keeps its times; its sound is that from `start_s` up to `end_s`.
    """

    frames_FHWC: np.ndarray
    times_s: np.ndarray
    samples_S: np.ndarray | None
    end_s: float
    start_s: float = 0.0

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


def decode_video(
    data: bytes,
    name: str = "video",
    limits: Limits | None = None,
    num_frames: int = 16,
    fps: float | None = None,
    choose: ChooseFrames | None = None,
    span: Span = WHOLE,
) -> Clip:
    """A clip of `num_frames` equally spaced frames, of `fps` frames a second, or of those that `choose` names.

    With a `span`, of that stretch of it alone. Unless `choose` does so, no stored frame is given twice, so that a short
    video gives fewer. Frames are turned upright and scaled down to `limits.max_frame_px`. Raises MediaError.
    """
    limits = limits or Limits()
    check_sampling(num_frames, fps)
    if not data:
        raise MediaError(f"{name}: the file is empty")
    limits.check("max_bytes", len(data), name, f"the file has {len(data)} bytes")
    kind = sniff(data)
    if kind == "image/gif":
        return _decode_gif(data, name, limits, num_frames, fps, choose, span)
    if kind not in LIBAV_FORMATS or not kind.startswith("video/"):
        raise MediaError(f"{name}: not a known kind of video ({kind or data[:8]!r})")
    check_whole(data, kind, name)
    with decoding(name, "video", libav_errors()):
        starts_s, keys, duration_s = frame_times(data, name, limits, LIBAV_FORMATS[kind])
        wanted = choose_frames(starts_s - starts_s[0], duration_s, num_frames, fps, name, limits, choose, span)
        shown, again = np.unique(wanted, return_inverse=True)
        frames_FHWC, times_s = decode_frames(data, name, limits, LIBAV_FORMATS[kind], starts_s[shown], keys)
        if len(shown) < len(wanted) and len(frames_FHWC) == len(shown):
            frames_FHWC, times_s = frames_FHWC[again], times_s[again]
    samples_S = decode_sound_track(data, name, limits, from_s=starts_s[0])
    return _clip(frames_FHWC, np.maximum(times_s - starts_s[0], 0.0), samples_S, duration_s, span)


def _clip(
    frames_FHWC: np.ndarray, times_s: np.ndarray, samples_S: np.ndarray | None, duration_s: float, span: Span
) -> Clip:
    """The clip of a stretch: what is shown at its beginning begins with it, and the sound is cut."""
    start_s, end_s = span[0], duration_s if span[1] is None else min(span[1], duration_s)
    if samples_S is not None:
        whole = span[1] is None or span[1] >= duration_s
        samples_S = samples_S[round(start_s * RATE_HZ) : None if whole else round(end_s * RATE_HZ)]
    return Clip(
        frames_FHWC=frames_FHWC,
        times_s=np.maximum(times_s, start_s),
        samples_S=None if samples_S is None or not len(samples_S) else samples_S.copy(),
        end_s=end_s,
        start_s=start_s,
    )


def check_sampling(num_frames: int, fps: float | None) -> None:
    """Raises ValueError unless at least one frame, or a positive rate, is asked for."""
    if fps is None and (isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1):
        raise ValueError(f"num_frames must be a positive integer, not {num_frames!r}")
    if fps is not None and not 0 < fps < 1e6:
        raise ValueError(f"fps must be a positive number, not {fps!r}")


def choose_frames(
    starts_s: np.ndarray,
    duration_s: float,
    num_frames: int,
    fps: float | None,
    name: str,
    limits: Limits,
    choose: ChooseFrames | None = None,
    span: Span = WHOLE,
) -> np.ndarray:
    """Indices [F], rising, of the frames shown at the wanted times; `starts_s` [N] begins at 0.

    Equally spaced means the middles of `num_frames` equal spans; by rate means 0, 1/fps, 2/fps, ... Of a stretch, its
    frames are chosen as those of a video of that length would be.
    """
    if span != WHOLE:
        start_s, end_s = span[0], duration_s if span[1] is None else min(span[1], duration_s)
        if start_s >= end_s - SAME_TIME_S:
            raise MediaError(f"{name}: lasts {duration_s:.1f} s, and has nothing from {start_s:g} s on")
        first = int(np.searchsorted(starts_s, start_s + SAME_TIME_S, side="right")) - 1
        last = int(np.searchsorted(starts_s, end_s - SAME_TIME_S))
        inner_s = np.maximum(starts_s[first:last] - start_s, 0.0)
        return first + choose_frames(inner_s, end_s - start_s, num_frames, fps, name, limits, choose)
    if choose is not None:
        wanted = choose(len(starts_s), duration_s)
    elif fps is None and num_frames >= len(starts_s):
        wanted = np.arange(len(starts_s))
    elif fps is None:
        wanted_s = (np.arange(num_frames) + 0.5) * (duration_s / num_frames)
        wanted = np.unique(np.searchsorted(starts_s, wanted_s + SAME_TIME_S, side="right") - 1)
    else:  # a frame is wanted when a tick falls into its span
        ends_s = np.append(starts_s[1:], duration_s)
        tick_s = np.ceil((starts_s - SAME_TIME_S) * fps) / fps
        wanted = np.flatnonzero(tick_s < ends_s - SAME_TIME_S)
    limits.check("max_frames", len(wanted), name, f"{len(wanted)} frames are asked for")
    return wanted


def frame_times(
    data: bytes, name: str, limits: Limits, libav_format: str
) -> tuple[np.ndarray, dict[float, int], float]:
    """(when frames are shown [N] in seconds, rising; key frames: time -> where to seek; duration in s).

    Read from packets alone. To be called inside `decoding`, as is `decode_frames`.
    """
    with open_container(data, libav_format) as container:
        stream = _video_stream(container, name, limits)
        stamps, ends, seeks = [], [], {}
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size == 0 or packet.is_discard or stamp is None:
                continue
            stamps.append(stamp)
            ends.append(stamp + (packet.duration or 0))
            if packet.is_keyframe and libav_format in SEEKABLE_FORMATS:
                seeks[stamp] = stamp if packet.dts is None else min(stamp, packet.dts)
            limits.check("max_stored_frames", len(stamps), name, f"the video has over {len(stamps) - 1} frames")
        if not stamps or stream.time_base is None:
            raise MediaError(f"{name}: the video has no frames")
        time_base = float(stream.time_base)
        starts_s, end_s = np.unique(np.array(stamps, np.float64)) * time_base, max(ends) * time_base
        if end_s <= starts_s[-1]:  # the last packet does not say how long it is shown: as long as most
            end_s = starts_s[-1] + (float(np.median(np.diff(starts_s))) if len(starts_s) > 1 else 0.04)
        duration_s = float(end_s - starts_s[0])
        limits.check("max_seconds", duration_s, name, f"the video lasts {duration_s:.1f} s")
        return starts_s, {stamp * time_base: seeks[stamp] for stamp in sorted(seeks)}, duration_s


def _video_stream(container: "av.container.InputContainer", name: str, limits: Limits) -> "av.video.stream.VideoStream":
    from av.stream import Disposition

    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"{name}: the file has no moving pictures")
    codec = streams[0].codec_context
    if codec is None:
        raise MediaError(f"{name}: there is no decoder for the video")
    limits.check("max_pixels", codec.width * codec.height, name, f"frames are {codec.width} x {codec.height} px")
    return streams[0]


def decode_frames(
    data: bytes, name: str, limits: Limits, libav_format: str, wanted_s: np.ndarray, keys: dict[float, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The frames on screen at `wanted_s` [F] and the times at which they begin, on the container's clock."""
    keys_s = np.array(list(keys))
    key_of_F = np.searchsorted(keys_s, wanted_s + SAME_TIME_S, side="right") - 1
    with open_container(data, libav_format) as container:
        stream = _video_stream(container, name, limits)
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(int(min(limits.max_pixels, 2**31 - 1)))}
        frames, times_s = [], []
        for run in np.split(np.arange(len(wanted_s)), np.flatnonzero(np.diff(key_of_F) > 1) + 1):
            key = key_of_F[run[0]]
            if key > 0:
                container.seek(keys[keys_s[key]], stream=stream)
            first_s = keys_s[key] if key > 0 else -np.inf
            for frame in _shown_frames(container.decode(stream), wanted_s[run], first_s):
                frames.append(_upright_rgb(frame, name, limits, len(wanted_s)))
                times_s.append(frame.time)
        if not frames:
            raise MediaError(f"{name}: no frame of the video can be decoded")
        if len({pixels_HWC.shape for pixels_HWC in frames}) > 1:
            raise MediaError(f"{name}: the frames change their size")
        return np.stack(frames), np.array(times_s)


def _shown_frames(frames: "Iterator[av.VideoFrame]", wanted_s: np.ndarray, first_s: float) -> "Iterator[av.VideoFrame]":
    """Of frames in display order, those on screen at the rising times `wanted_s`, each once.

    Frames before `first_s` are skipped: after a seek they may refer to others that were not decoded.
    """
    at, shown = 0, None
    for frame in frames:
        if frame.time is None or frame.time < first_s - SAME_TIME_S:
            continue
        if shown is not None and frame.time > wanted_s[at] + SAME_TIME_S:
            yield shown
            at += int(np.searchsorted(wanted_s[at:], frame.time - SAME_TIME_S))
            if at == len(wanted_s):
                return
        shown = frame
    if shown is not None:
        yield shown


def _upright_rgb(frame: "av.VideoFrame", name: str, limits: Limits, num_frames: int) -> np.ndarray:
    from av.video.reformatter import Interpolation

    what = f"a frame is {frame.width} x {frame.height} px"
    limits.check("max_pixels", frame.width * frame.height, name, what)
    scale = min(1.0, limits.max_frame_px / max(frame.width, frame.height))
    width_px, height_px = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    total = num_frames * width_px * height_px
    limits.check("max_total_pixels", total, name, f"{num_frames} frames of {width_px} x {height_px} px")
    how = Interpolation.FAST_BILINEAR if scale < 1 else None
    pixels_HWC = frame.reformat(width_px, height_px, "rgb24", interpolation=how).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels_HWC, round(frame.rotation / 90) % 4))


def _decode_gif(
    data: bytes, name: str, limits: Limits, num_frames: int, fps: float | None, choose: ChooseFrames | None, span: Span
) -> Clip:
    with open_picture(data, name, limits) as picture:
        spans_s: list[float] = []
        for index in range(getattr(picture, "n_frames", 1)):
            limits.check("max_stored_frames", index + 1, name, f"the animation has over {index} frames")
            picture.seek(index)
            spans_s.append((picture.info.get("duration") or 0) / 1000 or DEFAULT_GIF_FRAME_S)
        starts_s, duration_s = np.concatenate([[0.0], np.cumsum(spans_s)[:-1]]), float(np.sum(spans_s))
        limits.check("max_seconds", duration_s, name, f"the animation lasts {duration_s:.1f} s")
        wanted = choose_frames(starts_s, duration_s, num_frames, fps, name, limits, choose, span)
        scale = min(1.0, limits.max_frame_px / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        total = len(wanted) * size[0] * size[1]
        limits.check("max_total_pixels", total, name, f"{len(wanted)} frames of {size[0]} x {size[1]} px")
        frames = []
        for index in wanted:
            picture.seek(int(index))
            shown = picture if size == picture.size else picture.convert("RGBA").resize(size)
            frames.append(rgb_pixels(shown, name))
        return _clip(np.stack(frames), starts_s[wanted], None, duration_s, span)


def clip_of_frames(
    frames_FHWC: np.ndarray,
    frame_rate: float,
    samples_S: np.ndarray | None,
    name: str,
    limits: Limits,
    num_frames: int,
    fps: float | None,
    choose: ChooseFrames | None = None,
    span: Span = WHOLE,
) -> Clip:
    """What `decode_video` gives, straight from arrays: frame i is shown at i / frame_rate seconds."""
    check_sampling(num_frames, fps)
    starts_s, duration_s = np.arange(len(frames_FHWC)) / frame_rate, len(frames_FHWC) / frame_rate
    limits.check("max_seconds", duration_s, name, f"the video lasts {duration_s:.1f} s")
    wanted = choose_frames(starts_s, duration_s, num_frames, fps, name, limits, choose, span)
    total = len(wanted) * frames_FHWC[0].size // 3
    limits.check("max_total_pixels", total, name, f"{len(wanted)} frames have {total} pixels")
    return _clip(frames_FHWC[wanted], starts_s[wanted], samples_S, duration_s, span)


def encode_mp4(frames_FHWC: np.ndarray, fps: float, samples_S: np.ndarray | None = None) -> bytes:
    """An MP4 file (H.264 yuv420p, AAC) of frames uint8 [F, H, W, 3] and 16 kHz mono samples.

    Odd sides grow by one repeated line, which H.264's halved colour planes need.
    """
    import av

    frames_FHWC = check_frames(frames_FHWC, fps, "frames")
    height_px, width_px = frames_FHWC.shape[1:3]
    padding = ((0, 0), (0, height_px % 2), (0, width_px % 2), (0, 0))
    frames_FHWC = np.pad(frames_FHWC, padding, mode="edge") if height_px % 2 or width_px % 2 else frames_FHWC
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width = frames_FHWC.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "veryfast", "crf": "18", "threads": "1"}
        sound = None if samples_S is None else container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for pixels_HWC in frames_FHWC:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and samples_S is not None:
            samples_S = check_samples(samples_S, RATE_HZ, "samples")
            frame = av.AudioFrame.from_ndarray(samples_S[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return buffer.getvalue()


def check_frames(frames_FHWC: np.ndarray | Sequence[np.ndarray], fps: float, name: str) -> np.ndarray:
    """The same frames as one contiguous array when they are uint8 [F, H, W, 3], F > 0, at a positive rate."""
    frames_FHWC = np.asarray(frames_FHWC)
    if frames_FHWC.ndim != 4 or not len(frames_FHWC):
        raise ValueError(f"{name}: frames must be uint8 [F, H, W, 3], not {list(frames_FHWC.shape)}")
    check_pixels(frames_FHWC[0], name)
    if not 0 < fps <= 1000:
        raise ValueError(f"{name}: fps must lie above 0 and up to 1000, not {fps!r}")
    return np.ascontiguousarray(frames_FHWC)
