"""Messages: a role and typed parts (text, picture, sound, video, document), with one JSON form.

The JSON of a Message is the Gemini API's `Content`, and it serves everywhere: a line of a training file, a
prompt, an HTTP body, an evaluation record. Parts are immutable values, checked when they are made and decoded
when asked.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args
from urllib.parse import unquote

from castor.calls import FunctionCall, FunctionResponse, call_from_json, json_fields, response_from_json
from castor.media.limits import Limits
from castor.media.look import RESOLUTIONS, Look
from castor.media.parts import Audio, Document, Image, Media, Video
from castor.media.sniff import canonical, sniff
from castor.media.source import decode_base64, read_source

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


Part = Text | Image | Audio | Video | Document | FunctionCall | FunctionResponse
PART_KEYS = {"text", "inlineData", "fileData", "functionCall", "functionResponse"}
LOOK_KEYS = {"videoMetadata", "mediaResolution"}
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
    data = {"mimeType": part.mime_type, "data": base64.b64encode(part.data).decode("ascii")}
    return {"inlineData": data, **_look_to_json(part.look)}


def part_from_json(
    obj: Mapping[str, Any],
    base_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    place: str = "part",
) -> Part:
    """One part from Content JSON; see `Message.from_json`. `place` names it in error texts."""
    limits = limits or Limits()
    fields = json_fields(obj, place, PART_KEYS | LOOK_KEYS | {"thought"})
    if LOOK_KEYS & set(fields):
        look = look_from_json({key: fields.pop(key) for key in LOOK_KEYS & set(fields)}, place)
        part = part_from_json(fields, base_dir, limits, place)
        if not isinstance(part, Media):
            raise ValueError(f"{place}: videoMetadata and mediaResolution are for media, not for {sorted(fields)}")
        return part.with_look(look)
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


def look_from_json(fields: Mapping[str, Any], place: str) -> Look:
    """What the keys of `LOOK_KEYS` say of a part; ValueError names a wrong one."""
    values: dict[str, Any] = {}
    if "videoMetadata" in fields:
        where = f"{place}.videoMetadata"
        film = json_fields(fields["videoMetadata"], where, {"startOffset", "endOffset", "fps"})
        names = {"startOffset": "start_s", "endOffset": "end_s"}
        values = {names[key]: _seconds(film[key], f"{where}.{key}") for key in names if key in film}
        values |= {"fps": film["fps"]} if "fps" in film else {}
    if "mediaResolution" in fields:
        where, given = f"{place}.mediaResolution", fields["mediaResolution"]
        size = json_fields({"level": given} if isinstance(given, str) else given, where, {"level", "numTokens"})
        if "level" in size:
            values["resolution"] = resolution_from_json(size["level"], f"{where}.level")
        values |= {"num_tokens": size["numTokens"]} if "numTokens" in size else {}
    try:
        return Look(**values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def resolution_from_json(value: object, place: str) -> str | None:
    """MEDIA_RESOLUTION_LOW -> "low"; None where it is left open."""
    name = str(value).upper().removeprefix("MEDIA_RESOLUTION_").lower()
    if name == "unspecified":
        return None
    if name not in RESOLUTIONS:
        raise ValueError(f"{place}={value!r:.60}: there is {', '.join(RESOLUTIONS)}")
    return name


def _seconds(value: object, place: str) -> float:
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?s", value):
        raise ValueError(f"{place} is seconds such as 1.5s, not {value!r:.40}")
    return float(value[:-1])


def _look_to_json(look: Look) -> dict[str, Any]:
    offsets = {"startOffset": look.start_s or None, "endOffset": look.end_s}
    film: dict[str, Any] = {key: f"{value:.9f}s" for key, value in offsets.items() if value is not None}
    film |= {"fps": look.fps} if look.fps is not None else {}
    size: dict[str, Any] = {"numTokens": look.num_tokens} if look.num_tokens is not None else {}
    size |= {"level": f"MEDIA_RESOLUTION_{look.resolution.upper()}"} if look.resolution is not None else {}
    return ({"videoMetadata": film} if film else {}) | ({"mediaResolution": size} if size else {})
