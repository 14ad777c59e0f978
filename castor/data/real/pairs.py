"""Pairs of real data for vectors: concepts as a hub of five media, digits, digit sequences, captions, translations.

What is held out: of concepts, one style of drawing and a fifth of all concepts; elsewhere what the sets themselves hold
out (speakers, folds, words). Each pair has a key by which duplicates are known, such as the digit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from castor.content import Audio, Image, Message, Part, Video
from castor.data.real import RealData
from castor.data.real.augment import moved, resounded
from castor.data.real.files import Row, json_lines, share_of
from castor.data.real.images import UNSEEN_STYLE, enlarged
from castor.data.real.sequences import DigitSequence
from castor.data.real.source import Source
from castor.data.real.videos import SEQUENCE_FPS
from castor.example import Pair

HELD_OUT_CONCEPTS = 0.2
ENGLISH = 0.65  # of the names
VARIED = 0.7  # of what training shows of pictures and spoken digits
COMPOSED = 0.85  # of the digit sequences that training shows
MAX_NAME_CHARS = 40


class Hub:
    """Concepts and what shows, names or sounds like each: pictures, names in 46 languages, films, sounds, words."""

    def __init__(self, data: RealData, split: str) -> None:
        self.data, self.split = data, split
        self.folder = data["concepts"].folder

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "split": self.split, "folder": self.folder}

    def is_seen(self, concept: str) -> bool:
        """Whether training shows the concept."""
        return share_of(f"concept/{concept}") >= HELD_OUT_CONCEPTS

    @cached_property
    def concepts(self) -> dict[str, Row]:
        """The manifest's rows by id."""
        return {row["id"]: row for row in json_lines(self.folder / "manifest.jsonl")}

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """Names by concept and language, in the languages that numbers are written in, too."""
        path = self.folder.parent / "text" / "number_words.jsonl"
        languages = {row["lang"] for row in json_lines(path)} or {"en", "zh", "es", "fr", "de", "hi"}
        found = {}
        for row in json_lines(self.folder / "names.jsonl.gz"):
            kept = {k: v for k, v in row["names"].items() if k in languages and v and len(v) <= MAX_NAME_CHARS}
            if "en" in kept:
                found[row["id"]] = kept
        return found

    @cached_property
    def pictures(self) -> list[tuple[str, str]]:
        """(concept, style) of the split: training has seen concepts in seen styles."""
        everything = [(c, style) for c in sorted(self.names) for style in sorted(self.concepts[c]["images"])]
        licences = self.data["concepts"].licences
        everything = [(c, s) for c, s in everything if s != UNSEEN_STYLE or "B" in licences]
        seen = [(c, s) for c, s in everything if s != UNSEEN_STYLE and self.is_seen(c)]
        return seen if self.split == "train" else [pair for pair in everything if pair not in set(seen)]

    @cached_property
    def films(self) -> list[str]:
        """Concepts of the split that are animated."""
        is_train = self.split == "train"
        return [c for c in sorted(self.names) if "video" in self.concepts[c] and self.is_seen(c) == is_train]

    @cached_property
    def sounds(self) -> list[Row]:
        """Recordings of the split that show a concept with a name."""
        rows = self.data["audio/sounds"].rows[self.split] if "audio/sounds" in self.data.sources else []
        return [row for row in rows if any(c in self.names for c in row.get("concepts", ()))]

    @cached_property
    def words(self) -> list[tuple[Row, str]]:
        """(Mandarin recording, concept) of the split."""
        if "audio/mandarin_words" not in self.data.sources:
            return []
        rows = {row["id"]: row for row in self.data["audio/mandarin_words"].rows[self.split]}
        found = []
        for line in json_lines(self.folder / "alignment.jsonl"):
            ids = [value for value in _texts_in(line) if value in rows]
            found += [(rows[value], line["id"]) for value in ids if line["id"] in self.names]
        return found

    def picture(self, concept: str, style: str, rng: random.Random | None = None) -> Image:
        """A concept drawn in a style; in training with `rng`, most often varied."""
        ref = self.concepts[concept]["images"][style]
        drawn = Image(self.data["concepts"].bytes_of({"id": concept}, ref), name=f"{concept}/{style}")
        is_varied = rng is not None and self.split == "train" and rng.random() < VARIED
        return Image.from_pixels(moved(drawn.pixels(), rng), drawn.name) if rng is not None and is_varied else drawn

    def film(self, concept: str) -> Video:
        """A concept animated."""
        ref = self.concepts[concept]["video"]
        return Video(self.data["concepts"].bytes_of({"id": concept}, ref), name=concept)

    def name(self, concept: str, rng: random.Random) -> tuple[str, str]:
        """(language, name); English two times of three."""
        names = self.names[concept]
        language = "en" if rng.random() < ENGLISH else rng.choice(sorted(names))
        return language, names[language]

    def any_picture(self, concept: str, rng: random.Random) -> Image | None:
        """The concept in a style that the split has, if it has one."""
        styles = [style for style in sorted(self.concepts[concept]["images"])]
        if self.split == "train":
            styles = [style for style in styles if style != UNSEEN_STYLE] if self.is_seen(concept) else []
        return self.picture(concept, rng.choice(styles), rng) if styles else None


