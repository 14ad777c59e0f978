"""Examples from files of JSON lines: what `castor data make` writes, and what a person writes of their own data.

One line is one example: {"contents": [Gemini Content, ...], "task": name, ...}. Media stand in the line as inlineData,
or as fileData with a path relative to the file.
"""

from __future__ import annotations

import json
import random
from functools import cached_property
from pathlib import Path
from typing import Any

from castor.example import Example


class Lines:
    """A file of examples. It is read through once, at the first use; a wrong line is a ValueError with its number."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file of examples")

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """(line number, byte offset) of each line that holds something; every one is checked to be a JSON object."""
        found, offset = [], 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._parse(number, line)
                    found.append((number, offset))
                offset += len(line)
        if not found:
            raise ValueError(f"{self.path}: no examples in it")
        return found

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Example:
        """Example number `index`, its media read; ValueError names the line of a wrong one."""
        number, offset = self.offsets[index]
        with self.path.open("rb") as file:
            file.seek(offset)
            obj = self._parse(number, file.readline())
        try:
            return Example.from_json(obj, base_dir=str(self.path.parent))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}, line {number}: {error}") from None

    def example(self, rng: random.Random) -> Example:
        """A drawn example."""
        return self[rng.randrange(len(self))]

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            obj = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {number}: not valid JSON ({error})") from None
        if not isinstance(obj, dict) or not isinstance(obj.get("contents"), list) or "task" not in obj:
            raise ValueError(f'{self.path}, line {number}: an example has "contents", a list, and "task", a name')
        return obj
