"""Example: a conversation with its known answer, the unit that trains, evaluates and rewards; Pair, that of vectors.

It leaves out how an answer is scored: that is a `Task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from castor.content import Message


@dataclass(frozen=True, kw_only=True)
class Example:
    """Messages that end in the model's reference answer.

    `messages` may hold several turns; every model turn is a training target. `tags` name the slices it counts in
    (for example "unseen_voice"); `meta` holds the exact facts that a scorer needs, as JSON values.
    """

    messages: tuple[Message, ...]
    task: str
    language: str = "en"
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "model":
            raise ValueError(f"{self.task}: an example ends in a model message, got {len(self.messages)} messages")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the final answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> Message:
        """The reference answer."""
        return self.messages[-1]

    def to_json(self) -> dict[str, Any]:
        """{"contents": [Gemini Content...], "task", "language", "tags", "meta"}."""
        return {
            "contents": [message.to_json() for message in self.messages],
            "task": self.task,
            "language": self.language,
            "tags": list(self.tags),
            "meta": dict(self.meta),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any], base_dir: str | None = None) -> Example:
        """The example that `to_json` wrote; raises ValueError naming a key it does not know."""
        known = {"contents", "task", "language", "tags", "meta"}
        if unknown := sorted(set(obj) - known):
            raise ValueError(f"unknown key {unknown[0]!r} in an example; known keys: {sorted(known)}")
        return cls(
            messages=tuple(Message.from_json(content, base_dir=base_dir) for content in obj["contents"]),
            task=obj["task"],
            language=obj.get("language", "en"),
            tags=tuple(obj.get("tags", ())),
            meta=dict(obj.get("meta", {})),
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A query and what it should find: the unit that trains and scores vectors.

    `negative` is what it should not find though it is near. Two queries with one `query_key` mean the same, as do two
    targets with one `target_key`. `query_task` and `target_task` name the words before a text, for pairs of texts.
    """

    query: Message
    target: Message
    source: str
    query_key: str
    target_key: str
    negative: Message | None = None
    query_task: str = ""
    target_task: str = ""
    language: str = "en"
    tags: tuple[str, ...] = ()
