"""Gemma 4's notation for functions: declarations, calls and responses written out, and calls read back.

    declaration:NAME{description:"...",parameters:{properties:{city:{type:"STRING"}},required:["city"],type:"OBJECT"}}
    call:NAME{city:"Bonn",days:[1,2]}
    response:NAME{sky:"blue"}

where each quote is the special token <|"|>, so that no text can close it. Keys are sorted without regard to case. The
form is that of the chat templates that Google publishes with the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from castor.calls import FunctionCall, FunctionResponse, json_fields


class Mark(str):
    """A special token by its name, among plain text."""


Written = list[str]  # plain text and marks
QUOTE = Mark('<|"|>')
_DECLARATION = {"name", "description", "parameters", "parametersJsonSchema", "response", "behavior"}


def write_call(call: FunctionCall) -> Written:
    """`call:NAME{...}`."""
    return [f"call:{call.name}", *write_value(call.args)]


def write_response(response: FunctionResponse) -> Written:
    """`response:NAME{...}`."""
    return [f"response:{response.name}", *write_value(response.response)]


def write_value(value: Any) -> Written:
    """A JSON value as it stands in calls and responses."""
    return _value(value, quote_keys=False)


def declarations(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The function declarations in the Gemini API's tools, or given as they are; ValueError names a wrong one."""
    found: list[dict[str, Any]] = []
    for at, tool in enumerate(tools):
        nested = [tool[key] for key in ("functionDeclarations", "function_declarations") if key in tool]
        for item in nested[0] if nested else [tool]:
            fields = json_fields(item, f"tools[{at}]", _DECLARATION)
            if not isinstance(fields.get("name"), str) or not fields["name"]:
                raise ValueError(f"tools[{at}]: a function needs a name, not {fields.get('name')!r}")
            for key in ("parameters", "parametersJsonSchema", "response"):
                if not isinstance(fields.get(key, {}), Mapping):
                    raise ValueError(f"tools[{at}]: {key} of {fields['name']} must be a schema, an object")
            found.append(fields)
    return found


def write_declaration(function: Mapping[str, Any]) -> Written:
    """`declaration:NAME{...}` of one of `declarations`."""
    entries: list[Written] = [["description:", *_text(function.get("description", ""))]]
    schema = function.get("parameters") or function.get("parametersJsonSchema")
    if schema:
        inner: list[Written] = []
        if schema.get("properties"):
            inner.append(["properties:", *_braced(_properties(schema["properties"]))])
        if schema.get("required"):
            inner.append(["required:", *_value(list(schema["required"]))])
        inner.append(["type:", *_type(schema.get("type", "OBJECT"))])
        entries.append(["parameters:", *_braced(inner)])
    if response := function.get("response"):
        inner = [["description:", *_text(response["description"])]] if response.get("description") else []
        entries.append(["response:", *_braced([*inner, ["type:", *_type(response.get("type", "OBJECT"))]])])
    return [f"declaration:{function['name']}", *_braced(entries)]


def _properties(properties: Mapping[str, Any]) -> list[Written]:
    return [[f"{key}:", *_braced(_schema(value))] for key, value in _sorted(properties)]


def _schema(schema: Mapping[str, Any]) -> list[Written]:
    """The entries of one parameter, in the templates' order, its type last."""
    kinds = schema.get("type", "")
    kinds = {str(kind).upper() for kind in (kinds if isinstance(kinds, list) else [kinds])}
    entries: list[Written] = []
    if schema.get("description"):
        entries.append(["description:", *_text(schema["description"])])
    if "STRING" in kinds and schema.get("enum"):
        entries.append(["enum:", *_value(schema["enum"])])
    elif "ARRAY" in kinds and schema.get("items"):
        entries.append(["items:", *_braced(_items(schema["items"]))])
    if schema.get("nullable"):
        entries.append(["nullable:true"])
    if "OBJECT" in kinds:
        entries.append(["properties:", *_braced(_properties(schema.get("properties") or {}))])
        if schema.get("required"):
            entries.append(["required:", *_value(list(schema["required"]))])
    return [*entries, ["type:", *_type(schema.get("type", ""))]]


