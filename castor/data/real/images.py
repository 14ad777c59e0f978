"""Real pictures: emoji drawings, digits, photos, paintings, cells, formulas, scenes to judge."""

import dataclasses
import random
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from castor.content import Image, Message
from castor.data.real.files import Row, json_lines, member_bytes, share_of
from castor.data.real.source import TEST_SHARE, Source
from castor.example import Example

WHAT_IS_THIS = {
    "en": ("What is this?", "What does this picture show?"),
    "zh": ("这是什么？",),
    "es": ("¿Qué es esto?",),
    "fr": ("Qu'est-ce que c'est ?",),
    "de": ("Was ist das?",),
    "hi": ("यह क्या है?",),
}
LANGUAGES = tuple(WHAT_IS_THIS)
UNSEEN_STYLE = "openmoji"
THINGS = ("animals_&_nature", "food_&_drink", "objects", "travel_&_places", "activities")  # not faces, flags, signs
NUM_NAMED, MAX_NAME_CHARS = 200, 20
MAX_FORMULA_CHARS = 160


class Concepts(Source):
    """Emoji drawings named in six languages. One style of drawing is held out, and a tenth of another.

    What is scored, and drawn for training more often, are `NUM_NAMED` things: those that most other sets show, too.
    """

    name, task, licence, modalities = "concepts", "concept_name", "A", ("image", "text")
    is_augmented = True

    def load(self) -> list[Row]:
        rows = []
        for concept in json_lines(self.folder / "manifest.jsonl"):
            for style, ref in concept["images"].items():
                row_id = f"{concept['id']}/{style}"
                rows.append({"id": row_id, "concept": concept["id"], "style": style, **ref})
        return [row for row in rows if row["concept"] in self.names]

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """Concept id -> its name by language."""
        rows = json_lines(self.folder / "names.jsonl.gz")
        known = {row["id"]: {lang: row["names"].get(lang) for lang in LANGUAGES} for row in rows}
        return {concept: names for concept, names in known.items() if all(names.values())}

    @cached_property
    def named(self) -> frozenset[str]:
        """The things among which one is named: in every style, with short names, met in most media."""
        media = {row["id"]: len(row["modalities"]) for row in json_lines(self.folder / "alignment.jsonl")}
        rows = [row for row in json_lines(self.folder / "manifest.jsonl") if row["id"] in self.names]
        things = [
            row["id"]
            for row in rows
            if row["group"] in THINGS
            and len(row["images"]) == 3
            and max(map(len, self.names[row["id"]].values())) <= MAX_NAME_CHARS
        ]
        return frozenset(sorted(things, key=lambda each: (-media.get(each, 0), share_of(each)))[:NUM_NAMED])

    def is_scored(self, row: Row) -> bool:
        return row["concept"] in self.named

    @cached_property
    def _named_rows(self) -> list[Row]:
        return [row for row in self.rows["train"] if row["concept"] in self.named]

    def draw(self, rows: Sequence[Row], rng: random.Random) -> Row:
        """Three of four times one of the named things, where training has them."""
        of_named = rows is self.rows["train"] and self._named_rows and rng.random() < 0.75
        return super().draw(self._named_rows if of_named else rows, rng)

    def licence_of(self, row: Row) -> str:
        return "B" if row["style"] == "openmoji" else "A"

    def is_test(self, row: Row) -> bool:
        """By the content of the file, so that pictures which are the same byte for byte fall on one side."""
        if row["style"] == UNSEEN_STYLE:
            return True
        return row["style"] == "twemoji" and share_of(member_bytes(self.folder, row, row["id"])) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        """A picture to be named; where it trains, in some more languages after the first."""
        languages = rng.sample(LANGUAGES, 1 if self.is_test(row) else 3)
        picture = Image(self.bytes_of(row), name=row["id"])
        tags = ("unseen_style",) if row["style"] == UNSEEN_STYLE else ()
        facts: dict[str, object] = {"style": row["style"]}
        if row["concept"] in self.named:
            facts["choices"] = sorted(self.names[concept][languages[0]] for concept in self.named)
        names = [self.names[row["concept"]][language] for language in languages]
        questions = [rng.choice(WHAT_IS_THIS[language]) for language in languages]
        first = self.told(row, (picture, questions[0]), names[0], language=languages[0], tags=tags, **facts)
        turns = zip(questions[1:], names[1:], strict=True)
        more = [message for asked, name in turns for message in (Message.user(asked), Message.model(name))]
        return dataclasses.replace(first, messages=(*first.messages, *more))