def _texts_in(value: Any) -> list[str]:
    """All texts somewhere in a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts_in(one)]


def _pair(source: str, query: Part | str, target: Part | str, key: str, language: str = "en") -> Pair:
    return Pair(
        query=Message.user(query), target=Message.user(target), source=source, query_key=key, target_key=key,
        language=language,
    )  # fmt: skip


class RealPairs:
    """One kind of pair from real data; `pair(rng)` draws one."""

    def __init__(self, name: str, data: RealData, split: str = "train") -> None:
        self.name, self.data, self.split = name, data, split

    @cached_property
    def hub(self) -> Hub:
        """The concepts."""
        return Hub(self.data, self.split)

    def rows(self, name: str) -> list[Row]:
        """The rows of a set in this split."""
        return self.data[name].rows[self.split] if name in self.data.sources else []

    @property
    def size(self) -> int:
        """How many different queries there are; 0 where the sets are missing."""
        return KINDS[self.name][1](self) if "concepts" in self.data.sources or "/" not in self.name else 0

    def pair(self, rng: random.Random) -> Pair:
        """A drawn pair."""
        return KINDS[self.name][0](self, rng)

    @cached_property
    def written(self) -> dict[int, list[Row]]:
        """Rows of written digits by value."""
        return _by_digit(self.rows("digits/mnist"))

    @cached_property
    def spoken(self) -> dict[tuple[str, int], list[Row]]:
        """Rows of English spoken digits by speaker and value."""
        found: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows("digits/spoken_en"):
            found.setdefault((row["speaker"], row["digit"]), []).append(row)
        return found

    @cached_property
    def number_words(self) -> list[Row]:
        """Numbers 0 to 100 in 46 languages."""
        root = self.data.path
        return json_lines(root / "text" / "number_words.jsonl") if root else []

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "data": self.data, "split": self.split}


def _by_digit(rows: list[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["digit"], []).append(row)
    return found


def _sound(source: Source, row: Row) -> Audio:
    return Audio(source.bytes_of(row), name=row["id"])


def _picture_name(pairs: RealPairs, rng: random.Random) -> Pair:
    concept, style = rng.choice(pairs.hub.pictures)
    language, name = pairs.hub.name(concept, rng)
    return _pair(pairs.name, pairs.hub.picture(concept, style, rng), name, concept, language)


def _film_name(pairs: RealPairs, rng: random.Random) -> Pair:
    concept = rng.choice(pairs.hub.films)
    language, name = pairs.hub.name(concept, rng)
    if rng.random() < 0.5 and (picture := pairs.hub.any_picture(concept, rng)) is not None:
        return _pair(pairs.name, pairs.hub.film(concept), picture, concept)
    return _pair(pairs.name, pairs.hub.film(concept), name, concept, language)


def _sound_picture(pairs: RealPairs, rng: random.Random) -> Pair:
    hub, row = pairs.hub, rng.choice(pairs.hub.sounds)
    concept = rng.choice([c for c in row["concepts"] if c in hub.names])
    sound = _sound(pairs.data["audio/sounds"], row)
    picture = hub.any_picture(concept, rng)
    if picture is not None and rng.random() < 0.6:
        return _pair(pairs.name, sound, picture, concept)
    return _pair(pairs.name, sound, hub.names[concept]["en"], concept)


def _sound_caption(pairs: RealPairs, rng: random.Random) -> Pair:
    row = rng.choice(pairs.rows("audio/sounds"))
    text = row["caption"] if rng.random() < 0.5 else row["label"].replace("_", " ")
    return _pair(pairs.name, _sound(pairs.data["audio/sounds"], row), text, str(row["label"]))


def _word_picture(pairs: RealPairs, rng: random.Random) -> Pair:
    row, concept = rng.choice(pairs.hub.words)
    word = _sound(pairs.data["audio/mandarin_words"], row)
    picture = pairs.hub.any_picture(concept, rng)
    if picture is not None and rng.random() < 0.5:
        return _pair(pairs.name, word, picture, concept, "zh")
    return _pair(pairs.name, word, rng.choice([row["text"], pairs.hub.names[concept]["en"]]), concept, "zh")


def _written(pairs: RealPairs, row: Row) -> Image:
    source: Any = pairs.data["digits/mnist"]
    return Image.from_pixels(enlarged(source.arrays[0][row["at"]], 4, border_px=8), name=row["id"])


def _spoken_digit(pairs: RealPairs, rng: random.Random) -> tuple[Audio, int]:
    names = [name for name in ("digits/spoken_en", "digits/spoken_ar") if pairs.rows(name)]
    name = names[0] if len(names) == 1 or rng.random() < 0.8 else names[1]
    row = rng.choice(pairs.rows(name))
    sound = _sound(pairs.data[name], row)
    is_varied = pairs.split == "train" and rng.random() < VARIED
    return Audio.from_samples(resounded(sound.samples(), rng)) if is_varied else sound, row["digit"]


def _speech_digit(pairs: RealPairs, rng: random.Random) -> Pair:
    sound, digit = _spoken_digit(pairs, rng)
    return _pair(pairs.name, sound, _written(pairs, rng.choice(pairs.written[digit])), str(digit))


def _digit_word(pairs: RealPairs, rng: random.Random) -> Pair:
    row = rng.choice(pairs.number_words)
    language = "en" if rng.random() < 0.4 else row["lang"]
    words = next(line["words"] for line in pairs.number_words if line["lang"] == language)
    if rng.random() < 0.5:
        sound, digit = _spoken_digit(pairs, rng)
        return _pair(pairs.name, sound, words[digit], str(digit), language)
    digit = rng.choice(sorted(pairs.written))
    return _pair(pairs.name, _written(pairs, rng.choice(pairs.written[digit])), words[digit], str(digit), language)


def sequence_forms(source: Any, row: Row, forms: tuple[str, ...]) -> list[Part | str]:
    """A row of digit sequences in the forms asked for: video, image, audio, text."""
    at, made = row["index"], []
    for form in forms:
        if form == "video":
            made.append(Video.from_frames(np.repeat(source.arrays[0][at][..., None], 3, axis=3), SEQUENCE_FPS))
        elif form == "image":
            made.append(Image.from_pixels(enlarged(source.arrays[1][at], 2), name=row["id"]))
        elif form == "audio":
            made.append(Audio(source.bytes_of(row, row["audio"]), name=row["id"]))
        else:
            made.append(row["text"])
    return made


def _composed(pairs: RealPairs, digits: tuple[int, ...], speaker: str, form: str, rng: random.Random) -> Part | str:
    """Digits in a form, put together from single images and recordings of one speaker."""
    if form == "text":
        english = next(line["words"] for line in pairs.number_words if line["lang"] == "en")
        return " ".join(english[digit] for digit in digits)
    source: Any = pairs.data["digits/mnist"]
    images = tuple(source.arrays[0][rng.choice(pairs.written[digit])["at"]] for digit in digits)
    spoken = pairs.data["digits/spoken_en"] if form == "audio" else None
    sounds = tuple(_sound(spoken, rng.choice(pairs.spoken[speaker, digit])) for digit in digits) if spoken else ()
    made = DigitSequence(images, sounds)
    if form == "image":
        return Image.from_pixels(enlarged(made.image(), 2))
    return made.spoken(rng) if form == "audio" else made.film(rng, SEQUENCE_FPS)


def _sequence(pairs: RealPairs, rng: random.Random) -> Pair:
    first, second = rng.choice(SEQUENCE_WAYS)
    if pairs.split == "train" and pairs.spoken and rng.random() < COMPOSED:
        digits = tuple(rng.randrange(10) for _ in range(3))
        wrong = list(digits)
        while tuple(wrong) == digits:  # another digit in one place, or two that change places
            wrong[rng.randrange(3)] = rng.randrange(10)
            if rng.random() < 0.4:
                wrong = rng.sample(digits, 3)
        speaker = rng.choice(sorted({speaker for speaker, _ in pairs.spoken}))
        made = (_composed(pairs, said, speaker, form, rng) for said, form in (
            (digits, first), (digits, second), (tuple(wrong), second)
        ))  # fmt: skip
        query, target, negative = map(Message.user, made)
        key = " ".join(map(str, digits))
        return Pair(query=query, target=target, negative=negative, source=pairs.name, query_key=key, target_key=key)
    row = rng.choice(pairs.rows("digits/sequences"))
    query, target = sequence_forms(pairs.data["digits/sequences"], row, (first, second))
    return _pair(pairs.name, query, target, " ".join(map(str, row["digits"])))


def _translation(pairs: RealPairs, rng: random.Random) -> Pair:
    row = rng.choice(pairs.rows("text/tatoeba"))
    languages = rng.sample(sorted(row["texts"]), 2)
    query, target = (row["texts"][language] for language in languages)
    return Pair(
        query=Message.user(query), target=Message.user(target), source=pairs.name, query_key=row["key"],
        target_key=row["key"], query_task="BitextMining", target_task="BitextMining", language=languages[0],
    )  # fmt: skip


def _clothing(pairs: RealPairs, rng: random.Random) -> Pair:
    row = rng.choice(pairs.rows("photos/clothing"))
    picture = Image(pairs.data["photos/clothing"].bytes_of(row), name=row["id"])
    return _pair(pairs.name, picture, row["text"], str(row["label"]))


def _captioned(pairs: RealPairs, rng: random.Random) -> Pair:
    row = rng.choice(pairs.rows("photos/coco_mini"))
    picture = Image(pairs.data["photos/coco_mini"].bytes_of(row), name=row["id"])
    return _pair(pairs.name, picture, rng.choice(row["captions"]), row["id"])


SEQUENCE_WAYS = (
    ("audio", "video"), ("audio", "text"), ("audio", "image"), ("image", "video"), ("video", "text"), ("image", "text"),
)  # fmt: skip
Draw = Callable[[RealPairs, random.Random], Pair]
KINDS: dict[str, tuple[Draw, Callable[[RealPairs], int]]] = {
    "concepts/picture_name": (_picture_name, lambda pairs: len(pairs.hub.pictures)),
    "concepts/film_name": (_film_name, lambda pairs: len(pairs.hub.films)),
    "concepts/sound_picture": (_sound_picture, lambda pairs: len(pairs.hub.sounds)),
    "concepts/word_picture": (_word_picture, lambda pairs: len(pairs.hub.words)),
    "sound_caption": (_sound_caption, lambda pairs: len(pairs.rows("audio/sounds"))),
    "speech_digit": (_speech_digit, lambda pairs: min(len(pairs.rows("digits/spoken_en")), len(pairs.written))),
    "digit_word": (_digit_word, lambda pairs: min(len(pairs.number_words), len(pairs.written))),
    "digit_sequence": (_sequence, lambda pairs: len(pairs.rows("digits/sequences"))),
    "real_translation": (_translation, lambda pairs: len(pairs.rows("text/tatoeba"))),
    "clothing": (_clothing, lambda pairs: len(pairs.rows("photos/clothing"))),
    "captions": (_captioned, lambda pairs: len(pairs.rows("photos/coco_mini"))),
}
