"""Function calls and their responses as parts of a message, in the Gemini API's JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FunctionCall:
    """What the model asks to be run: a function's name and its arguments, an object of JSON values."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None  # pairs a response with its call where several have one name

    def __post_init__(self) -> None:
        _check(self, self.name, self.args, "args")

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(self.args, sort_keys=True), self.id))

    def to_json(self) -> dict[str, Any]:
        """{"functionCall": {"name": ..., "args": {...}}}."""
        return {"functionCall": _named(self.id, {"name": self.name, "args": dict(self.args)})}


@dataclass(frozen=True)
class FunctionResponse:
    """What a function gave back, an object of JSON values."""

    name: str
    response: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    def __post_init__(self) -> None:
        _check(self, self.name, self.response, "response")

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(self.response, sort_keys=True), self.id))

    def to_json(self) -> dict[str, Any]:
        """{"functionResponse": {"name": ..., "response": {...}}}."""
        return {"functionResponse": _named(self.id, {"name": self.name, "response": dict(self.response)})}


def call_from_json(value: object, place: str) -> FunctionCall:
    """The content of a "functionCall" key; missing args are none."""
    fields = json_fields(value, place, {"id", "name", "args"})
    try:
        return FunctionCall(fields.get("name", ""), fields.get("args", {}), fields.get("id"))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def response_from_json(value: object, place: str) -> FunctionResponse:
    """The content of a "functionResponse" key."""
    fields = json_fields(value, place, {"id", "name", "response"})
    try:
        return FunctionResponse(fields.get("name", ""), fields.get("response", {}), fields.get("id"))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def json_fields(obj: object, place: str, known: set[str]) -> dict[str, Any]:
    """The set fields of a JSON object under their camelCase names; null counts as not set."""
    if not isinstance(obj, Mapping):
        raise ValueError(f"{place}: must be a JSON object, not {type(obj).__name__}")
    fields: dict[str, Any] = {}
    for key, value in obj.items():
        head, *tail = str(key).split("_")
        camel = head + "".join(word.capitalize() for word in tail)
        if camel not in known:
            raise ValueError(f"{place}: unknown key {key!r} (known: {', '.join(sorted(known))})")
        if camel in fields:
            raise ValueError(f"{place}: key {key!r} is given twice")
        if value is not None:
            fields[camel] = value
    return fields


def _check(part: FunctionCall | FunctionResponse, name: object, values: object, key: str) -> None:
    kind = type(part).__name__
    if not isinstance(name, str) or not name:
        raise ValueError(f"{kind} needs the name of a function, not {name!r:.80}")
    if part.id is not None and not isinstance(part.id, str):
        raise ValueError(f"{kind} {name}: id must be a string, not {part.id!r:.80}")
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind} {name}: {key} must be an object, not {type(values).__name__}")
    try:
        copy = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{kind} {name}: {key} is not JSON ({error})") from None
    object.__setattr__(part, key, copy)


def _named(call_id: str | None, values: dict[str, Any]) -> dict[str, Any]:
    return values if call_id is None else {"id": call_id, **values}