class Mnist(Source):
    """Handwritten digits, drawn at 112 pixels in the middle of 128."""

    name, task, licence, modalities = "digits/mnist", "digit_image", "B", ("image", "text")
    is_augmented = True

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(images [N, 28, 28], labels [N])."""
        path = self.folder / "mnist_train.npz"
        if not path.is_file():
            return np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8)
        with np.load(path) as file:
            return file["images"], file["labels"]

    def load(self) -> list[Row]:
        return [{"id": f"mnist_{i}", "at": i, "digit": int(d)} for i, d in enumerate(self.arrays[1])]

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image.from_pixels(enlarged(self.arrays[0][row["at"]], 4, border_px=8), name=row["id"])
        question = rng.choice(("Which digit is this?", "What digit is written here?"))
        return self.told(row, (picture, question), str(row["digit"]), digit=row["digit"])


def enlarged(grey_HW: np.ndarray, factor: int, border_px: int = 0) -> np.ndarray:
    """uint8 grey [H, W] -> smooth uint8 [factor*H + 2*border, factor*W + 2*border, 3] with a black border."""
    from PIL import Image as Pillow

    height, width = grey_HW.shape
    size = (width * factor, height * factor)
    large_HW = np.asarray(Pillow.fromarray(grey_HW).resize(size, Pillow.Resampling.BILINEAR))
    return np.repeat(np.pad(large_HW, border_px)[..., None], 3, axis=2)


class Cifar(Source):
    """Small photos of ten kinds of things."""

    name, task, licence, modalities = "photos/cifar10", "photo_class", "C", ("image", "text")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """blob (all files end to end), offsets, labels, names."""
        path = self.folder / "cifar10_train.npz"
        if not path.is_file():
            return {"labels": np.zeros(0, np.uint8)}
        with np.load(path) as file:
            return {name: file[name] for name in ("blob", "offsets", "labels", "names")}

    def load(self) -> list[Row]:
        return [{"id": f"cifar_{i}", "at": i, "label": int(x)} for i, x in enumerate(self.arrays["labels"])]

    def make(self, row: Row, rng: random.Random) -> Example:
        start, end = self.arrays["offsets"][row["at"] : row["at"] + 2]
        picture = Image(self.arrays["blob"][start:end].tobytes(), name=row["id"])
        label = str(self.arrays["names"][row["label"]])
        return self.told(row, (picture, rng.choice(WHAT_IS_THIS["en"])), label)


class Clothing(Source):
    """Photos of clothes and what they are."""

    name, task, licence, modalities = "photos/clothing", "photo_class", "A", ("image", "text")
    is_augmented = True

    def is_test(self, row: Row) -> bool:
        return row["split"] == "validation"

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        question = rng.choice(("What piece of clothing is this?", "What is this?"))
        return self.told(row, (picture, question), row["text"], label=row["label"])


class CocoMini(Source):
    """Photos with human captions; the licence of each photo counts."""

    name, task, licence, modalities = "photos/coco_mini", "photo_caption", "B", ("image", "text")

    def licence_of(self, row: Row) -> str:
        if row["noncommercial"]:
            return "C"
        return "B" if "ShareAlike" in row["license"] else "A"

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        question = rng.choice(("Describe this picture.", "What happens in this picture?"))
        return self.told(row, (picture, question), rng.choice(row["captions"]), references=row["captions"])


class Art(Source):
    """Paintings and their titles."""

    name, task, licence, modalities = "domains/art", "art_title", "A", ("image", "text")

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        question, answer = rng.choice(
            (("What is the title of this picture?", row["title"]), ("Describe this picture.", row["text"]))
        )
        return self.told(row, (picture, question), answer)


class Astronomy(Source):
    """Pictures of the sky with a sentence about each."""

    name, task, licence, modalities = "domains/astronomy", "sky_caption", "A", ("image", "text")

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        return self.told(row, (picture, "Describe this picture."), row["text"])


class CookingEnglish(Source):
    """Photos of dishes and their names."""

    name, task, licence, modalities = "domains/cooking_en", "dish_name", "A", ("image", "text")
    language, question = "en", "Which dish is this?"

    def load(self) -> list[Row]:
        return [row for row in super().load() if row["images"]]

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row, rng.choice(row["images"])), name=row["id"])
        return self.told(row, (picture, self.question), row["title"], language=self.language)


class CookingChinese(CookingEnglish):
    """The same in Chinese."""

    name = "domains/cooking_zh"
    language, question = "zh", "这是什么菜？"


class BloodCells(Source):
    """Microscope pictures in which cells are counted."""

    name, task, licence, modalities = "domains/blood_cells", "cell_count", "A", ("image", "text")

    def make(self, row: Row, rng: random.Random) -> Example:
        kind = rng.choice(("red blood cell", "white blood cell", "platelet"))
        count = sum(thing["name"].lower().startswith(kind) for thing in row["objects"])
        picture = Image(self.bytes_of(row), name=row["id"])
        return self.told(row, (picture, f"How many {kind}s are there?"), str(count), count=count, kind=kind)


class Formulas(Source):
    """Rendered formulas and their LaTeX; only those short enough to be said."""

    name, task, licence, modalities = "docs/formulas", "formula", "A", ("image", "text")

    def load(self) -> list[Row]:
        return [row for row in super().load() if 0 < len(row["text"]) <= MAX_FORMULA_CHARS]

    def is_test(self, row: Row) -> bool:
        return row["split"] == "validate"

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        return self.told(row, (picture, "Write this formula in LaTeX."), row["text"])


class Nlvr(Source):
    """Scenes of coloured shapes in three boxes, and a sentence that is true or false of them."""

    name, task, licence, modalities = "reasoning_images/nlvr", "true_or_false", "A", ("image", "text")

    def is_test(self, row: Row) -> bool:
        """By sentence, so that a test sentence is new in every arrangement of its boxes."""
        return share_of(row["sentence"].strip().lower()) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        picture = Image(self.bytes_of(row), name=row["id"])
        question = rng.choice(("True or false? {}", "Is this true or false? {}"))
        answer = "true" if row["label"] else "false"
        return self.told(row, (picture, question.format(row["sentence"])), answer)


IMAGE_SOURCES: tuple[type[Source], ...] = (
    Concepts, Mnist, Cifar, Clothing, CocoMini, Art, Astronomy, CookingEnglish, CookingChinese, BloodCells,
    Formulas, Nlvr,
)  # fmt: skip
