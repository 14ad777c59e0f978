"""The form that an answer is held to, as a JSON schema, from the fields of either API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from castor.calls import json_fields
from castor.server.bodies import boolean, texts, whole
from castor.server.errors import ApiError

PLAIN = ("", "text/plain")
COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")
KEPT = ("title", "description", "default", "enum", "pattern", "minimum", "maximum", "required")
UNUSED = {"example", "nullable", "propertyOrdering"}  # said of a value, or read by other lines than the loop's
KNOWN = {*COUNTS, *KEPT, *UNUSED, "type", "format", "items", "properties", "anyOf"}
FORMATS = ("date-time", "date", "time", "duration", "email", "uuid")  # others, such as int32, add nothing to the type
TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")


def of_gemini(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """responseMimeType with responseSchema or responseJsonSchema; JSON of any kind without either."""
    place, mime_type = "generationConfig.", config.get("responseMimeType", "")
    given = [key for key in ("responseSchema", "responseJsonSchema") if key in config]
    if mime_type in PLAIN and not given:
        return None
    if mime_type != "application/json":
        message = f"{place}responseMimeType={mime_type!r:.60}: an answer is text/plain, or application/json"
        named = f" (as {given[0]} needs)" if given else ""
        raise ApiError(400, message + named, field=f"{place}responseMimeType")
    if len(given) == 2:
        raise ApiError(400, f"{place}responseSchema and responseJsonSchema exclude each other", field=place + given[0])
    if not given:
        return {}
    place += given[0]
    return _from_openapi(config[given[0]], place) if given[0] == "responseSchema" else _object(config[given[0]], place)


def of_gemini_enum(config: Mapping[str, Any]) -> str | None:
    """responseMimeType text/x.enum: a regular expression of the texts that the schema's enum names, else None."""
    if config.get("responseMimeType") != "text/x.enum":
        return None
    place = "generationConfig.responseSchema"
    schema = config.get("responseSchema") or config.get("responseJsonSchema")
    named = schema.get("enum") if isinstance(schema, Mapping) else None
    if not named:
        raise ApiError(400, f"{place}: text/x.enum needs a schema with an enum of texts", field=place)
    return "|".join(map(re.escape, texts(named, f"{place}.enum", 1000)))


def of_openai(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """response_format: text, json_object or json_schema."""
    form = _object(fields.get("response_format", {"type": "text"}), "response_format")
    kind = form.get("type")
    if kind == "json_schema":
        return _object(_object(form.get(kind), "response_format").get("schema"), "response_format")
    if kind not in ("text", "json_object"):
        message = f"response_format.type={kind!r:.60} is not text, json_object or json_schema"
        raise ApiError(400, message, field="response_format")
    return {"type": "object"} if kind == "json_object" else None


def _object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(400, f"{place} must hold a JSON schema, an object, not {type(value).__name__}", field=place)
    return value


def _from_openapi(value: object, place: str) -> dict[str, Any]:
    """The Gemini API's `Schema`, a selection of OpenAPI's, as a JSON schema."""
    fields = json_fields(value, place, KNOWN)
    schema = {key: fields[key] for key in KEPT if key in fields}
    schema |= {key: whole(fields[key], f"{place}.{key}", 0, 2**31) for key in COUNTS if key in fields}
    kind = fields.get("type", "TYPE_UNSPECIFIED")
    if not isinstance(kind, str) or kind.upper() not in (*TYPES, "TYPE_UNSPECIFIED"):
        raise ApiError(400, f"{place}.type={kind!r:.60} is not one of {', '.join(TYPES)}", field=f"{place}.type")
    if kind.upper() in TYPES:
        schema["type"] = kind.lower()
    if fields.get("format") in FORMATS:
        schema["format"] = fields["format"]
    if "items" in fields:
        schema["items"] = _from_openapi(fields["items"], f"{place}.items")
    if "anyOf" in fields:
        some = fields["anyOf"] if isinstance(fields["anyOf"], list) else [fields["anyOf"]]
        schema["anyOf"] = [_from_openapi(one, f"{place}.anyOf[{at}]") for at, one in enumerate(some)]
    if "properties" in fields:
        properties = _object(fields["properties"], f"{place}.properties")
        order = texts(fields.get("propertyOrdering", []), f"{place}.propertyOrdering", len(properties))
        names = [*(name for name in order if name in properties), *(name for name in properties if name not in order)]
        schema["properties"] = {name: _from_openapi(properties[name], f"{place}.properties.{name}") for name in names}
        schema["additionalProperties"] = False
    is_nullable = boolean(fields.get("nullable", False), f"{place}.nullable")
    return {"anyOf": [schema, {"type": "null"}]} if is_nullable else schema
