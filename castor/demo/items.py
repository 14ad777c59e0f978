"""What the demo asks: media with questions, and pictures to draw; by default the package's samples."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from castor.content import Audio, Document, Image, Part, Video

KINDS: dict[str, Callable[[Path], Part]] = {
    "image": Image,
    "document": Document,
    "audio": Audio,
    "video": Video,
}
KIND_OF_SUFFIX = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"), "audio"),
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".mov", ".avi"), "video"),
    ".pdf": "document",
}
TITLES = {"image": "A picture", "document": "A page", "audio": "A recording", "video": "A video clip"}
QUESTIONS = {
    "image": "How many red shapes are there?",
    "document": "What does the title say?",
    "audio": "What is said here?",
    "video": "What moves, and where to?",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and, where it is known, its true answer; the note says what is special about it."""

    text: str
    truth: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A piece of media and what is asked about it."""

    kind: str  # "image", "document", "audio" or "video"
    path: Path
    title: str
    questions: tuple[Question, ...]

    def part(self) -> Part:
        """The media as a part of a message."""
        return KINDS[self.kind](self.path)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Words to draw; `scene` is what the picture should show, where that is known; the note as in a question."""

    prompt: str
    scene: Mapping[str, Any] | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that one demo asks."""

    items: tuple[Item, ...]
    drawings: tuple[Drawing, ...] = ()


def _thing(size: str, colour: str, shape: str) -> dict[str, Any]:
    """A thing that may stand anywhere, as the JSON of a scene has it."""
    return {"size": size, "colour": colour, "shape": shape, "x": -1.0, "y": -1.0}


DRAWINGS = (
    Drawing(
        prompt="Draw a large red circle left of a small blue square.",
        scene={
            "things": [_thing("large", "red", "circle"), _thing("small", "blue", "square")],
            "relations": [[0, "left", 1]],
        },
    ),
    Drawing(prompt="Draw a small green triangle.", scene={"things": [_thing("small", "green", "triangle")]}),
    Drawing(
        prompt="Draw a large yellow star above a large blue circle.",
        scene={
            "things": [_thing("large", "yellow", "star"), _thing("large", "blue", "circle")],
            "relations": [[0, "above", 1]],
        },
    ),
)


def item_from_file(path: str | Path, question: str | None = None) -> Item:
    """An item for the user's own file; its kind is told by the suffix, which must be a known one."""
    path = Path(path)
    kind = KIND_OF_SUFFIX.get(path.suffix.lower())
    if kind is None:
        known = " ".join(sorted(KIND_OF_SUFFIX))
        raise ValueError(f"{path}: cannot tell from {path.suffix!r} what kind of file this is; known: {known}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return Item(kind=kind, path=path, title=path.name, questions=(Question(text=question or QUESTIONS[kind]),))


def sample_inputs() -> Inputs:
    """The samples shipped with the package, with the questions and true answers of their `samples.json`."""
    folder = Path(str(files("castor").joinpath("samples")))
    listing = folder / "samples.json"
    if listing.is_file():
        return _from_listing(json.loads(listing.read_text(encoding="utf-8")), folder)
    names = ("scene.png", "page.pdf", "speech.wav", "clip.mp4")
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder}: the sample files are missing ({', '.join(names)}); pass your own files instead")
    return Inputs(items=tuple(item_from_file(path) for path in found), drawings=DRAWINGS)


def _from_listing(listing: Mapping[str, Any], folder: Path) -> Inputs:
    """{"items": [{"file", "questions": [{"text", "truth", "note"}]}], "drawings": [{"prompt", "scene", "note"}]}."""
    items = []
    for entry in listing["items"]:
        path = folder / entry["file"]
        kind = entry.get("kind", KIND_OF_SUFFIX.get(path.suffix.lower()))
        questions = tuple(Question(**question) for question in entry["questions"])
        items.append(Item(kind=kind, path=path, title=entry.get("title", TITLES[kind]), questions=questions))
    drawings = tuple(Drawing(**entry) for entry in listing.get("drawings", ()))
    return Inputs(items=tuple(items), drawings=(*DRAWINGS, *drawings))


def user_inputs(paths: Sequence[str | Path], question: str | None = None, draw: Sequence[str] = ()) -> Inputs:
    """The user's own files and words to draw; ValueError for a question without a file."""
    if question and not paths:
        raise ValueError("a question needs a file to be asked about")
    items = tuple(item_from_file(path, question) for path in paths)
    return Inputs(items=items, drawings=tuple(Drawing(prompt=words) for words in draw))
