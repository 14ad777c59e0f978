"""Which real sets a run learns from and is scored on, and how much of each. Only licence classes A and B train."""

from __future__ import annotations

import os
from pathlib import Path

from castor.data.mixture import Drawable, Weight
from castor.data.real import RealData
from castor.example import Example

DATA_VARIABLE = "CASTOR_DATA"

# share of examples beside Diorama's tasks, which weigh about one each
REAL_WEIGHTS: dict[str, float] = {
    "concepts": 1.6,
    "concepts/video": 0.08,
    "digits/mnist": 1.2,
    "digits/spoken_en": 0.5,
    "digits/spoken_ar": 0.1,
    "digits/sequences": 0.2,
    "audio/sounds": 0.8,
    "audio/mandarin_words": 0.6,
    "audio/commands_ar": 0.1,
    "photos/clothing": 0.3,
    "reasoning_images/nlvr": 0.3,
    "domains/blood_cells": 0.1,
    "video/signs": 0.1,
    "text/tatoeba": 0.5,
    "text/number_words": 0.3,
}

# what is scored, in the order of the report; the sets whose answers are short enough to be right or wrong
SCORED = (
    "digits/mnist",
    "digits/spoken_en",
    "digits/sequences",
    "audio/sounds",
    "audio/mandarin_words",
    "concepts",
    "photos/clothing",
    "reasoning_images/nlvr",
    "video/signs",
    "text/tatoeba",
    "text/number_words",
)


def real_data(path: str = "") -> RealData:
    """The sets under `path`, which must be a folder, or under the one in CASTOR_DATA; empty where neither is given."""
    if path and not Path(path).is_dir():
        raise ValueError(f"{path}: no such folder of real data")
    return RealData(path or os.environ.get(DATA_VARIABLE) or None)


def real_sources(path: str = "", breadth: float = 1.0) -> tuple[dict[str, tuple[Drawable, Weight]], str]:
    """Sources to train on with their weights times `breadth`, and a sentence that says what was found."""
    data = real_data(path)
    weights = {name: breadth * weight for name, weight in REAL_WEIGHTS.items() if name in data.sources}
    found = {name: (data.sources[name], _late(weight)) for name, weight in weights.items()}
    told = f"training on Diorama and {len(found)} sets of real data in {data.path}" if found else (
        f"training on Diorama alone ({data.message})"
    )  # fmt: skip
    return dict(found), told


def _late(weight: float) -> Weight:
    """Little of it until captions and sentences are learned: a tenth at first, three times as much towards the end."""
    return [(0.25, 0.1 * weight), (0.6, weight), (0.75, 3 * weight)]


def real_examples(path: str = "", limit: int = 64) -> tuple[dict[str, list[Example]], str]:
    """Held-out examples of each scored set by task name, and a sentence that says what was found."""
    data = real_data(path)
    found: dict[str, list[Example]] = {}
    for name in SCORED:
        if name in data.sources:
            source = data.sources[name]
            found.setdefault(source.task, []).extend(source.examples("test", limit))
    told = f"scoring {len(found)} tasks on held-out real files" if found else f"scoring Diorama alone ({data.message})"
    return found, told
