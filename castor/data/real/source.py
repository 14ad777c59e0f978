"""Source: one set of real data as examples, with a licence class and a test split that never changes."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from castor.content import Message, Part
from castor.data.real.augment import augmented
from castor.data.real.files import Row, json_lines, member_bytes, share_of
from castor.example import Example

SPLITS = ("train", "test")
TEST_SHARE = 0.1  # of items, where nothing better (a speaker, a fold) tells the splits apart


class Source(ABC):
    """A set of real data. Subclasses say where it lies, how a row becomes an example, and what is held out.

    `licence`: "A" permissive, "B" share-alike, "C" none stated, research only or non-commercial. Rows whose
    class is not in `licences` are not loaded. Rows are read at first use; an absent set has none.
    """

    name: ClassVar[str]
    where: ClassVar[str] = ""  # its folder, where that is not its name
    task: ClassVar[str]
    licence: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    is_augmented: ClassVar[bool] = False  # whether training sees its media changed a little each time

    def __init__(self, root: str | Path, licences: Sequence[str] = ("A", "B")) -> None:
        self.folder = Path(root) / (self.where or self.name)
        self.licences = tuple(licences)

    def __getstate__(self) -> dict[str, object]:
        """Without what was read, so that a worker process reads it for itself."""
        return {"folder": self.folder, "licences": self.licences}

    def load(self) -> list[Row]:
        """All rows, each with an "id"."""
        return json_lines(self.folder / "manifest.jsonl")

    def licence_of(self, row: Row) -> str:
        """The licence class of a row."""
        return self.licence

    def is_test(self, row: Row) -> bool:
        """Whether a row is held out; by default a tenth of the items."""
        return share_of(row["id"]) < TEST_SHARE

    def is_scored(self, row: Row) -> bool:
        """Whether a held-out row is asked about where abilities are scored; by default each."""
        return True

    @abstractmethod
    def make(self, row: Row, rng: random.Random) -> Example:
        """The example of a row; `rng` picks phrasing."""

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Rows of each split whose licence class is allowed."""
        rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for row in self.load():
            if self.licence_of(row) in self.licences:
                rows["test" if self.is_test(row) else "train"].append(row)
        return rows

    def example(self, rng: random.Random, split: str = "train") -> Example:
        """A drawn example of `split`."""
        rows = self._rows(split)
        if not rows:
            raise ValueError(f"{self.name}: no {split} items under {self.folder}")
        example = self.make(self.draw(rows, rng), rng)
        return augmented(example, rng) if self.is_augmented and split == "train" else example

    def draw(self, rows: Sequence[Row], rng: random.Random) -> Row:
        """The row of a drawn example; by default each as likely."""
        return rows[rng.randrange(len(rows))]

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """The first `limit` examples of `split` in an order that is shuffled once and for all."""
        rows = [row for row in self._rows(split) if split == "train" or self.is_scored(row)]
        rows.sort(key=lambda row: (share_of(f"order/{row['id']}"), row["id"]))
        return [self.make(row, random.Random(f"{self.name}/{row['id']}")) for row in rows[:limit]]

    def count(self, split: str) -> int:
        """How many items `split` has."""
        return len(self._rows(split))

    def bytes_of(self, row: Row, ref: Row | None = None) -> bytes:
        """The media file of a row (or of one of its references)."""
        return member_bytes(self.folder, ref or row, row["id"])

    def told(
        self,
        row: Row,
        parts: Sequence[Part | str],
        answer: str,
        *,
        language: str = "en",
        tags: Sequence[str] = (),
        **facts: object,
    ) -> Example:
        """An example of one question and one answer, with the row's id, set and licence class in `meta`.

        A fact called `choices` lists the answers among which one is to be named.
        """
        meta = {"id": row["id"], "source": self.name, "licence": self.licence_of(row), **facts}
        messages = (Message.user(*parts), Message.model(answer))
        media = [type(part).__name__.lower() for part in parts if not isinstance(part, str)]
        kinds = dict.fromkeys(f"has_{kind}" for kind in media)
        return Example(messages=messages, task=self.task, language=language, tags=(*kinds, *tags), meta=meta)

    def _rows(self, split: str) -> list[Row]:
        if split not in self.rows:
            raise ValueError(f"{self.name}: split must be one of {SPLITS}, got {split!r}")
        return self.rows[split]
