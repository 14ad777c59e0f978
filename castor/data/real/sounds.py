"""Real sound: digits and words spoken in three languages, read speech, and sounds of things."""

import random

from castor.content import Audio
from castor.data.real.files import Row, share_of
from castor.data.real.source import TEST_SHARE, Source
from castor.example import Example

MAX_SECONDS = 12.0  # longer recordings are left out
WHAT_IS_SAID = ("What is said here?", "What do you hear?")


class Recordings(Source):
    """What sets of recordings share."""

    modalities = ("audio", "text")

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
    """Single words in Chinese: what is said, or what it means. Words of the test are never trained on."""

    name, task, licence = "audio/mandarin_words", "spoken_word", "B"

    def is_test(self, row: Row) -> bool:
        return share_of(row["text"]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        questions = [("What is said here?", row["text"]), ("这里说的是什么？", row["text"])]
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
    """Sounds and what makes them; a recording is in one split only (by fold where the set has folds)."""

    name, task, licence = "audio/sounds", "sound_name", "A"

    def is_test(self, row: Row) -> bool:
        return row["fold"] == 4 if row.get("fold") else share_of(row["id"]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        label = row["label"].replace("_", " ")
        questions = [("What makes this sound?", label), ("What do you hear?", row["caption"])]
        question, answer = rng.choice(questions)
        return self.told(row, (self.sound(row), question), answer, dataset=row["dataset"])


TEST_SPEAKERS_AR = ("00000006", "00000012", "00000018", "00000024")

AUDIO_SOURCES: tuple[type[Source], ...] = (
    SpokenEnglish, SpokenArabic, CommandsArabic, MandarinWords, SpeechEnglish, Sounds,
)  # fmt: skip
