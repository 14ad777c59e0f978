"""Sound: files to 16 kHz mono samples and back.

WAV, FLAC, OGG and AIFF are read by libsndfile, all others (MP3, M4A, AAC, video files) by libav. Both hand
over blocks, so that memory is bounded by the length of the result. Cut-short files are refused where the
format says how long it should be; MP3, AAC and OGG streams may end anywhere by design.
"""

import io
import struct
import wave
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from castor.media.limits import Limits, MediaError, decoding
from castor.media.sniff import canonical, sniff
from castor.media.whole import check_whole

if TYPE_CHECKING:
    import av
    import soundfile

RATE_HZ = 16_000
BLOCK_VALUES = 1 << 18  # values (samples * channels) decoded at a time
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
MAX_CHANNELS = 64
SNDFILE_KINDS = ("audio/wav", "audio/flac", "audio/ogg", "audio/aiff")
RAW_KINDS = ("audio/l16", "audio/pcm")  # headerless 16-bit little-endian, as the Gemini API sends speech
LIBAV_FORMATS = {
    "audio/mpeg": "mp3",
    "audio/aac": "aac",
    "audio/mp4": "mp4",
    "audio/webm": "matroska",
    "video/mp4": "mp4",
    "video/quicktime": "mp4",
    "video/3gpp": "mp4",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/x-flv": "flv",
    "video/x-ms-wmv": "asf",
    "video/ogg": "ogg",
    "video/mpeg": "mpeg",
    "video/mp2t": "mpegts",
}
PYTHON_ERRORS = (
    OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError,
    AttributeError, struct.error,
)  # fmt: skip
Blocks = Iterator[tuple[np.ndarray, int]]  # mono float32 [S] and its rate in Hz


def decode_audio(
    data: bytes, name: str = "audio", limits: Limits | None = None, mime_type: str | None = None
) -> np.ndarray:
    """Mono samples float32 [S] at 16 kHz of an encoded sound file, or of a video's sound track.

    `mime_type` is needed only for headerless PCM ("audio/L16;rate=24000"). Raises MediaError.
    """
    samples_S = decode_sound_track(data, name, limits or Limits(), mime_type)
    if samples_S is None:
        raise MediaError(f"{name}: the file has no sound track")
    return samples_S


def decode_sound_track(
    data: bytes, name: str, limits: Limits, mime_type: str | None = None, from_s: float | None = None
) -> np.ndarray | None:
    """As `decode_audio`, but None for a container without a sound track.

    With `from_s`, a time on the container's clock, the samples begin there: padded with silence, or cut.
    """
    if not data:
        raise MediaError(f"{name}: the file is empty")
    limits.check("max_bytes", len(data), name, f"the file has {len(data)} bytes")
    if mime_type is not None and canonical(mime_type) in RAW_KINDS:
        return _joined([(_raw_samples(data, name), raw_rate_hz(mime_type, name))], name, limits)
    kind = sniff(data)
    check_whole(data, kind, name)
    if kind in SNDFILE_KINDS:
        return _sndfile_samples(data, name, limits)
    if kind not in LIBAV_FORMATS:
        raise MediaError(f"{name}: not a known kind of sound file ({kind or data[:8]!r})")
    return _libav_samples(data, name, limits, LIBAV_FORMATS[kind], from_s)


def raw_rate_hz(mime_type: str, name: str) -> int:
    """The rate that the MIME type of headerless sound states; MediaError when it states none, or stereo."""
    parameters = dict(item.strip().lower().partition("=")[::2] for item in mime_type.split(";")[1:])
    rate = parameters.get("rate", "")
    if not (rate.isascii() and rate.isdecimal() and len(rate) < 9):
        raise MediaError(f"{name}: {mime_type!r} does not say its rate (as in audio/L16;rate=24000)")
    if parameters.get("channels", "1") != "1":
        raise MediaError(f"{name}: {mime_type!r}: headerless sound must have one channel")
    _check_stream(int(rate), 1, name)
    return int(rate)


def _raw_samples(data: bytes, name: str) -> np.ndarray:
    if len(data) % 2:
        raise MediaError(f"{name}: 16-bit sound has an odd number of bytes ({len(data)})")
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


