"""Makes the sample files that the package ships, from the held-out part of the small world."""

import json
import random
from pathlib import Path
from typing import Any

from castor.content import Audio, Image, Video
from castor.diorama import page as diorama_page
from castor.diorama import questions
from castor.diorama.draw import LANGUAGES
from castor.diorama.render import render
from castor.diorama.scene import UNSEEN_TAG, Scene, random_scene
from castor.diorama.world import World
from castor.example import Example

SCENE_PX = 128
PAGE_KINDS = ("title", "most", "rows")
MAX_TRIES = 1000
NAMES = {"en": "English", "zh": "Chinese", "es": "Spanish", "fr": "French", "de": "German", "hi": "Hindi"}
UNSEEN = "training never shows this combination"
Asked = list[dict[str, str]]  # questions as a listing has them


def write_samples(folder: str | Path, seed: int = 0) -> list[Path]:
    """Writes pictures, a page, a recording, a clip, and samples.json (questions with true answers, and drawings).

    The same seed gives the same content.  Raises ValueError where there is no speech synthesiser.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed=seed, split="test", languages=("en",))
    made = (
        ("scene.png", *_scene(seed)),
        ("languages.png", *_languages(seed)),
        ("page.pdf", *_page(seed)),
        ("speech.wav", *_speech(world)),
        ("clip.mp4", *_clip(world)),
    )
    items = []
    for name, data, asked in made:
        (folder / name).write_bytes(data)
        items.append({"file": name, "questions": asked})
    drawings = [_drawing(seed, language) for language in LANGUAGES[1:]] + [_drawing(seed, "en", unseen=True)]
    listing = json.dumps({"items": items, "drawings": drawings}, indent=2, ensure_ascii=False) + "\n"
    (folder / "samples.json").write_text(listing, encoding="utf-8")
    return [folder / name for name, *_ in made] + [folder / "samples.json"]


def _asked(text: str, truth: str, *notes: str) -> dict[str, str]:
    note = "; ".join(filter(None, notes))
    return {"text": text, "truth": truth, **({"note": note} if note else {})}


def _scene(seed: int) -> tuple[bytes, Asked]:
    """A picture of four things, some of them red; a count and three questions of different kinds."""
    rng = random.Random(f"{seed}/samples/scene")
    scene = Scene(())
    while sum(thing.colour == "red" for thing in scene.things) < 2:
        scene = random_scene(rng, 4)
    red = [thing for thing in scene.things if thing.colour == "red"]
    is_unseen = any(thing.is_unseen for thing in red)
    asked = {"count": _asked("How many red shapes are there?", str(len(red)), UNSEEN if is_unseen else "")}
    while len(asked) < 4:
        question = questions.ask(rng, "en", scene)
        note = UNSEEN if question.is_unseen else ""
        asked.setdefault(question.kind, _asked(question.question, question.answer, note))
    return Image.from_pixels(render(scene, SCENE_PX)).data, list(asked.values())


def _languages(seed: int) -> tuple[bytes, Asked]:
    """A picture of three things that training may show, asked about in each language."""
    rng = random.Random(f"{seed}/samples/languages")
    scene = random_scene(rng, 3)
    asked = []
    for language in LANGUAGES[1:]:
        question = questions.ask(rng, language, scene)
        asked.append(_asked(question.question, question.answer, NAMES[language]))
    return Image.from_pixels(render(scene, SCENE_PX)).data, asked


def _drawing(seed: int, language: str, unseen: bool = False) -> dict[str, Any]:
    """The first request of a language for two things beside each other, of combinations that training shows or not."""
    world = World(seed=seed, split="test", languages=(language,))
    first = 100 * LANGUAGES.index(language)  # another scene for each: an index is the same scene in all of them
    for index in range(first, first + MAX_TRIES):
        example = world.example("drawing", index)
        if "relation" in example.tags and (UNSEEN_TAG in example.tags) == unseen:
            note = UNSEEN if unseen else NAMES[language]
            return {"prompt": example.prompt[0].text, "scene": example.meta["scene"], "note": note}
    raise ValueError(f"no such drawing among the first {MAX_TRIES}")


def _page(seed: int) -> tuple[bytes, Asked]:
    rng = random.Random(f"{seed}/samples/page")
    page = diorama_page.draw_page(rng, "en")
    asked = [diorama_page.ask(page, kind, "en", rng) for kind in PAGE_KINDS]
    return diorama_page.to_pdf(page, rng), [_asked(each.question, each.answer) for each in asked]


def _speech(world: World) -> tuple[bytes, Asked]:
    example = _first(world, "spoken_sentence", "phrase")
    return _media(example, Audio), [_asked("What is said here?", example.answer.text)]


def _clip(world: World) -> tuple[bytes, Asked]:
    example = _first(world, "video_question", "moves")
    return _media(example, Video), [_asked("What moves, and where to?", example.answer.text)]


def _first(world: World, task: str, tag: str) -> Example:
    """The first example of a task whose question is of a kind."""
    for index in range(MAX_TRIES):
        example = world.example(task, index)
        if tag in example.tags:
            return example
    raise ValueError(f"no {task} of the kind {tag!r} among the first {MAX_TRIES}")


def _media(example: Example, kind: Any) -> bytes:
    return next(part for part in example.prompt[0].parts if isinstance(part, kind)).data
