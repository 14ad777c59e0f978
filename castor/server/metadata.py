"""What users say of their documents, and filters over it in the language that the Gemini API's clients write.

The language is that of https://google.aip.dev/160, as far as it speaks of values: comparisons joined by AND, OR, NOT
(or -) and parentheses, in which OR binds closer than AND, and factors side by side are joined by AND:

    author = "Robert Graves" AND (year >= 1934 OR genre: "novel") AND -draft = "yes"

A text in quotation marks is a text, what stands bare is a number where it looks like one. `*` at either end of a
text stands for anything; `key: *` asks whether there is such a key at all. Of a list, one of its texts must fit.
A comparison with a key that a document lacks is false, whatever it says.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from castor.calls import json_fields
from castor.server.bodies import number
from castor.server.errors import ApiError

MAX_ENTRIES, MAX_LETTERS, MAX_FILTER = 20, 2048, 4096
Values = Mapping[str, float | str | tuple[str, ...]]
Condition = Callable[[Values], bool]
_TOKEN = re.compile(
    r"""\s*(?: (?P<string> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
          | (?P<sign> <= | >= | != | [<>=:()] )
          | (?P<bare> [^\s<>=!:()"',]+ ) )""",
    re.VERBOSE | re.DOTALL,
)
_ORDERED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
MAX_DEPTH = 32


def read_metadata(value: object) -> list[dict[str, Any]]:
    """customMetadata in the API's own form, checked; ValueError or ApiError names what is wrong."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise ApiError(400, f"customMetadata must be a list of up to {MAX_ENTRIES} entries", field="customMetadata")
    entries = [_entry(item, f"customMetadata[{at}]") for at, item in enumerate(value)]
    keys = [entry["key"] for entry in entries]
    if len(set(keys)) < len(keys):
        raise ApiError(400, "customMetadata: a key is given twice", field="customMetadata")
    return entries


def _entry(item: object, place: str) -> dict[str, Any]:
    fields = json_fields(item, place, {"key", "stringValue", "numericValue", "stringListValue"})
    key = fields.pop("key", None)
    if not isinstance(key, str) or not key or len(key) > MAX_LETTERS:
        raise ApiError(400, f"{place}.key must be a text", field=place)
    if len(fields) != 1:
        raise ApiError(400, f"{place}: one of stringValue, numericValue and stringListValue", field=place)
    [(kind, value)] = fields.items()
    if kind == "numericValue":
        return {"key": key, kind: number(value, f"{place}.{kind}", -1e300, 1e300)}
    texts = [value]
    if kind == "stringListValue":
        texts = json_fields(value, f"{place}.{kind}", {"values"}).get("values", [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text) <= MAX_LETTERS for text in texts):
        raise ApiError(400, f"{place}.{kind} holds texts of up to {MAX_LETTERS} letters", field=place)
    return {"key": key, kind: {"values": texts} if kind == "stringListValue" else value}


def values_of(entries: list[dict[str, Any]]) -> dict[str, float | str | tuple[str, ...]]:
    """The values of such entries by their keys."""
    found: dict[str, float | str | tuple[str, ...]] = {}
    for entry in entries:
        if "stringListValue" in entry:
            found[entry["key"]] = tuple(entry["stringListValue"]["values"])
        else:
            found[entry["key"]] = entry.get("numericValue", entry.get("stringValue", ""))
    return found


def read_filter(text: str) -> Condition:
    """The condition that a filter states; ApiError 400 says what in it cannot be read."""
    if len(text) > MAX_FILTER:
        raise _wrong(f"a filter may have {MAX_FILTER} letters, not {len(text)}")
    return _Reader(text).whole()


class _Reader:
    """A filter, read from left to right."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise _wrong(f"{text[at : at + 20]!r} cannot be read")
            assert found.lastgroup is not None
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self._at, self._depth = 0, 0

    def whole(self) -> Condition:
        found = self._every()
        if self._at < len(self._tokens):
            raise _wrong(f"{self._tokens[self._at][1]!r} is one too many")
        return found

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _took(self, *tokens: tuple[str, str]) -> bool:
        is_there = self._next() in tokens
        self._at += is_there
        return is_there

    def _every(self) -> Condition:
        """Factors joined by AND, or side by side."""
        conditions = [self._any()]
        while self._next() not in (("end", ""), ("sign", ")")):
            self._took(("bare", "AND"))
            conditions.append(self._any())
        return lambda values: all(condition(values) for condition in conditions)

    def _any(self) -> Condition:
        conditions = [self._one()]
        while self._took(("bare", "OR")):
            conditions.append(self._one())
        return lambda values: any(condition(values) for condition in conditions)

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _wrong(f"it is nested more than {MAX_DEPTH} deep")
        condition = self._simple()
        self._depth -= 1
        return condition

    def _simple(self) -> Condition:
        kind, text = self._next()
        if kind == "bare" and text != "-" and text.startswith("-"):
            self._tokens[self._at : self._at + 1] = [("bare", "-"), ("bare", text[1:])]
        if self._took(("bare", "NOT"), ("bare", "-")):
            condition = self._one()
            return lambda values: not condition(values)
        if not self._took(("sign", "(")):
            return self._comparison()
        condition = self._every()
        if not self._took(("sign", ")")):
            raise _wrong("a parenthesis is not closed")
        return condition

    def _comparison(self) -> Condition:
        key, _ = self._value("a key")
        kind, sign = self._next()
        if kind != "sign" or sign in "()":
            raise _wrong(f"after {key[:40]!r} there must be one of = != < <= > >= :")
        self._at += 1
        text, is_string = self._value(f"a value for {key[:40]!r}")
        return _compared(key, sign, text, is_string)

    def _value(self, what: str) -> tuple[str, bool]:
        """A text, and whether it stood in quotation marks."""
        kind, text = self._next()
        if kind not in ("string", "bare") or (kind == "bare" and text in ("AND", "OR", "NOT")):
            raise _wrong(f"{what} is missing" + (f" before {text!r}" if text else " at the end"))
        self._at += 1
        return (re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL), True) if kind == "string" else (text, False)


def _compared(key: str, sign: str, text: str, is_string: bool) -> Condition:
    wanted = None if is_string else _number_of(text)
    if sign == ":" and text == "*" and not is_string:
        return lambda values: key in values
    fits = _pattern(text)

    def holds(values: Values) -> bool:
        value = values.get(key)
        if value is None:
            return False
        if isinstance(value, int | float):
            known = _number_of(text) if wanted is None else wanted
            return known is not None and _ORDERED.get(sign, operator.ne if sign == "!=" else operator.eq)(value, known)
        texts = value if isinstance(value, tuple) else (value,)
        if sign in _ORDERED:
            return any(_ORDERED[sign](each, text) for each in texts)
        return any(map(fits, texts)) != (sign == "!=")

    return holds


def _pattern(text: str) -> Callable[[str], bool]:
    head, tail = text.startswith("*"), text.endswith("*") and len(text) > 1
    core = text[head : len(text) - tail]
    if head and tail:
        return lambda value: core in value
    if head:
        return lambda value: value.endswith(core)
    return (lambda value: value.startswith(core)) if tail else (lambda value: value == core)


def _number_of(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _wrong(message: str) -> ApiError:
    return ApiError(400, f"metadataFilter: {message}", field="metadataFilter")
