"""Makes the sample files that the package ships, from the held-out part of the small world."""

import json
import random
from pathlib import Path
from typing import Any

from castor.content import Audio, Image, Video
from castor.diorama import page as diorama_page
from castor.diorama import questions
from castor.diorama.render import render
from castor.diorama.scene import Scene, Thing, random_scene
from castor.diorama.world import World
from castor.example import Example

SCENE_PX = 128
PAGE_KINDS = ("title", "most", "rows")
MAX_TRIES = 1000


def write_samples(folder: str | Path, seed: int = 0) -> list[Path]:
    """Writes scene.png, page.pdf, speech.wav, clip.mp4 and samples.json (questions with true answers).

    The same seed gives the same content.  Raises ValueError where there is no speech synthesiser.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed=seed, split="test", languages=("en",))
    made = (
        ("scene.png", *_scene(seed)),
        ("page.pdf", *_page(seed)),
        ("speech.wav", *_speech(world)),
        ("clip.mp4", *_clip(world)),
    )
    items = []
    for name, data, asked in made:
        (folder / name).write_bytes(data)
        items.append({"file": name, "questions": [{"text": text, "truth": truth} for text, truth in asked]})
    listing = json.dumps({"items": items}, indent=2, ensure_ascii=False) + "\n"
    (folder / "samples.json").write_text(listing, encoding="utf-8")
    return [folder / name for name, *_ in made] + [folder / "samples.json"]


def _scene(seed: int) -> tuple[bytes, list[tuple[str, str]]]:
    """A picture of four things, some of them red; a count and three questions of different kinds."""
    rng = random.Random(f"{seed}/samples/scene")
    scene = Scene(())
    while sum(thing.colour == "red" for thing in scene.things) < 2:
        scene = random_scene(rng, 4)
    num_red = sum(questions.matches(thing, Thing("", "red", "")) for thing in scene.things)
    asked = {"count": ("How many red shapes are there?", str(num_red))}
    while len(asked) < 4:
        question = questions.ask(rng, "en", scene)
        asked.setdefault(question.kind, (question.question, question.answer))
    return Image.from_pixels(render(scene, SCENE_PX)).data, list(asked.values())


def _page(seed: int) -> tuple[bytes, list[tuple[str, str]]]:
    rng = random.Random(f"{seed}/samples/page")
    page = diorama_page.draw_page(rng, "en")
    asked = [diorama_page.ask(page, kind, "en", rng) for kind in PAGE_KINDS]
    return diorama_page.to_pdf(page, rng), [(each.question, each.answer) for each in asked]


def _speech(world: World) -> tuple[bytes, list[tuple[str, str]]]:
    example = _first(world, "spoken_sentence", "phrase")
    return _media(example, Audio), [("What is said here?", example.answer.text)]


def _clip(world: World) -> tuple[bytes, list[tuple[str, str]]]:
    example = _first(world, "video_question", "moves")
    return _media(example, Video), [("What moves, and where to?", example.answer.text)]


def _first(world: World, task: str, tag: str) -> Example:
    """The first example of a task whose question is of a kind."""
    for index in range(MAX_TRIES):
        example = world.example(task, index)
        if tag in example.tags:
            return example
    raise ValueError(f"no {task} of the kind {tag!r} among the first {MAX_TRIES}")


def _media(example: Example, kind: Any) -> bytes:
    return next(part for part in example.prompt[0].parts if isinstance(part, kind)).data
