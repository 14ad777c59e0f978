"""What a task maker is handed: one seeded stream of chance and the circumstances of the example.

A maker is a function `Draw -> Example` that takes every random choice from `draw.rng`, so that an example is
a pure function of (seed, split, task, index). The synthesisers themselves live in the modules that use them.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeVar

import numpy as np

from castor.diorama.render import DRAWING_PX
from castor.example import Example

SPLITS = ("train", "val", "test")
LANGUAGES = ("en", "zh", "es", "fr", "de", "hi")
UNSEEN_SHARE = 0.4  # share of val and test items built around a held-out combination

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Event:
    """Something a video shows that can be heard: kind is "bounce" (off a wall) or "hit" (two things meet)."""

    time_s: float
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """Chance and circumstances of one example."""

    rng: random.Random
    split: str
    task: str
    index: int
    language: str = "en"
    seed: int = 0
    speech: bool = True  # False: makers leave the speech synthesiser alone
    drawing_px: int = DRAWING_PX  # side of a drawing

    @property
    def is_train(self) -> bool:
        """Whether this is the training split."""
        return self.split == "train"

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`, each as likely."""
        return options[self.rng.randrange(len(options))]

    def num_turns(self) -> int:
        """Question and answer turns over one picture: 4 to 8 in training (dense supervision), else one."""
        return self.rng.randint(4, 8) if self.is_train else 1

    def wants_unseen(self) -> bool:
        """Whether this example is to be built around a combination that training never shows."""
        return not self.is_train and self.rng.random() < UNSEEN_SHARE

    def sound_for(self, events: Sequence[Event], duration_s: float) -> np.ndarray | None:
        """Sound track of a clip, float32 [S] at 16 kHz; None where it stays silent."""
        if find_spec("castor.diorama.sound") is None:
            return None
        from castor.diorama import sound

        return sound.sound_for(events, duration_s, self.rng)


Maker = Callable[[Draw], Example]


def draw_for(
    seed: int,
    split: str,
    task: str,
    index: int,
    languages: Sequence[str] = LANGUAGES,
    speech: bool = True,
    drawing_px: int = DRAWING_PX,
) -> Draw:
    """The draw of one example; half of all examples are English where English is among the languages."""
    rng = random.Random(f"{seed}/{split}/{task}/{index}")
    language = languages[rng.randrange(len(languages))]
    if "en" in languages and rng.random() < 0.4:
        language = "en"
    return Draw(
        rng=rng,
        split=split,
        task=task,
        index=index,
        language=language,
        seed=seed,
        speech=speech,
        drawing_px=drawing_px,
    )
