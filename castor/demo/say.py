"""One streamed answer in a terminal: words as they come, pictures as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.content import Audio, Document, Image, Message, Part, Text, Video

if TYPE_CHECKING:
    from castor.engine.model import Model

MEDIA: dict[str, Any] = {"image": Image, "audio": Audio, "video": Video, "document": Document}


def part_of(kind: str, value: str) -> Part:
    """A part of a prompt: `value` is the words of a "text", else a file; ValueError if it is missing."""
    if kind == "text":
        return Text(value)
    if not Path(value).is_file():
        raise ValueError(f"--{kind} {value}: no such file")
    return MEDIA[kind](value)


def say(model: "Model", messages: list[Message], *, out: str | None = None, **sampling: Any) -> Message:
    """Streams one answer to standard output, saves its pictures, and returns it."""
    parts: list[Part] = []
    num_pictures = 0
    for part in model.stream(messages, **sampling):
        parts.append(part)
        if isinstance(part, Text):
            print(part.text, end="", flush=True)
        elif isinstance(part, Image):
            num_pictures += 1
            print(f"[picture: {save_picture(part, out, num_pictures)}]", flush=True)
    print()
    return Message.model(*_joined(parts))


def _joined(parts: list[Part]) -> list[Part]:
    """The parts with neighbouring texts made one, as the model would have been trained on them."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined


def save_picture(image: Image, out: str | None, number: int = 1) -> Path:
    """Writes a drawn picture as PNG.

    With `out` that file is replaced and further pictures get -2, -3 ...; else a free drawing*.png is taken.
    """
    wanted = png_path(out or "drawing.png")
    path = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
    while out is None and path.exists():
        number += 1
        path = wanted.with_stem(f"{wanted.stem}-{number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.data)
    return path


def png_path(out: str) -> Path:
    """`out` as a path.  Raises ValueError unless it ends in .png."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: pictures are written as PNG, so the name must end in .png")
    return path
