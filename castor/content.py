"""Messages: a role and typed parts (text, picture, sound, video, document), with one JSON form.

The JSON of a Message is the Gemini API's `Content`, and it serves everywhere: a line of a training file, a
prompt, an HTTP body, an evaluation record. Parts are immutable values, checked when they are made and decoded
when asked. One label is our own: an animated GIF read as a video is "video/gif"; "image/gif" is a picture.
"""

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args
from urllib.parse import unquote

import numpy as np

from castor.calls import FunctionCall, FunctionResponse, call_from_json, json_fields, response_from_json
from castor.media import audio, document, image, video
from castor.media.limits import Limits
from castor.media.sniff import canonical, check_kind, sniff
from castor.media.source import Source, decode_base64, read_source
from castor.media.video import Clip

Role = Literal["user", "model", "system"]


@dataclass(frozen=True)
class Text:
    """A piece of text; a thought is what the model says to itself before it answers."""

    text: str
    thought: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"Text needs a string, not {type(self.text).__name__}")
        if not self.text.isascii():
            try:
                self.text.encode()
            except UnicodeEncodeError:  # half a surrogate pair, or bytes of the command line that are not UTF-8
                raise ValueError(f"not Unicode text: {ascii(self.text):.80}") from None


class Media:
    """What pictures, sounds, videos and documents share: content, kind, name, limits; equality by content.

    `source` is a path, bytes or a "data:" URI. `mime_type`, when given, must be true; `name` is for errors.
    Raises ValueError when the source is missing, empty, over `limits`, of another kind or not what it claims.
    """

    KIND: ClassVar[str]
    __slots__ = ("_cache", "_data", "_made_from", "limits", "mime_type", "name")

    name: str
    mime_type: str
    limits: Limits
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
        self._fill(_data=data, _made_from=None, _cache={}, limits=limits, mime_type=kind, name=name)

    def _checked_kind(self, data: bytes, declared: str | None, name: str) -> str:
        return check_kind(data, self.KIND, declared, name)

    def _fill(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def _made(cls, made_from: tuple[Any, ...], mime_type: str, name: str) -> Self:
        part = object.__new__(cls)
        part._fill(_data=None, _made_from=made_from, _cache={}, limits=Limits(), mime_type=mime_type, name=name)
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
        return self is other or (self.mime_type == other.mime_type and self.data == other.data)

    def __hash__(self) -> int:
        return hash((type(self), self.mime_type, self.data))

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

        No stored frame is given twice, so that a short video gives fewer. `choose` names frames by another rule.
        """
        limits = limits or self.limits
        if self._made_from is not None:
            return video.clip_of_frames(*self._made_from, self.name, limits, num_frames, fps, choose)
        return video.decode_video(self.data, self.name, limits, num_frames, fps, choose)


class Document(Media):
    """A PDF document."""

    KIND = "document"
    __slots__ = ()

    def pages(self, limits: Limits | None = None, dpi: float = 144.0) -> list[np.ndarray]:
        """The pages as RGB pixels, each uint8 [H, W, 3], drawn at `dpi` dots per inch; not cached."""
        return document.decode_document(self.data, self.name, limits or self.limits, dpi)


Part = Text | Image | Audio | Video | Document | FunctionCall | FunctionResponse
PART_KEYS = {"text", "inlineData", "fileData", "functionCall", "functionResponse"}
MEDIA_KINDS: dict[str, type[Image | Audio | Video | Document]] = {
    "image": Image,
    "audio": Audio,
    "video": Video,
    "application": Document,
}


@dataclass(frozen=True)
class Message:
    """A role and its parts. Equal when the contents are equal."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"role must be one of {', '.join(get_args(Role))}, not {self.role!r}")
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            if not isinstance(part, Part):
                raise ValueError(f"a part must be Text, media or a function call, not {type(part).__name__}")

    @classmethod
    def user(cls, *parts: Part | str) -> Self:
        """A message from the user; a string stands for Text."""
        return cls("user", _as_parts(parts))

    @classmethod
    def model(cls, *parts: Part | str) -> Self:
        """A message from the model; a string stands for Text."""
        return cls("model", _as_parts(parts))

    @classmethod
    def system(cls, *parts: Part | str) -> Self:
        """An instruction to the model; a string stands for Text."""
        return cls("system", _as_parts(parts))

    @property
    def text(self) -> str:
        """All text parts joined, thoughts left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text) and not part.thought)

    @property
    def images(self) -> tuple[Image, ...]:
        """The image parts in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    def to_json(self) -> dict[str, Any]:
        """The Gemini API's Content: {"role": ..., "parts": [{"text": ...} | {"inlineData": {...}}]}."""
        return {"role": self.role, "parts": [part_to_json(part) for part in self.parts]}

    @classmethod
    def from_json(
        cls,
        obj: Mapping[str, Any],
        base_dir: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """A message from Content JSON: camelCase or snake_case keys, both base64 alphabets.

        `fileData` names a local file in `base_dir`; without that folder it is refused, as is anything remote.
        A missing role means "user". Raises ValueError that names a wrong key or value.
        """
        fields = json_fields(obj, "message", {"role", "parts"})
        parts = fields.get("parts")
        if not isinstance(parts, list | tuple):
            raise ValueError(f"message: parts must be a list, not {parts!r:.80}")
        read = [part_from_json(part, base_dir, limits, f"parts[{at}]") for at, part in enumerate(parts)]
        return cls(fields.get("role", "user"), tuple(read))


def _as_parts(parts: tuple[Part | str, ...]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


def part_to_json(part: Part) -> dict[str, Any]:
    """One part of Content JSON; media are inlined."""
    if isinstance(part, Text):
        return {"text": part.text, "thought": True} if part.thought else {"text": part.text}
    if isinstance(part, FunctionCall | FunctionResponse):
        return part.to_json()
    assert isinstance(part, Media)
    return {"inlineData": {"mimeType": part.mime_type, "data": base64.b64encode(part.data).decode("ascii")}}


def part_from_json(
    obj: Mapping[str, Any],
    base_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    place: str = "part",
) -> Part:
    """One part from Content JSON; see `Message.from_json`. `place` names it in error texts."""
    limits = limits or Limits()
    fields = json_fields(obj, place, PART_KEYS | {"thought"})
    thought = fields.pop("thought", False)
    if len(fields) != 1:
        raise ValueError(f"{place}: needs exactly one of {', '.join(sorted(PART_KEYS))}, not {sorted(fields)}")
    [(key, value)] = fields.items()
    if not isinstance(thought, bool) or (thought and key != "text"):
        raise ValueError(f"{place}: thought is true or false beside a text, not {thought!r:.80} beside {key}")
    if key == "text":
        if not isinstance(value, str):
            raise ValueError(f"{place}.text must be a string, not {type(value).__name__}")
        return Text(value, thought)
    place = f"{place}.{key}"
    if key in ("functionCall", "functionResponse"):
        return call_from_json(value, place) if key == "functionCall" else response_from_json(value, place)
    if key == "inlineData":
        blob = json_fields(value, place, {"mimeType", "data", "displayName"})
        mime_type, name = blob.get("mimeType"), str(blob.get("displayName") or place)
        media = _media_class(mime_type, place)
        data = decode_base64(blob.get("data"), name, limits)
        return media(data, mime_type=mime_type, name=name, limits=limits)
    file = json_fields(value, place, {"mimeType", "fileUri", "displayName"})
    path = _local_path(file.get("fileUri"), base_dir, place)
    data, _, name = read_source(path, None, "file", limits)
    mime_type = file.get("mimeType")
    media = _media_class(mime_type or sniff(data) or "unknown", f"{place} ({name})")
    return media(data, mime_type=mime_type, name=name, limits=limits)


def _media_class(mime_type: object, place: str) -> type[Image | Audio | Video | Document]:
    if not isinstance(mime_type, str) or not mime_type:
        raise ValueError(f"{place}: mimeType is needed, not {mime_type!r}")
    kind = canonical(mime_type)
    media = MEDIA_KINDS.get(kind.partition("/")[0])
    if media is None or (media is Document and kind != "application/pdf"):
        raise ValueError(f"{place}: unsupported mimeType {mime_type!r}")
    return media


def _local_path(uri: object, base_dir: str | os.PathLike[str] | None, place: str) -> Path:
    if not isinstance(uri, str) or not uri:
        raise ValueError(f"{place}: fileUri is needed, not {uri!r}")
    if "://" in uri and not uri.startswith("file://"):
        raise ValueError(f"{place}: {uri[:200]!r} is remote; only local files are read")
    if base_dir is None:
        raise ValueError(f"{place}: {uri[:200]!r} names a file, but no folder to read from is given")
    base = Path(base_dir).resolve()
    try:
        path = (base / (unquote(uri[len("file://") :]) if uri.startswith("file://") else uri)).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{place}: {uri[:200]!r} is not a usable path: {error}") from error
    if not path.is_relative_to(base):
        raise ValueError(f"{place}: {uri[:200]!r} lies outside {str(base)!r}")
    return path
