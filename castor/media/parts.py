"""Pictures, sounds, videos and documents as parts of a message: immutable values, decoded when they are asked for.

One label is our own: an animated GIF read as a video is "video/gif"; "image/gif" is a picture.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from castor.media import audio, document, image, video
from castor.media.limits import Limits
from castor.media.look import Look
from castor.media.sniff import canonical, check_kind
from castor.media.source import Source, read_source
from castor.media.video import Clip


class Media:
    """What pictures, sounds, videos and documents share: content, kind, name, limits; equality by content.

    `source` is a path, bytes or a "data:" URI. `mime_type`, when given, must be true; `name` is for errors.
    Raises ValueError when the source is missing, empty, over `limits`, of another kind or not what it claims.
    """

    KIND: ClassVar[str]
    __slots__ = ("_cache", "_data", "_made_from", "limits", "look", "mime_type", "name")

    name: str
    mime_type: str
    limits: Limits
    look: Look
    _data: bytes | None  # the encoded file; None until a part made from arrays is asked for it
    _made_from: tuple[Any, ...] | None  # the arrays of a part made from arrays
    _cache: dict[Any, Any]

    def __init__(
        self,
        source: Source,
        *,
        mime_type: str | None = None,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        data, declared, name = read_source(source, name, self.KIND, limits)
        kind = self._checked_kind(data, mime_type or declared, name)
        self._fill(_data=data, _made_from=None, _cache={}, limits=limits, look=Look(), mime_type=kind, name=name)

    def _checked_kind(self, data: bytes, declared: str | None, name: str) -> str:
        return check_kind(data, self.KIND, declared, name)

    def _fill(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def _made(cls, made_from: tuple[Any, ...], mime_type: str, name: str) -> Self:
        part = object.__new__(cls)
        given = {"limits": Limits(), "look": Look(), "mime_type": mime_type, "name": name}
        part._fill(_data=None, _made_from=made_from, _cache={}, **given)
        return part

    def with_look(self, look: Look) -> Self:
        """The same content, looked at in this way; ValueError where there is no such way of looking at it."""
        look.check(self.KIND, self.name)
        part = object.__new__(type(self))
        part._fill(**{key: getattr(self, key) for key in Media.__slots__} | {"look": look})
        return part

    @property
    def data(self) -> bytes:
        """The encoded file; encoded on first use for a part made from arrays."""
        if self._data is None:
            self._fill(_data=self._encode())
        assert self._data is not None
        return self._data

    @property
    def held_bytes(self) -> int:
        """Memory of the encoded file and of the arrays that it was made from, as far as there are any."""
        arrays = (getattr(value, "nbytes", 0) for value in self._made_from or ())
        return len(self._data or b"") + sum(arrays)

    def _encode(self) -> bytes:
        raise TypeError(f"a {type(self).__name__.lower()} is made from a file, never from arrays")

    def _cached(self, key: Any, decode: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = decode()
        return self._cache[key]

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {key!r} cannot be set")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {key!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        if self is other:
            return True
        return (self.mime_type, self.look) == (other.mime_type, other.look) and self.data == other.data

    def __hash__(self) -> int:
        return hash((type(self), self.mime_type, self.look, self.data))

    def __repr__(self) -> str:
        size = "not encoded yet" if self._data is None else f"{len(self._data)} bytes"
        return f"{type(self).__name__}({self.name!r}, {self.mime_type}, {size})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in Media.__slots__ if key != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._fill(**state, _cache={})


class Image(Media):
    """A picture. Of an animation, the first frame."""

    KIND = "image"
    __slots__ = ()

    @classmethod
    def from_pixels(cls, pixels_HWC: np.ndarray, name: str = "image") -> Self:
        """A picture of RGB pixels uint8 [H, W, 3]; a PNG file once its data is asked for."""
        return cls._made((image.check_pixels(pixels_HWC, name).copy(),), "image/png", name)

    def _encode(self) -> bytes:
        assert self._made_from is not None
        return image.encode_png(self._made_from[0])

    def pixels(self, limits: Limits | None = None) -> np.ndarray:
        """RGB pixels uint8 [H, W, 3], a copy: upright, transparency over white."""
        limits = limits or self.limits
        if self._made_from is not None:
            pixels_HWC = self._made_from[0]
        else:
            pixels_HWC = self._cached("pixels", lambda: image.decode_image(self.data, self.name, limits))
        height_px, width_px = pixels_HWC.shape[:2]
        limits.check("max_pixels", width_px * height_px, self.name, f"the picture is {width_px} x {height_px} px")
        return pixels_HWC.copy()


class Audio(Media):
    """A sound recording, or the sound track of a video file."""

    KIND = "audio"
    __slots__ = ()

    @classmethod
    def from_samples(cls, samples_S: np.ndarray, rate_hz: int = audio.RATE_HZ, name: str = "audio") -> Self:
        """A sound of mono float samples [S] in [-1, 1]; a 16-bit WAV once its data is asked for."""
        samples_S = audio.check_samples(samples_S, rate_hz, name)
        if not len(samples_S):
            raise ValueError(f"{name}: a sound needs at least one sample")
        return cls._made((samples_S, int(rate_hz)), "audio/wav", name)

    def _checked_kind(self, data: bytes, declared: str | None, name: str) -> str:
        if declared is not None and canonical(declared) in audio.RAW_KINDS and data:
            audio.raw_rate_hz(declared, name)
            return declared.replace(" ", "")
        return super()._checked_kind(data, declared, name)

    def _encode(self) -> bytes:
        assert self._made_from is not None
        return audio.encode_wav(*self._made_from)

    def samples(self, limits: Limits | None = None) -> np.ndarray:
        """Mono samples float32 [S] at 16 kHz in [-1, 1], a copy."""
        limits = limits or self.limits
        samples_S = self._cached("samples", lambda: self._decode(limits))
        seconds = len(samples_S) / audio.RATE_HZ
        limits.check("max_seconds", seconds, self.name, f"the sound lasts {seconds:.1f} s")
        return samples_S.copy()

    def _decode(self, limits: Limits) -> np.ndarray:
        if self._made_from is not None:
            return audio.resample(*self._made_from)
        return audio.decode_audio(self.data, self.name, limits, self.mime_type)


class Video(Media):
    """Moving pictures with or without sound."""

    KIND = "video"
    __slots__ = ()

    @classmethod
    def from_frames(
        cls, frames_FHWC: np.ndarray, fps: float, samples_S: np.ndarray | None = None, name: str = "video"
    ) -> Self:
        """A video of RGB frames uint8 [F, H, W, 3] and mono samples at 16 kHz. MP4 on demand."""
        frames_FHWC = video.check_frames(frames_FHWC, fps, name).copy()
        if samples_S is not None:
            samples_S = audio.check_samples(samples_S, audio.RATE_HZ, name)
            if not len(samples_S):
                raise ValueError(f"{name}: a sound track needs at least one sample (None means: no sound)")
        return cls._made((frames_FHWC, float(fps), samples_S), "video/mp4", name)

    def _encode(self) -> bytes:
        assert self._made_from is not None
        return video.encode_mp4(*self._made_from)

    def clip(
        self,
        limits: Limits | None = None,
        num_frames: int = 16,
        fps: float | None = None,
        choose: video.ChooseFrames | None = None,
    ) -> Clip:
        """`num_frames` equally spaced frames, or `fps` frames a second, and the sound track; not cached.

        No stored frame is given twice, so that a short video gives fewer. `choose` names frames by another rule. Where
        `look` says from when, until when, or how many frames a second, that holds (but `choose` chooses by itself).
        """
        limits, fps, span = limits or self.limits, self.look.fps or fps, self.look.span
        if self._made_from is not None:
            return video.clip_of_frames(*self._made_from, self.name, limits, num_frames, fps, choose, span)
        return video.decode_video(self.data, self.name, limits, num_frames, fps, choose, span)


class Document(Media):
    """A PDF document."""

    KIND = "document"
    __slots__ = ()

    def pages(self, limits: Limits | None = None, dpi: float = 144.0) -> list[np.ndarray]:
        """The pages as RGB pixels, each uint8 [H, W, 3], drawn at `dpi` dots per inch; not cached."""
        return document.decode_document(self.data, self.name, limits or self.limits, dpi)
