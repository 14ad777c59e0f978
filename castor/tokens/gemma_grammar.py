"""What a reply may be where it must call a function: Gemma 4's notation of calls as a grammar, after their schemas.

The grammar is in the dialect of Lark that llguidance reads, over the ids of the tokenizer: <[7]> is the special token
of that id. A call has the function's name, its arguments in the order in which the checkpoints' templates write them,
and of each the type, the items, the members and the choices (enum, const, anyOf, nullable, $ref within the schema) that
the schema says. What it says of a value's size or pattern is not held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from castor.tokens.gemma_calls import QUOTE, Mark, Written, write_value

KEY = re.compile(r'[^\s:{}\[\],<>|"]+')
MAX_ITEMS = 1000  # of a list whose length is bounded
TERMINALS = r"""
TEXT: /(?s:.+)/
NAME: /[A-Za-z_][A-Za-z0-9_]{0,63}/
INTEGER: /-?(0|[1-9][0-9]{0,17})/
NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?/
text: quote TEXT? quote
truth: "true" | "false"
any: text | NUMBER | truth | "null" | any_list | any_object
any_list: "[" (any ("," any)*)? "]"
any_object: "{" (any_member ("," any_member)*)? "}"
any_member: NAME ":" any
"""


def call_grammar(
    functions: Sequence[Mapping[str, Any]],
    special: Callable[[str], int],
    *,
    must: bool = True,
    most: int = 8,
    thinks: bool = False,
) -> str:
    """A reply of up to `most` calls of these declared functions, and of one at least where it `must` call.

    Without `must`, text may stand before them or alone; with `thinks`, a thought before all. ValueError names what in
    a schema has no place here.
    """
    grammar = _Grammar(special)
    calls = []
    for function in functions:
        schema = function.get("parameters") or function.get("parametersJsonSchema")
        arguments = grammar.arguments(schema, function["name"])
        calls.append(f"{json.dumps('call:' + function['name'], ensure_ascii=False)} {arguments}")
    said = [*(["thought?"] if thinks else []), *([] if must else ["TEXT?"]), f"call{{{int(must)},{most}}}"]
    rules = [
        f"start: {' '.join(said)}",
        f"call: {grammar.mark('<|tool_call>')} ({' | '.join(calls)}) {grammar.mark('<tool_call|>')}",
        f"quote: {grammar.mark(QUOTE)}",
        *([f"thought: {grammar.mark('<|channel>')} TEXT {grammar.mark('<channel|>')}"] if thinks else []),
    ]
    return "\n".join([*rules, *grammar.rules]) + TERMINALS


class _Grammar:
    """Rules of schemas, each made once."""

    def __init__(self, special: Callable[[str], int]) -> None:
        self._special, self._names = special, dict[str, str]()
        self._root: Any = {}
        self.rules: list[str] = []
        self._where = ""

    def mark(self, name: str) -> str:
        return f"<[{self._special(name)}]>"

    def arguments(self, schema: Mapping[str, Any] | None, name: str) -> str:
        """The rule of a function's arguments: none without a schema."""
        self._root, self._names, self._where = dict(schema or {}), {}, name
        if not KEY.fullmatch(name):
            raise ValueError(f"a function called {name!r:.60} cannot be held to: its name has signs of the notation")
        if not schema or not (schema.get("properties") or schema.get("$ref") or schema.get("additionalProperties")):
            return '"{}"'
        return self._rule({**schema, "type": "object"} if "$ref" not in schema else schema)

    def _rule(self, schema: Any) -> str:
        """The name of the rule of a schema; a schema within itself is the same rule."""
        if schema is True or schema == {}:
            return "any"
        if not isinstance(schema, Mapping):
            raise self._wrong(f"{schema!r:.60} is no schema")
        key = json.dumps(schema, sort_keys=True)
        if key not in self._names:
            name = self._names[key] = f"r{len(self.rules)}"
            place = len(self.rules)
            self.rules.append("")
            self.rules[place] = f"{name}: {self._written(schema)}"
        return self._names[key]

    def _written(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return self._rule(self._referred(schema))
        if schema.get("nullable"):
            return f'{self._rule({key: value for key, value in schema.items() if key != "nullable"})} | "null"'
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return " | ".join(map(self._rule, schema[key]))
        if isinstance(whole := schema.get("allOf"), list):
            if len(whole) != 1:
                raise self._wrong("allOf of several schemas")
            return self._rule(whole[0])
        if isinstance(choices := schema.get("enum"), list) and choices:
            return " | ".join(map(self._literal, choices))
        if "const" in schema:
            return self._literal(schema["const"])
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return " | ".join(self._rule({**schema, "type": kind}) for kind in kinds)
        return self._typed(str(kinds or ("object" if schema.get("properties") else "any")).lower(), schema)

    def _typed(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "array":
            return self._list(schema)
        if kind == "object":
            return self._object(schema)
        simple = {"string": "text", "integer": "INTEGER", "number": "NUMBER", "boolean": "truth", "null": '"null"'}
        simple |= {"any": "any", "type_unspecified": "any"}
        if kind not in simple:
            raise self._wrong(f"the type {kind!r:.40}")
        return simple[kind]

    def _list(self, schema: Mapping[str, Any]) -> str:
        item = self._rule(schema.get("items") or {})
        least, most = (self._count(schema, key) for key in ("minItems", "maxItems"))
        if most is not None and most < (least or 0):
            raise self._wrong(f"minItems={least} and maxItems={most}")
        if most == 0:
            return '"[]"'
        more = f"{{{max(0, (least or 0) - 1)},{'' if most is None else most - 1}}}"
        inner = item if most == 1 else f'{item} ("," {item}){more}'
        return f'"[" {inner} "]"' if least else f'"[" ({inner})? "]"'

    def _object(self, schema: Mapping[str, Any]) -> str:
        """Members in the templates' order, those that are not required left out or not."""
        properties = schema.get("properties")
        if not properties:
            more = schema.get("additionalProperties", True)
            if more is False:
                return '"{}"'
            member = f'NAME ":" {self._rule(more)}'
            return f'"{{" ({member} ("," {member})*)? "}}"'
        if not isinstance(properties, Mapping):
            raise self._wrong("properties that are no object")
        needed = schema.get("required") or ()
        first, rest = '""', '""'  # what may follow where nothing was written yet, and where something was
        for key, value in sorted(properties.items(), key=lambda item: item[0].lower(), reverse=True):
            if not KEY.fullmatch(key):
                raise self._wrong(f"an argument called {key!r:.40}")
            member = f"{json.dumps(key + ':', ensure_ascii=False)} {self._rule(value)}"
            now, later = f"{member} {rest}", f'"," {member} {rest}'
            if key not in needed:
                now, later = f"{now} | {first}", f"{later} | {rest}"
            first, rest = self._named(now), self._named(later)
        return f'"{{" {first} "}}"'

    def _named(self, written: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}: {written}")
        return name

    def _literal(self, value: Any) -> str:
        written: Written = write_value(value)
        texts = (
            self.mark(part) if isinstance(part, Mark) else json.dumps(part, ensure_ascii=False) for part in written
        )
        return " ".join(text for text in texts if text != '""')

    def _count(self, schema: Mapping[str, Any], key: str) -> int | None:
        value = schema.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float | str) or not str(value).isdecimal() or int(value) > MAX_ITEMS:
            raise self._wrong(f"{key}={value!r:.40} (up to {MAX_ITEMS})")
        return int(value)

    def _referred(self, schema: Any) -> Any:
        """The schema that a reference leads to, over others."""
        passed: list[str] = []
        while isinstance(schema, Mapping) and "$ref" in schema:
            reference, found = str(schema["$ref"]), self._root
            for step in reference.removeprefix("#").split("/")[1:]:
                found = found.get(step) if isinstance(found, Mapping) else None
            if found is None or not reference.startswith("#/") or reference in passed:
                raise self._wrong(f"$ref {reference!r:.60}, which leads nowhere")
            passed.append(reference)
            schema = found
        return schema

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"the parameters of {self._where}: {what} cannot be held to")
