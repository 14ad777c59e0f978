"""Pairs that the model's own answers make, as Gemini Embedding takes them from a generator (arXiv 2503.07891).

    synthetic/queries    what it says of a picture, film or sound when asked to tell -> the picture, film or sound
    synthetic/labels     a picture with a question -> what it answers: classification, whose classes are its answers

Answers are those to prompts of the training split, one time a run, kept as text; the media are made again from their
numbers. Pairs with one answer count as the same meaning. What is wrong among them is left to the filter of `mining.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, save_json
from castor.content import Message, Text
from castor.data.mixture import Drawable
from castor.engine.model import Model
from castor.example import Example, Pair

QUERIES, LABELS = "synthetic/queries", "synthetic/labels"
# Tasks of the small world and real sets whose prompts are asked, those that are there.
ASKED = {
    QUERIES: ("caption", "video_caption", "sound_event", "concepts", "photos/clothing", "audio/sounds"),
    LABELS: ("image_question", "image_count"),
}
BATCH, MOST_TOKENS = 32, 64


@dataclass(frozen=True)
class Said:
    """One answer: to which prompt of which source."""

    source: str
    number: int
    text: str


def asked(kind: str, source: str, number: int, sources: Mapping[str, Drawable]) -> Example:
    """The example whose prompt is asked."""
    return sources[source].example(random.Random(f"{kind}/{source}/{number}"))


@dataclass(frozen=True)
class SyntheticPairs:
    """The pairs of one kind."""

    name: str
    said: tuple[Said, ...]
    sources: Mapping[str, Drawable]

    def pair(self, rng: random.Random) -> Pair:
        """One of them."""
        return self.at(rng.randrange(len(self.said)))

    def at(self, number: int) -> Pair:
        """Pair `number`."""
        said = self.said[number]
        parts = asked(self.name, said.source, said.number, self.sources).prompt[-1].parts
        if self.name == LABELS:
            query, target, own_key = Message.user(*parts), Message.user(said.text), f"{said.source}/{said.number}"
        else:
            media = [part for part in parts if not isinstance(part, Text)]
            query, target, own_key = Message.user(said.text), Message.user(*media), said.text.casefold()
        return Pair(query=query, target=target, source=self.name, query_key=own_key, target_key=said.text.casefold())


def synthetic_pairs(
    model: Model, sources: Mapping[str, Drawable], count: int, folder: Path, say: Callable[[str], None] = print
) -> dict[str, SyntheticPairs]:
    """About `count` pairs of each kind; what the model says is kept in `folder` and not asked again."""
    found = {}
    for kind, names in ASKED.items():
        there = [name for name in names if name in sources]
        path = folder / f"{kind.replace('/', '-')}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            save_json(path, {"said": _answers(model, kind, there, sources, count)})
        said = tuple(Said(*row) for row in load_json(path)["said"])
        say(f"{kind}: {len(said)} answers of the model's own, {len({each.text for each in said})} different")
        if said:
            found[kind] = SyntheticPairs(kind, said, sources)
    return found


def _answers(model: Model, kind: str, names: list[str], sources: Mapping[str, Drawable], count: int) -> list[list[Any]]:
    """[source, number, text] of answers in words to prompts of one turn that hold a medium."""
    wanted = [(name, number) for name in names for number in range(-(-count // len(names)))]
    rows: list[list[Any]] = []
    for first in range(0, len(wanted), BATCH):
        some = wanted[first : first + BATCH]
        prompts = [asked(kind, name, number, sources).prompt for name, number in some]
        fitting = [at for at, prompt in enumerate(prompts) if len(prompt) == 1 and _has_media(prompt[0])]
        said = model.generate_batch([list(prompts[at]) for at in fitting], max_tokens=MOST_TOKENS)
        answers = zip((some[at] for at in fitting), said, strict=True)
        rows += [[*asked_of, answer.text] for asked_of, answer in answers if answer.text.strip() and not answer.images]
    return rows


def _has_media(message: Message) -> bool:
    return any(not isinstance(part, Text) for part in message.parts)
