"""Real sound: digits and words spoken in three languages, read speech, and sounds of things."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from castor.content import Audio
from castor.data.real.files import Row, json_lines, share_of
from castor.data.real.source import TEST_SHARE, Source
from castor.example import Example

MAX_SECONDS = 12.0  # longer recordings are left out
NUM_CHOICES = 50  # things or words among which one is named
NAMES = "concepts/names.jsonl.gz"  # of concepts, in every language
WHAT_IS_SAID = ("What is said here?", "What do you hear?")


class Recordings(Source):
    """What sets of recordings share."""

    modalities = ("audio", "text")
    is_augmented = True

    def load(self) -> list[Row]:
        return [row for row in super().load() if row["seconds"] <= MAX_SECONDS]

    def sound(self, row: Row) -> Audio:
        """The recording of a row."""
        return Audio(self.bytes_of(row), name=row["id"])


class SpokenEnglish(Recordings):
    """Digits in English; one of four speakers is held out."""

    name, task, licence = "digits/spoken_en", "spoken_digit", "B"

    def is_test(self, row: Row) -> bool:
        return row["speaker"] == "theo"

    def make(self, row: Row, rng: random.Random) -> Example:
        questions = (("Which digit is this?", str(row["digit"])), (rng.choice(WHAT_IS_SAID), row["text"]))
        question, answer = rng.choice(questions)
        tags = ("unseen_voice",) if self.is_test(row) else ()
        return self.told(row, (self.sound(row), question), answer, tags=tags, digit=row["digit"])


class SpokenArabic(Recordings):
    """Digits in Arabic; four of 24 speakers are held out, the same as in the commands."""

    name, task, licence = "digits/spoken_ar", "spoken_digit", "A"

    def is_test(self, row: Row) -> bool:
        return row["speaker"] in TEST_SPEAKERS_AR

    def make(self, row: Row, rng: random.Random) -> Example:
        questions = (("Which digit is this?", str(row["digit"])), (rng.choice(WHAT_IS_SAID), row["text"]))
        question, answer = rng.choice(questions)
        tags = ("unseen_voice",) if self.is_test(row) else ()
        parts = (self.sound(row), question)
        return self.told(row, parts, answer, language="ar", tags=tags, digit=row["digit"])


class CommandsArabic(Recordings):
    """Commands in Arabic and what they mean in English."""

    name, task, licence = "audio/commands_ar", "spoken_command", "A"

    def is_test(self, row: Row) -> bool:
        return row["speaker"] in TEST_SPEAKERS_AR

    def make(self, row: Row, rng: random.Random) -> Example:
        question = rng.choice(("Which command is this?", "What is the command, in English?"))
        tags = ("unseen_voice",) if self.is_test(row) else ()
        return self.told(row, (self.sound(row), question), row["keyword_en"], language="ar", tags=tags)


class MandarinWords(Recordings):
    """Single words in Chinese: what is said, or what it means. Words of the test are never trained on.

    There is one recording of each word, so that a test word is new as a word, too; it is named among as many others.
    """

    name, task, licence = "audio/mandarin_words", "spoken_word", "B"

    def is_test(self, row: Row) -> bool:
        return share_of(row["text"]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        questions = [("What is said here?", row["text"]), ("这里说的是什么？", row["text"])]
        if self.is_test(row):
            others = sorted({other["text"] for other in self.rows["test"]} - {row["text"]})
            among = [row["text"], *rng.sample(others, min(NUM_CHOICES - 1, len(others)))]
            return self.told(
                row, (self.sound(row), rng.choice(questions)[0]), row["text"], language="zh", choices=among
            )
        if row.get("gloss_en"):
            questions.append(("What does this mean in English?", row["gloss_en"][0]))
        question, answer = rng.choice(questions)
        return self.told(row, (self.sound(row), question), answer, language="zh")


class SpeechEnglish(Recordings):
    """A handful of read sentences; one reader trains, the others test."""

    name, task, licence = "audio/speech_en", "read_speech", "A"

    def is_test(self, row: Row) -> bool:
        return row["speaker"] != "LJ"

    def make(self, row: Row, rng: random.Random) -> Example:
        tags = ("unseen_voice",) if self.is_test(row) else ()
        return self.told(row, (self.sound(row), "What is said here?"), row["text"], tags=tags)


class Sounds(Recordings):
    """Sounds and what makes them; a recording is in one split only (by fold where the set has folds).

    Scored is which of `NUM_CHOICES` things is heard: those concepts that most recordings show.
    """

    name, task, licence = "audio/sounds", "sound_name", "A"

    @cached_property
    def things(self) -> dict[str, str]:
        """Concept id -> its English name."""
        counts = Counter(concept for row in self.load() for concept in row["concepts"])
        names = {row["id"]: row["names"].get("en") for row in json_lines(self.folder.parents[1] / NAMES)}
        frequent = sorted((each for each in counts if names.get(each)), key=lambda each: (-counts[each], each))
        return {concept: names[concept] for concept in frequent[:NUM_CHOICES]}

    def is_scored(self, row: Row) -> bool:
        return bool(self.thing(row)) or not self.things

    def thing(self, row: Row) -> str:
        """What is heard, by the name of the most frequent of its concepts; "" for none of the things."""
        return next((name for concept, name in self.things.items() if concept in row["concepts"]), "")

    def draw(self, rows: Sequence[Row], rng: random.Random) -> Row:
        """Every other time a thing first, then a recording of it: most things have few."""
        if rows is not self.rows["train"] or not self._of_things or rng.random() < 0.4:
            return super().draw(rows, rng)
        return super().draw(self._of_things[rng.choice(list(self._of_things))], rng)

    @cached_property
    def _of_things(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows["train"]:
            if thing := self.thing(row):
                found.setdefault(thing, []).append(row)
        return found

    def is_test(self, row: Row) -> bool:
        return row["fold"] == 4 if row.get("fold") else share_of(row["id"]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        thing, sound = self.thing(row), self.sound(row)
        if thing and (self.is_test(row) or rng.random() < 0.6):
            choices = sorted(self.things.values())
            return self.told(row, (sound, "Which thing is heard?"), thing, dataset=row["dataset"], choices=choices)
        label = row["label"].replace("_", " ")
        question, answer = rng.choice((("What makes this sound?", label), ("What do you hear?", row["caption"])))
        return self.told(row, (sound, question), answer, dataset=row["dataset"])


TEST_SPEAKERS_AR = ("00000006", "00000012", "00000018", "00000024")

AUDIO_SOURCES: tuple[type[Source], ...] = (
    SpokenEnglish, SpokenArabic, CommandsArabic, MandarinWords, SpeechEnglish, Sounds,
)  # fmt: skip
