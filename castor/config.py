"""Configs: frozen dataclasses from JSON and from `key=value`, where a wrong key or type is an error that helps."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=_Dataclass)


def to_dict(config: Any) -> Any:
    """A config as JSON values, nested dataclasses included."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from JSON values; an unknown key or a wrong type is a ValueError that names the nearest key."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise ValueError(_unknown(where + key, [where + name for name in names]))
    parsed = {key: _parse(hints[key], value, where + key) for key, value in values.items()}
    try:
        return cls(**parsed)
    except TypeError as error:
        raise ValueError(f"{where or cls.__name__}: {error}") from None


def from_foreign(cls: type[T], values: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], where: str = "") -> T:
    """Build `cls` from another program's JSON values, without the fields that `cls` does not have.

    `only` names such fields that would change the result: a value that is not among those given is a ValueError.
    """
    for key, allowed in only.items():
        if key in values and values[key] not in allowed:
            raise ValueError(f"{where}{key}={values[key]!r} is not supported (only {allowed[0]!r})")
    return from_dict(cls, {key: value for key, value in values.items() if key in cls.__dataclass_fields__}, where)


def override(config: T, assignments: Sequence[str]) -> T:
    """A copy of `config` with `key=value` (dotted for nested) applied, values read by the field's type.

    >>> override(config, ["minutes=15", "optim.learning_rate=1e-3"])
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is not of the form key=value")
        config = _set(config, key.strip().split("."), text, key.strip())
    return config


def _set(config: T, path: list[str], text: str, full: str) -> T:
    hints = typing.get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    prefix = full[: len(full) - len(".".join(path))]
    if path[0] not in names:
        raise ValueError(_unknown(prefix + path[0], [prefix + name for name in names]))
    if len(path) > 1:
        inner = getattr(config, path[0])
        if not dataclasses.is_dataclass(inner):
            raise ValueError(f"{full}: {prefix + path[0]} is a plain value and has no parts")
        value = _set(inner, path[1:], text, full)
    else:
        value = _parse(hints[path[0]], _read(hints[path[0]], text), full)
    return dataclasses.replace(config, **{path[0]: value})


def _read(hint: Any, text: str) -> Any:
    """The JSON value that `text` means for a field of type `hint`; bare words are strings."""
    if hint is str:
        return text
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    is_list = typing.get_origin(hint) in (tuple, list)
    try:
        return json.loads(f"[{text}]" if is_list and not text.startswith("[") else text)
    except json.JSONDecodeError:
        return text.split(",") if is_list else text


def _parse(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        errors = []
        for option in arguments:
            if option is type(None):
                continue
            try:
                return _parse(option, value, where)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[0])
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}={value!r} is not one of {list(arguments)}")
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}={value!r} should be an object with the keys of {hint.__name__}")
        return from_dict(hint, value, where + ".")
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}={value!r} should be a list")
        item = arguments[0] if arguments else Any
        return origin(_parse(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin in (dict, Mapping) or origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}={value!r} should be an object")
        return {str(key): _parse(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    return _parse_plain(hint, value, where)


def _parse_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}={value!r} should be {getattr(hint, '__name__', hint)}")


def _unknown(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}{hint} (keys: {', '.join(sorted(names))})"
