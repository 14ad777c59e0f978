"""Real video: animated emoji, digits that move while they are spoken, signs, short clips, exercises."""

import random
from functools import cached_property

import numpy as np

from castor.content import Audio, Image, Part, Video
from castor.data.real.files import Row, json_lines, share_of
from castor.data.real.images import LANGUAGES, WHAT_IS_THIS, enlarged
from castor.data.real.source import TEST_SHARE, Source
from castor.example import Example

SEQUENCE_FPS = 8.0


class ConceptVideos(Source):
    """Animated emoji named in six languages. These concepts' still pictures are in another set."""

    name, where = "concepts/video", "concepts"
    task, licence, modalities = "animation_name", "A", ("video", "text")

    def load(self) -> list[Row]:
        names = {row["id"]: row["names"] for row in json_lines(self.folder / "names.jsonl.gz")}
        rows = []
        for concept in json_lines(self.folder / "manifest.jsonl"):
            known = {language: names.get(concept["id"], {}).get(language) for language in LANGUAGES}
            if "video" in concept and all(known.values()):
                rows.append({"id": f"{concept['id']}/video", "names": known, **concept["video"]})
        return rows

    def is_test(self, row: Row) -> bool:
        return share_of(self.bytes_of(row)) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        language = rng.choice(LANGUAGES)
        parts = (Video(self.bytes_of(row), name=row["id"]), rng.choice(WHAT_IS_THIS[language]))
        return self.told(row, parts, row["names"][language], language=language)


class Sequences(Source):
    """Three digits as a picture, a film, speech and text; one of four speakers is held out."""

    name, task, licence = "digits/sequences", "digit_sequence", "B"
    modalities = ("image", "video", "audio", "text")

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(video [N, F, 48, 48], image [N, 28, 84]), grey."""
        with np.load(self.folder / "video_and_image.npz") as file:
            return file["video"], file["image"]

    def is_test(self, row: Row) -> bool:
        return row["speaker"] == "theo"

    def make(self, row: Row, rng: random.Random) -> Example:
        at = row["index"]
        digits = " ".join(str(digit) for digit in row["digits"])
        kind = rng.choice(("image", "video", "motion", "audio"))
        parts: tuple[Part | str, ...]
        if kind == "image":
            picture = Image.from_pixels(enlarged(self.arrays[1][at], 2), name=row["id"])
            parts, answer = (picture, "Which digits are these?"), digits
        elif kind == "audio":
            sound = Audio(self.bytes_of(row, row["audio"]), name=row["id"])
            parts, answer = (sound, "What is said here?"), row["text"]
        else:
            frames_FHWC = np.repeat(self.arrays[0][at][..., None], 3, axis=3)
            film = Video.from_frames(frames_FHWC, SEQUENCE_FPS)
            question = "Which digits are these?" if kind == "video" else "What moves, and where to?"
            parts, answer = (film, question), digits if kind == "video" else row["caption"]
        tags = ("unseen_voice",) if kind == "audio" and self.is_test(row) else ()
        return self.told(row, parts, answer, tags=tags, digits=row["digits"], shown=kind)


class Signs(Source):
    """Signed words; the few signed by a person are the test of those signed by an avatar."""

    name, task, licence, modalities = "video/signs", "sign_name", "A", ("video", "text")

    def is_test(self, row: Row) -> bool:
        return row["signer"] != "avatar"

    def make(self, row: Row, rng: random.Random) -> Example:
        tags = ("unseen_signer",) if self.is_test(row) else ()
        parts = (Video(self.bytes_of(row), name=row["id"]), "Which word is signed here?")
        return self.told(row, parts, row["text"], tags=tags)


class Clips(Source):
    """A few real clips with a sentence about each."""

    name, task, licence, modalities = "video/clips", "clip_caption", "A", ("video", "text")

    def is_test(self, row: Row) -> bool:
        """By the name of the film, because several clips come from one."""
        return row["id"].startswith("clip_b")

    def make(self, row: Row, rng: random.Random) -> Example:
        question = rng.choice(("What happens here?", "Describe this clip."))
        return self.told(row, (Video(self.bytes_of(row), name=row["id"]), question), row["text"])


class Exercises(Source):
    """Start and end of an exercise as two photos: its name, the muscles it works, or how it is done."""

    name, task, licence, modalities = "video/exercises", "exercise", "A", ("image", "text")

    def make(self, row: Row, rng: random.Random) -> Example:
        questions = [("Which exercise is this?", row["text"])]
        if row["primary_muscles"]:
            questions.append(("Which muscles does this train?", ", ".join(row["primary_muscles"])))
        if row["instructions"]:
            questions.append(("How does this exercise begin?", row["instructions"][0]))
        question, answer = rng.choice(questions)
        frames = [Image(self.bytes_of(row, ref), name=ref["path"]) for ref in row["frames"]]
        return self.told(row, (*frames, question), answer)


VIDEO_SOURCES: tuple[type[Source], ...] = (ConceptVideos, Sequences, Signs, Clips, Exercises)
