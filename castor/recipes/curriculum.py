"""What a run learns from, and how much of each: Diorama's tasks, real data where there is some, and their weights.

A weight counts examples. Captions and sentences lead early, and most of all: a caption names every shape of a picture,
a question one, and what is a few per cent of a mixture is not learned from it. Large words come before small ones. What
is asked later, in the form it is asked, comes to the front towards the end.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from castor.content import Message, Text
from castor.data.mixture import Drawable, Mixture, Weight
from castor.diorama.render import DRAWING_PX
from castor.diorama.speech import speech_available
from castor.diorama.spoken import NEEDS_SPEECH
from castor.diorama.world import World
from castor.example import Example

# examples of each Diorama task; (progress, weight) points where the share changes over a run
WORLD_WEIGHTS: dict[str, list[tuple[float, float]]] = {
    "caption": [(0.2, 10.0), (0.4, 2.5), (1.0, 1.5)],
    "dialogue": [(0.2, 0.1), (0.4, 1.0)],
    "image_question": [(0.15, 0.3), (0.35, 2.4)],
    "image_count": [(0.15, 0.3), (0.32, 6.0)],
    "large_text": [(0.08, 0.5), (0.16, 11.0), (0.34, 11.0), (0.45, 1.5), (1.0, 0.5)],
    "text_reading": [(0.25, 0.5), (0.36, 10.0), (0.7, 10.0), (1.0, 5.0)],
    "chart": [(0.2, 0.1), (0.4, 2.2)],
    "document": [(0.2, 0.1), (0.4, 0.3)],
    "spoken_sentence": [(0.2, 5.0), (0.4, 2.0)],
    "spoken_question": [(0.25, 0.1), (0.45, 1.6)],
    "sound_event": [(0.0, 0.4), (0.3, 0.8)],
    "video_question": [(0.25, 0.1), (0.45, 1.4)],
    "video_caption": [(0.2, 0.1), (0.4, 0.6), (1.0, 0.4)],
    "translation": [(0.0, 1.0), (0.4, 1.4)],
    "arithmetic": [(0.0, 1.2), (0.4, 2.6)],
    "reasoning": [(0.0, 0.2), (0.4, 0.8)],
    "drawing": [(0.0, 1.5), (0.3, 4.0)],
    "interleaved": [(0.3, 0.1), (0.6, 0.9)],
}
BROAD = ("dialogue", "video_caption", "reasoning", "interleaved")  # what the other tasks lead up to


@dataclass(frozen=True, kw_only=True)
class CourseConfig:
    """What is learned, and in which order; by default everything as the weights here say."""

    order: Literal["staged", "level", "uniform"] = "staged"  # "level": as many of each, in no order; or equally many
    sources: tuple[str, ...] = ()  # names of tasks and real sets, nothing else is learned; empty: all there are
    more: tuple[str, ...] = ()  # "NAME:FACTOR" multiplies a source's weight, as in chart:2
    drawing_px: int = DRAWING_PX  # side of Diorama's drawings

    def __post_init__(self) -> None:
        self.factors()

    def factors(self) -> dict[str, float]:
        """`more` as numbers by name; ValueError for one that is not written so."""
        found = {}
        for given in self.more:
            name, _, factor = given.rpartition(":")
            if not name or not re.fullmatch(r"\d+(\.\d+)?", factor):
                raise ValueError(f"course.more={given!r} is not NAME:FACTOR, as in chart:2")
            found[name] = float(factor)
        return found


@dataclass(frozen=True)
class WorldSource:
    """Endless training examples of one Diorama task."""

    world: World
    task: str

    def example(self, rng: random.Random) -> Example:
        """One example, chosen by `rng` among 2^40; people put the words before the picture as often as after it."""
        example = self.world.example(self.task, rng.getrandbits(40))
        return words_first(example) if rng.random() < 0.3 else example


def words_first(example: Example) -> Example:
    """The same example with the text of its first message before the media."""
    first = example.messages[0]
    parts = sorted(first.parts, key=lambda part: not isinstance(part, Text))
    return dataclasses.replace(example, messages=(Message(first.role, tuple(parts)), *example.messages[1:]))


def world_sources(seed: int, drawing_px: int = DRAWING_PX) -> dict[str, Drawable]:
    """One source for each Diorama task that can run here; without a synthesiser, none that needs speech."""
    speech = speech_available()
    world = World(seed=seed, split="train", speech=speech, drawing_px=drawing_px)
    present = [name for name in WORLD_WEIGHTS if name in world.tasks and (speech or name not in NEEDS_SPEECH)]
    return {name: WorldSource(world, name) for name in present}


def mixture(
    seed: int,
    real: Mapping[str, tuple[Drawable, Weight]] | None = None,
    breadth: float = 1.0,
    course: CourseConfig | None = None,
) -> Mixture:
    """Diorama with, beside it, the real sources and their weights; `breadth` multiplies those of `BROAD`.

    ValueError for a source of the course that is not there. Its order "level" is made of the result by `level`.
    """
    course = course or CourseConfig()
    sources: dict[str, Drawable] = world_sources(seed, course.drawing_px)
    weights: dict[str, Weight] = {name: WORLD_WEIGHTS[name] for name in sources}
    for name in BROAD:
        weights[name] = times(weights[name], breadth)
    for name, (source, weight) in (real or {}).items():
        sources[name], weights[name] = source, weight
    for setting, names in (("sources", course.sources), ("more", course.factors())):
        if absent := [name for name in names if name not in sources]:
            raise ValueError(f"course.{setting}: {absent[0]!r} is not here; there are: {', '.join(sources)}")
    for name, factor in course.factors().items():
        weights[name] = times(weights[name], factor)
    chosen = [name for name in sources if not course.sources or name in course.sources]
    uniform = course.order == "uniform"
    return Mixture({name: sources[name] for name in chosen}, {n: 1.0 if uniform else weights[n] for n in chosen})


def times(weight: Weight, factor: float) -> Weight:
    """The weight multiplied, at all its points."""
    return factor * weight if isinstance(weight, float | int) else [(at, factor * value) for at, value in weight]


def level(whole: Mixture, stretches: Sequence[tuple[float, float, float]], num_points: int = 200) -> Mixture:
    """The same sources in no order: each at the mean of its share over the stretches.

    A stretch is its share of the steps, and the progress from which and to which it goes.
    """
    means = dict.fromkeys(whole.sources, 0.0)
    for share, start, end in stretches:
        for point in range(num_points):
            at = start + (end - start) * (point + 0.5) / num_points
            for name, value in whole.shares(at).items():
                means[name] += share * value / num_points
    return Mixture(whole.sources, means)


class SpannedMixture(Mixture):
    """A stretch of a mixture's curriculum, from progress `start` to `end`, stretched over a stage."""

    def __init__(self, whole: Mixture, start: float, end: float) -> None:
        self.sources, self.points = whole.sources, whole.points
        self.start, self.end = start, end

    def shares(self, progress: float) -> dict[str, float]:
        """Probability of each source at `progress` in 0..1 of the stage."""
        return super().shares(self.start + progress * (self.end - self.start))
