"""Which pairs an embedding run learns from, at which rates and in batches of what size; and pairs as sequences.

Pre-fine-tuning takes pictures, texts and code, many pairs a step and no hard negatives; fine-tuning takes all media,
with hard negatives (Gemini Embedding 2, arXiv 2605.27295). Rates and sizes are shares for `atom` on two cores.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

from castor.content import Message
from castor.data.pairs import GENERATE, Pairs, PairTask
from castor.data.real import RealData
from castor.data.real.pairs import KINDS, RealPairs
from castor.diorama.pairs import NEEDS_SPEECH_PAIRS, PAIRS, WorldPairs
from castor.diorama.speech import speech_available
from castor.example import Pair
from castor.tokens.pairs import Rendered

# (rate, pairs a step) in pre-fine-tuning and in fine-tuning; pool of pairs that are rendered once a process.
# Captions of drawn pictures are learned within thirty steps; at equal rates, sets of a few classes and of real pictures
# see too few steps for their loss to fall at all (four of 313 for spoken digits, at a rate of 0.3).
WORLD_TASKS: dict[str, tuple[tuple[float, int], tuple[float, int], int]] = {
    "image_text": ((1.5, 160), (0.5, 112), 0),
    "text_image": ((1.5, 160), (0.7, 96), 0),
    "composed": ((1.5, 128), (0.8, 96), 0),
    "translated": ((1.0, 192), (0.5, 144), 0),
    "docstring_code": ((1.0, 72), (0.5, 56), 0),
    "video_text": ((0.0, 0), (1.2, 32), 0),
    "text_video": ((0.0, 0), (0.9, 24), 0),
    "audio_text": ((0.0, 0), (0.9, 128), 2000),
    "text_audio": ((0.0, 0), (0.6, 96), 2000),
    "speech_image": ((0.0, 0), (3.0, 96), 4000),
    "speech_text": ((0.0, 0), (1.4, 128), 3000),
}
REAL_TASKS: dict[str, tuple[tuple[float, int], tuple[float, int], int]] = {
    "concepts/picture_name": ((3.0, 160), (2.6, 160), 6000),
    "concepts/film_name": ((0.0, 0), (0.2, 32), 400),
    "concepts/sound_picture": ((0.0, 0), (0.7, 80), 800),
    "concepts/word_picture": ((0.0, 0), (0.2, 96), 300),
    "sound_caption": ((0.0, 0), (0.5, 96), 1200),
    "speech_digit": ((0.0, 0), (1.8, 128), 4000),
    "digit_word": ((1.2, 192), (0.8, 192), 3000),
    "digit_sequence": ((0.0, 0), (2.4, 64), 4000),
    "real_translation": ((0.5, 128), (0.2, 128), 0),
    "clothing": ((0.4, 128), (0.3, 128), 1000),
    "captions": ((0.05, 24), (0.05, 24), 40),
}
SYNTHETIC_TASKS: dict[str, tuple[tuple[float, int], tuple[float, int], int]] = {
    "synthetic/queries": ((0.5, 96), (0.5, 48), 0),
    "synthetic/labels": ((0.5, 96), (0.5, 96), 0),
}


def pair_sources(seed: int, data: RealData) -> dict[str, Pairs]:
    """Every source of training pairs that can run here."""
    speech = speech_available()
    found: dict[str, Pairs] = {
        name: WorldPairs(name, seed, "train") for name in PAIRS if speech or name not in NEEDS_SPEECH_PAIRS
    }
    for name in KINDS:
        pairs = RealPairs(name, data, "train")
        if pairs.size:
            found[name] = pairs
    return found


def pair_tasks(sources: dict[str, Pairs], *, fine: bool, generation: float, batch_scale: float) -> dict[str, PairTask]:
    """The tasks of a stage; `generation` is the share of its steps that go on writing."""
    tasks = {}
    for name, (before, after, pool) in (WORLD_TASKS | REAL_TASKS | SYNTHETIC_TASKS).items():
        rate, pairs = after if fine else before
        if name in sources and rate:
            tasks[name] = PairTask(rate=rate, pairs=max(2, round(pairs * batch_scale)), pool=pool)
    if generation and tasks:
        others = sum(task.rate for task in tasks.values())
        tasks[GENERATE] = PairTask(rate=others * generation / (1 - generation), pairs=1)
    return tasks


@dataclass
class RenderPair:
    """Pair -> sequences, by a renderer without a codec. Words before texts are dropped at random."""

    renderer: Any
    task_strings: float  # share of the pairs of texts that carry the words of their task
    hard_negatives: bool = True

    def __call__(self, pair: Pair, rng: random.Random) -> Rendered:
        says = bool(pair.query_task) and rng.random() < self.task_strings
        return self.rendered(pair, *((pair.query_task, pair.target_task) if says else (None, None)))

    def rendered(self, pair: Pair, query_task: str | None = None, target_task: str | None = None) -> Rendered:
        """The pair's sequences, with the words of these tasks before query and target."""
        negative = pair.negative if self.hard_negatives else None
        return Rendered(
            query=self._encoded(pair.query, query_task),
            target=self._encoded(pair.target, target_task),
            negative=None if negative is None else self._encoded(negative, target_task),
            query_key=key_of(pair.query_key),
            target_key=key_of(pair.target_key),
        )

    def _encoded(self, message: Message, task: str | None) -> Any:
        known = getattr(self.renderer, "prompts", None)  # a published checkpoint has its own names
        return self.renderer.encode_task([message], task if known is None or task in known else None)


def key_of(text: str) -> int:
    """A number that stands for a key, the same in every process."""
    data = text.encode()
    return zlib.crc32(data) << 31 ^ zlib.crc32(data[::-1])
