"""A person's own examples, every one of them read, rendered and measured before anything is learned from them.

A line of the file is an example in one of these forms; media stand in it as inlineData, or as fileData with a path
relative to the file:

    {"contents": [Content, ...]}                 with or without "task", "language", "tags", "meta"; also as "messages"
    {"systemInstruction": Content, "contents": [Content, ...]}      the Gemini API's tuning form
    {"messages": [{"role": "user", "content": "words"}, ...]}       plain chat form
    {"text_input": "words", "output": "words"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.example import Example

Rendered = Any  # a Sequence, or the Rendered pair of a model that makes vectors
Render = Callable[[Example], Rendered]
TASK = "own"  # of examples that name none
MOST_LISTED = 20
_ROLES = {"assistant": "model"}
_REFUSED = (ValueError, OSError, LookupError, TypeError)


class BrokenLines(ValueError):
    """Lines that cannot be learned from. Its text lists them, one a line; `problems` are all of them."""

    def __init__(self, problems: Sequence[str], num_lines: int) -> None:
        listed = [f"  {problem}" for problem in problems[:MOST_LISTED]]
        if len(problems) > MOST_LISTED:
            listed.append(f"  ... and {len(problems) - MOST_LISTED} more")
        head = f"{len(problems)} of {num_lines} lines cannot be learned from:"
        super().__init__("\n".join([head, *listed]))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class _Line:
    """Where an example stands, and how many tokens it is."""

    path: Path
    number: int
    offset: int
    num_tokens: int
    task: str


class OwnExamples:
    """The examples of some files: `len`, `lengths`, `example(i)`, `sequence(i)`.

    The first rendered ones are kept, up to `keep_bytes`; further ones are read and rendered whenever they are asked
    for. Raises BrokenLines for lines that are wrong, and for what is longer than `row_tokens`; ValueError for a file
    that is missing or empty.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        render: Render,
        *,
        row_tokens: int,
        keep_bytes: int = 1 << 30,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        if not paths:
            raise ValueError("examples= names no file; give one, such as examples=mine.jsonl")
        self.paths, self.render, self.row_tokens = [Path(path) for path in paths], render, row_tokens
        if missing := next((path for path in self.paths if not path.is_file()), None):
            raise ValueError(f"{missing}: no such file of examples")
        self._lines: list[_Line] = []
        self._kept: dict[int, Rendered] = {}
        self._room_bytes = keep_bytes
        digest, problems, num_lines, done_bytes = hashlib.sha256(), [], 0, 0
        num_bytes = sum(path.stat().st_size for path in self.paths)
        for path, number, offset, line in self._raw_lines():
            digest.update(line)
            num_lines += 1
            try:
                self._take(path, number, offset, line)
            except _REFUSED as error:
                problems.append(f"{path}, line {number}: {_reason(error)}")
            done_bytes += len(line)
            progress(done_bytes / num_bytes)
        if problems:
            raise BrokenLines(problems, num_lines)
        self.digest = digest.hexdigest()  # of all lines: whether a run goes on with the examples it began with

    def _raw_lines(self) -> Iterator[tuple[Path, int, int, bytes]]:
        for path in self.paths:
            offset, is_empty = 0, True
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        is_empty = False
                        yield path, number, offset, line
                    offset += len(line)
            if is_empty:
                raise ValueError(f"{path}: no examples in it")

    def _take(self, path: Path, number: int, offset: int, line: bytes) -> None:
        example = example_of_line(line, path.parent)
        sequence = self.render(example)
        if len(sequence) > self.row_tokens:
            raise ValueError(
                f"{len(sequence):,} tokens long, more than row_tokens={self.row_tokens}; raise that or shorten it"
            )
        index = len(self._lines)
        self._lines.append(_Line(path, number, offset, len(sequence), example.task))
        if sequence.num_bytes <= self._room_bytes:
            self._kept[index] = sequence
            self._room_bytes -= sequence.num_bytes

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [line.num_tokens for line in self._lines]

    def task(self, index: int) -> str:
        """The task that example number `index` names."""
        return self._lines[index].task

    def example(self, index: int) -> Example:
        """Example number `index`, read anew."""
        line = self._lines[index]
        with line.path.open("rb") as file:
            file.seek(line.offset)
            return example_of_line(file.readline(), line.path.parent)

    def sequence(self, index: int) -> Rendered:
        """Example number `index` rendered."""
        return self._kept[index] if index in self._kept else self.render(self.example(index))


def example_of_line(line: bytes, base_dir: Path) -> Example:
    """The example that a line holds, in any of the forms; ValueError, KeyError or TypeError says what is wrong."""
    try:
        obj = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from None
    values = _as_example_json(obj)
    contents = values["contents"]
    last = contents[-1] if contents else {}
    role = last.get("role", "user") if isinstance(last, dict) else "user"
    if role != "model":
        raise ValueError(f"no model turn to learn: its last turn is the {role}'s" if contents else "no turns in it")
    example = Example.from_json(values, base_dir=str(base_dir))
    if not any(getattr(part, "text", "media") for part in example.answer.parts):
        raise ValueError("the model's last turn is empty")
    return example


def _as_example_json(obj: Any) -> dict[str, Any]:
    """Any of the forms as {"contents", "task", ...}."""
    if not isinstance(obj, dict):
        raise ValueError(f"must be a JSON object, not {type(obj).__name__}")
    values = dict(obj)
    if {"text_input", "output"} <= set(values):
        asked, wanted = values.pop("text_input"), values.pop("output")
        values["contents"] = [
            {"role": "user", "parts": [{"text": asked}]},
            {"role": "model", "parts": [{"text": wanted}]},
        ]
    if "messages" in values:
        if "contents" in values:
            raise ValueError('holds both "messages" and "contents"')
        values["contents"] = values.pop("messages")
    if not isinstance(values.get("contents"), list):
        raise ValueError('an example has "contents" or "messages", a list of turns')
    values["contents"] = [_as_content(turn) for turn in values["contents"]]
    for key in ("systemInstruction", "system_instruction"):
        if (system := values.pop(key, None)) is not None:
            values["contents"].insert(0, {**_as_content(system), "role": "system"})
    return {"task": TASK, **values}


def _as_content(turn: Any) -> Any:
    """A turn in the chat form as Content; what is Content already, or neither, stays as it is."""
    if not isinstance(turn, dict):
        return turn
    turn = dict(turn)
    if isinstance(turn.get("content"), str) and "parts" not in turn:
        turn["parts"] = [{"text": turn.pop("content")}]
    if turn.get("role") in _ROLES:
        turn["role"] = _ROLES[turn["role"]]
    return turn


def _reason(error: BaseException) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError) else f"{type(error).__name__}: {told}"