def _items(schema: Mapping[str, Any]) -> list[Written]:
    """The entries of an array's items: every key there is, in order."""
    entries: list[Written] = []
    for key, value in _sorted(schema):
        if key == "properties":
            entries.append(["properties:", *_braced(_properties(value))])
        elif key == "type":
            entries.append(["type:", *_type(value)])
        elif value is not None:
            entries.append([f"{key}:", *_value(value)])
    return entries


def _type(kind: Any) -> Written:
    return _value([str(one).upper() for one in kind]) if isinstance(kind, list) else _text(str(kind).upper())


def _value(value: Any, *, quote_keys: bool = True) -> Written:
    """Any JSON value; `quote_keys` as inside a declaration, not in calls and responses."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        keys = [_text(key) if quote_keys else [key] for key, _ in _sorted(value)]
        values = [_value(one, quote_keys=quote_keys) for _, one in _sorted(value)]
        return _braced([[*key, ":", *one] for key, one in zip(keys, values, strict=True)])
    if isinstance(value, list | tuple):
        return ["[", *_joined([_value(one, quote_keys=quote_keys) for one in value]), "]"]
    if value is None:
        return ["null"]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _text(text: str) -> Written:
    return [QUOTE, text, QUOTE]


def _braced(entries: list[Written]) -> Written:
    return ["{", *_joined(entries), "}"]


def _joined(entries: list[Written]) -> Written:
    return [part for at, entry in enumerate(entries) for part in ([",", *entry] if at else entry)]


def _sorted(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items(), key=lambda item: item[0].lower())


def read_call(written: Written) -> FunctionCall:
    """The inverse of `write_call`; ValueError says where the notation is broken."""
    reader = _Reader(written)
    reader.expect("call:")
    name = reader.until("{").strip()
    args = reader.value()
    if reader.at < len(reader.items):
        raise ValueError(f"something follows the arguments of {name}: {reader.rest()!r}")
    assert isinstance(args, dict)
    return FunctionCall(name, args)


class _Reader:
    """Reads values from characters and marks; a mark is one item."""

    def __init__(self, written: Written) -> None:
        self.items = [item for part in written for item in ([part] if isinstance(part, Mark) else part)]
        self.at = 0

    def rest(self) -> str:
        return "".join(self.items[self.at : self.at + 20])

    def peek(self) -> str:
        if self.at >= len(self.items):
            raise ValueError("the call breaks off")
        return self.items[self.at]

    def expect(self, text: str) -> None:
        wanted = [text] if isinstance(text, Mark) else list(text)
        if self.items[self.at : self.at + len(wanted)] != wanted:
            raise ValueError(f"{text!r} is missing before {self.rest()!r}")
        self.at += len(wanted)

    def until(self, *ends: str) -> str:
        """The characters up to one of `ends`, which stays."""
        begin = self.at
        while self.peek() not in ends:
            self.at += 1
        return "".join(self.items[begin : self.at])

    def value(self) -> Any:
        """A string, list, object, number, true, false or null."""
        while self.peek() == " ":
            self.at += 1
        if self.peek() == QUOTE:
            return self.quoted()
        if self.peek() == "{":
            return dict(self.entries("{", "}", self.pair))
        if self.peek() == "[":
            return list(self.entries("[", "]", self.value))
        word = self.until(",", "}", "]").strip()
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        for number in (int, float):
            try:
                return number(word)
            except ValueError:
                continue
        raise ValueError(f"{word!r} is no value")

    def quoted(self) -> str:
        self.expect(QUOTE)
        text = self.until(QUOTE)
        self.at += 1
        return text

    def pair(self) -> tuple[str, Any]:
        while self.peek() == " ":
            self.at += 1
        key = self.quoted() if self.peek() == QUOTE else self.until(":").strip()
        self.expect(":")
        return key, self.value()

    def entries(self, begin: str, end: str, one: Any) -> Iterable[Any]:
        self.expect(begin)
        while self.peek() != end:
            yield one()
            if self.peek() != end:
                self.expect(",")
        self.at += 1
