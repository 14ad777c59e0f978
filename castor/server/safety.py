"""Safety: a small classifier of texts by a list of words in six languages, whose every number can be looked up.

Each category has terms with weights, and pairs that weigh only together (to make, and a bomb). A text's probability is
the logistic function of the weights of what it holds, less 3. It knows words, not meaning: it misses what is said in
other words, in other languages or in pictures and sound, and it counts a quotation, a warning or a novel like a
threat. Nothing is blocked by it unless a request asks for that.
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from castor.calls import json_fields
from castor.content import Message, Text
from castor.server.errors import ApiError

LEXICON = Path(__file__).with_name("safety.json")
BIAS = -3.0
LEVELS = ("NEGLIGIBLE", "LOW", "MEDIUM", "HIGH")
BOUNDS = (0.2, 0.5, 0.8)  # probabilities from which on a level is the next one
# The Gemini API's categories, and ours that make them.
GEMINI = {
    "HARM_CATEGORY_HARASSMENT": ("harassment", "violence"),
    "HARM_CATEGORY_HATE_SPEECH": ("hate",),
    "HARM_CATEGORY_SEXUALLY_EXPLICIT": ("sexual",),
    "HARM_CATEGORY_DANGEROUS_CONTENT": ("illicit", "self-harm", "violence"),
}
THRESHOLDS = {
    "OFF": len(LEVELS),
    "BLOCK_NONE": len(LEVELS),
    "HARM_BLOCK_THRESHOLD_UNSPECIFIED": len(LEVELS),
    "BLOCK_ONLY_HIGH": 3,
    "BLOCK_MEDIUM_AND_ABOVE": 2,
    "BLOCK_LOW_AND_ABOVE": 1,
}
Scores = Mapping[str, float]


class Terms:
    """Words and phrases that are found together in one pass; letters around a word of letters do not count."""

    def __init__(self, terms: Iterable[str]) -> None:
        listed = sorted({normal(term) for term in terms}, key=lambda term: (-len(term), term))
        self._pattern = re.compile("|".join(_bounded(term) for term in listed))

    def are_in(self, text: str) -> bool:
        """Whether any of them stands in a normal text."""
        return self._pattern.search(text) is not None

    def found(self, text: str) -> set[str]:
        """Which of them stand in a normal text; overlapping ones give way to the longer."""
        return {match.group() for match in self._pattern.finditer(text)}


def normal(text: str) -> str:
    """Lower case, compatible forms the same, one space between words, straight apostrophes."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())


def _bounded(term: str) -> str:
    """Alphabets that put spaces between words are held to whole words."""
    is_spaced = all(ord(letter) < 0x0500 for letter in term)
    return rf"(?<!\w){re.escape(term)}(?!\w)" if is_spaced else re.escape(term)


def _terms(lexicon: Mapping[str, Any]) -> Iterator[str]:
    """All of a lexicon."""
    for entry in lexicon.values():
        pairs = [pair[side] for pair in entry.get("pairs", []) for side in ("one", "other")]
        for terms in (*entry["weights"].values(), *pairs):
            yield from terms


class Classifier:
    """Probabilities that a text is of each category."""

    def __init__(self, lexicon: Mapping[str, Any]) -> None:
        """As `safety.json` has it."""
        self._any = Terms(_terms(lexicon))
        self._weights: dict[str, list[tuple[float, Terms]]] = {}
        self._pairs: dict[str, list[tuple[float, Terms, Terms]]] = {}
        for category, entry in lexicon.items():
            self._weights[category] = [(float(weight), Terms(terms)) for weight, terms in entry["weights"].items()]
            pairs = entry.get("pairs", [])
            self._pairs[category] = [(float(p["weight"]), Terms(p["one"]), Terms(p["other"])) for p in pairs]

    @classmethod
    @functools.cache
    def shipped(cls) -> Classifier:
        """The one of the package's list."""
        return cls(json.loads(LEXICON.read_text(encoding="utf-8")))

    def scores(self, text: str) -> dict[str, float]:
        """Probability by category, from 0 to 1."""
        text = normal(text)
        if not self._any.are_in(text):  # as in most texts
            return dict.fromkeys(self._weights, 0.0)
        return {category: self._score(category, text) for category in self._weights}

    def _score(self, category: str, text: str) -> float:
        evidence = sum(weight * len(terms.found(text)) for weight, terms in self._weights[category])
        for weight, one, other in self._pairs[category]:
            evidence += weight if one.found(text) and other.found(text) else 0.0
        return 1 / (1 + math.exp(-(BIAS + min(evidence, 20.0)))) if evidence else 0.0


def level(score: float) -> int:
    """The index in LEVELS."""
    return sum(score >= bound for bound in BOUNDS)


def gemini_ratings(scores: Scores, blocks: Mapping[str, int]) -> tuple[list[dict[str, Any]], bool]:
    """safetyRatings, and whether one of them is at the level from which on a request wants to be blocked."""
    ratings, is_blocked = [], False
    for name, categories in GEMINI.items():
        found = level(max(scores[category] for category in categories))
        rating: dict[str, Any] = {"category": name, "probability": LEVELS[found]}
        if found >= blocks.get(name, len(LEVELS)):
            rating["blocked"] = is_blocked = True
        ratings.append(rating)
    return ratings, is_blocked


def read_settings(value: object) -> dict[str, int]:
    """safetySettings as the level from which on each category blocks; ApiError names what is not known."""
    if not isinstance(value, list):
        raise ApiError(400, "safetySettings must be a list", field="safetySettings")
    blocks: dict[str, int] = {}
    for at, item in enumerate(value):
        place = f"safetySettings[{at}]"
        fields = json_fields(item, place, {"category", "threshold", "method"})
        category, threshold = fields.get("category"), fields.get("threshold", "OFF")
        if not isinstance(threshold, str) or threshold not in THRESHOLDS:
            message = f"{place}.threshold={threshold!r:.60} is not one of {', '.join(THRESHOLDS)}"
            raise ApiError(400, message, field=place)
        if not isinstance(category, str):
            raise ApiError(400, f"{place}.category must be the name of a category", field=place)
        if category not in GEMINI and THRESHOLDS[threshold] < len(LEVELS):
            raise ApiError(400, f"{place}.category={category!r:.60} is not one that is rated here", field=place)
        blocks[category] = THRESHOLDS[threshold]
    return blocks


def text_of(messages: Iterable[Message]) -> str:
    """All texts of a prompt."""
    return "\n".join(part.text for message in messages for part in message.parts if isinstance(part, Text))