class SeekableBytes(io.BytesIO):
    """Bytes that ignore a seek to before their start, which broken files ask for.

    An exception there would be printed by the foreign-function layer instead of being raised.
    """

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position, or the old one where there is no such place."""
        origin = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(origin + offset) if 0 <= origin + offset < 1 << 62 else self.tell()


def _sndfile_samples(data: bytes, name: str, limits: Limits) -> np.ndarray:
    import soundfile

    errors = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError, MemoryError)
    with decoding(name, "sound file", errors), soundfile.SoundFile(SeekableBytes(data)) as file:
        _check_stream(file.samplerate, file.channels, name)
        is_length_stated = file.format in ("WAV", "WAVEX", "AIFF", "FLAC") and 0 < file.frames < 1 << 36
        seconds = file.frames / file.samplerate if is_length_stated else 0
        limits.check("max_seconds", seconds, name, f"the sound lasts {seconds:.1f} s")
        samples_S = _joined(_sndfile_blocks(file), name, limits)
        if is_length_stated and file.tell() < file.frames:
            raise MediaError(f"{name}: the sound is cut short ({file.tell()} of {file.frames} samples)")
        return samples_S


def _sndfile_blocks(file: "soundfile.SoundFile") -> Blocks:
    size = max(1, BLOCK_VALUES // file.channels)
    while len(block_SC := file.read(size, dtype="float32", always_2d=True)):
        block_S = block_SC.mean(axis=1, dtype=np.float32) if file.channels > 1 else block_SC[:, 0]
        yield block_S, file.samplerate


def _check_stream(rate_hz: int, num_channels: int, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise MediaError(f"{name}: a rate of {rate_hz} Hz (limit: {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz)")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise MediaError(f"{name}: {num_channels} channels (limit: {MAX_CHANNELS})")


def open_container(data: bytes, libav_format: str) -> "av.container.InputContainer":
    """A libav container over bytes. The format is forced: no playlist can make libav open other files."""
    import av

    return av.open(io.BytesIO(data), "r", format=libav_format, metadata_errors="ignore")


def libav_errors() -> tuple[type[BaseException], ...]:
    """What PyAV raises on broken files."""
    import av

    return (av.FFmpegError, *PYTHON_ERRORS)


def _libav_samples(
    data: bytes, name: str, limits: Limits, libav_format: str, from_s: float | None
) -> np.ndarray | None:
    with decoding(name, "sound file", libav_errors()), open_container(data, libav_format) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError(f"{name}: there is no decoder for the sound track")
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
            limits.check("max_seconds", seconds, name, f"the sound lasts {seconds:.1f} s")
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise MediaError(f"{name}: the sound track holds no samples")
        delay_s = 0.0 if from_s is None or first.time is None else first.time - from_s
        limits.check("max_seconds", abs(delay_s), name, f"the sound begins {delay_s:.1f} s off the pictures")
        samples_S = _joined((_mono_block(frame, name) for frame in chain([first], frames)), name, limits)
        delay = round(delay_s * RATE_HZ)
        return np.pad(samples_S, (delay, 0)) if delay >= 0 else samples_S[-delay:]


def _mono_block(frame: "av.AudioFrame", name: str) -> tuple[np.ndarray, int]:
    num_channels = frame.layout.nb_channels
    _check_stream(frame.sample_rate, num_channels, name)
    values = frame.to_ndarray()
    values_CS = values if frame.format.is_planar else values.reshape(-1, num_channels).T
    if values_CS.dtype == np.uint8:
        samples_S = (values_CS.astype(np.float32).mean(axis=0) - 128) / 128
    elif values_CS.dtype.kind == "i":
        samples_S = values_CS.mean(axis=0, dtype=np.float64) / 2.0 ** (8 * values_CS.itemsize - 1)
    else:
        samples_S = values_CS.mean(axis=0)
    return samples_S.astype(np.float32), frame.sample_rate


def _joined(blocks: Iterable[tuple[np.ndarray, int]], name: str, limits: Limits) -> np.ndarray:
    """All blocks as one float32 [S] at 16 kHz in [-1, 1]; the limit is watched while decoding."""
    import soxr

    resampler, rate_hz, num_seconds = None, 0, 0.0
    pieces: list[np.ndarray] = []
    for block_S, block_rate_hz in blocks:
        if not rate_hz:
            rate_hz = block_rate_hz
            _check_stream(rate_hz, 1, name)
            resampler = soxr.ResampleStream(rate_hz, RATE_HZ, 1, "float32") if rate_hz != RATE_HZ else None
        if block_rate_hz != rate_hz:
            raise MediaError(f"{name}: the rate changes from {rate_hz} to {block_rate_hz} Hz")
        num_seconds += len(block_S) / rate_hz
        limits.check("max_seconds", num_seconds, name, f"the sound lasts over {num_seconds:.1f} s")
        pieces.append(resampler.resample_chunk(block_S) if resampler else block_S)
    if not num_seconds:
        raise MediaError(f"{name}: the sound track holds no samples")
    if resampler:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples_S = np.concatenate(pieces)
    if not np.isfinite(samples_S).all():
        raise MediaError(f"{name}: the sound holds values that are not finite")
    return np.clip(samples_S, -1.0, 1.0, out=samples_S)


def resample(samples_S: np.ndarray, rate_hz: int) -> np.ndarray:
    """float32 [S] at `rate_hz` -> float32 [S] at 16 kHz in [-1, 1]."""
    return _joined([(samples_S, rate_hz)], "samples", Limits(max_seconds=float("inf")))


def check_samples(samples_S: np.ndarray, rate_hz: int, name: str) -> np.ndarray:
    """A float32 copy clipped to [-1, 1] of finite float samples [S] at a usable rate."""
    samples_S = np.asarray(samples_S)
    if samples_S.dtype.kind != "f" or samples_S.ndim != 1:
        raise ValueError(f"{name}: samples must be float [S], not {samples_S.dtype} {list(samples_S.shape)}")
    if not np.isfinite(samples_S).all():
        raise ValueError(f"{name}: samples must be finite")
    if int(rate_hz) != rate_hz:
        raise ValueError(f"{name}: the rate must be a whole number of Hz, not {rate_hz!r}")
    _check_stream(int(rate_hz), 1, name)
    return np.clip(samples_S, -1.0, 1.0).astype(np.float32)


def encode_wav(samples_S: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    """A 16-bit mono WAV file of float samples [S] in [-1, 1]; each value within 1/32768."""
    samples_S = check_samples(samples_S, rate_hz, "samples")
    values_S = np.clip(np.rint(samples_S * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, int(rate_hz), 0, "NONE", ""))
        file.writeframes(values_S.tobytes())
    return buffer.getvalue()
