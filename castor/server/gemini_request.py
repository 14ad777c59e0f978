"""The Gemini API's requests as queries; what would change the answer and is not offered is refused by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from castor.calls import json_fields
from castor.content import (
    LOOK_KEYS,
    Document,
    Image,
    Media,
    Message,
    Part,
    Video,
    look_from_json,
    part_from_json,
    resolution_from_json,
)
from castor.engine.sample import SamplingConfig
from castor.media.limits import Limits
from castor.server.answering import Calling, Query, calling_of
from castor.server.bodies import boolean, number, texts, whole
from castor.server.errors import ApiError
from castor.server.grounding import OpenStore, Search, read_search
from castor.server.logprobs import MOST_ALTERNATIVES
from castor.server.safety import read_settings
from castor.server.schemas import of_gemini, of_gemini_enum

IGNORED = {"model", "labels", "serviceTier", "store"}  # clients send these unasked
REFUSED = {"continuationToken"}
CACHED_KEYS = ("contents", "systemInstruction", "tools", "toolConfig")
REQUEST_KEYS = {*CACHED_KEYS, "generationConfig", "cachedContent", "safetySettings", *IGNORED, *REFUSED}
NO_EFFECT: dict[str, tuple[Any, ...]] = {  # settings that are not offered, and values with which they change nothing
    "presencePenalty": (0,),
    "frequencyPenalty": (0,),
    "speechConfig": (),
    "imageConfig": ({}, {"aspectRatio": "1:1"}, {"aspect_ratio": "1:1"}),
}
CONFIG_KEYS = {
    *("temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "seed", "candidateCount"),
    *("responseMimeType", "responseSchema", "responseJsonSchema", "responseLogprobs", "logprobs"),
    *("responseModalities", "thinkingConfig", "mediaResolution", "enableEnhancedCivicAnswers", *NO_EFFECT),
}
MODES = ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED")  # of functionCallingConfig
OpenFile = Callable[[Mapping[str, Any], str], Part]  # a fileData object and its place in the request
Fetch = Callable[[str, str], Part]  # an address and its place in the request
OpenCached = Callable[[str], Mapping[str, Any]]  # the fields of a cached content by its name


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What requests are checked against: what the model can, and what the server allows."""

    can_draw: bool
    knows_tools: bool
    max_tokens: int
    max_candidates: int
    limits: Limits
    open_file: OpenFile
    open_cached: OpenCached
    open_store: OpenStore
    fetch: Fetch  # ApiError 400 where nothing may be fetched
    rates: bool = False  # whether texts are rated by a classifier


def read_request(
    body: Mapping[str, Any], able: Abilities, *, deadline_s: float | None = None, is_beginning: bool = False
) -> Query:
    """The body of generateContent; ValueError or ApiError names a wrong field.

    A beginning of one, which is to be cached, may be a system instruction alone.
    """
    fields = _with_cached(json_fields(body, "the request", REQUEST_KEYS), able)
    for key in sorted(REFUSED & set(fields)):
        raise ApiError(400, f"{key} is not offered here", field=key)
    config = json_fields(fields.get("generationConfig", {}), "generationConfig", CONFIG_KEYS)
    for key, harmless in NO_EFFECT.items():
        if key in config and config[key] not in harmless:
            place = f"generationConfig.{key}"
            raise ApiError(400, f"{place}={config[key]!r:.60} is not offered here", field=place)
    draws, writes = _modalities(config.get("responseModalities"), able.can_draw)
    thinking, shows_thoughts = _thinking(config.get("thinkingConfig"), able.knows_tools)
    tools, search = _tools(fields, able)
    mode, calling = _mode(fields.get("toolConfig", {}), tools)
    tools = () if mode == "NONE" else tools
    choices = of_gemini_enum(config)
    schema = of_gemini(config) if choices is None else None
    if (choices or schema is not None) and (tools or thinking or not writes):
        raise ApiError(400, "an answer in JSON cannot think, call functions or be a picture", field="generationConfig")
    messages = read_messages(fields, able, may_lack_contents=is_beginning)
    if "mediaResolution" in config:
        messages = _looked_at(
            messages, resolution_from_json(config["mediaResolution"], "generationConfig.mediaResolution")
        )
    return Query(
        messages=messages,
        samplings=_samplings(config, {"response_schema": schema, "response_regex": choices}, able),
        draws=draws,
        writes=writes,
        tools=tools,
        calling=calling,
        thinking=thinking,
        shows_thoughts=shows_thoughts,
        deadline_s=deadline_s,
        blocks=read_settings(fields["safetySettings"]) if able.rates and "safetySettings" in fields else {},
        search=search,
    )


def _with_cached(fields: dict[str, Any], able: Abilities) -> dict[str, Any]:
    """The fields with those of the cached content that they name in front of them."""
    name = fields.pop("cachedContent", None)
    if name is None:
        return fields
    if not isinstance(name, str):
        raise ApiError(400, "cachedContent is the name of a cached content", field="cachedContent")
    cached = able.open_cached(name)
    for key in ("systemInstruction", "tools", "toolConfig"):
        if key in fields:
            raise ApiError(400, f"{key} belongs into the cached content where there is one", field=key)
    before, after = (_listed(some.get("contents", [])) for some in (cached, fields))
    return {**cached, **fields, "contents": [*before, *after]}


def _listed(contents: object) -> list[Any]:
    return contents if isinstance(contents, list) else [contents]


def read_count(body: Mapping[str, Any], able: Abilities) -> Query:
    """The body of countTokens: contents alone, or a whole generateContentRequest."""
    if "generateContentRequest" in body or "generate_content_request" in body:
        fields = json_fields(body, "the request", {"generateContentRequest", "model"})
        return read_request(fields.get("generateContentRequest", {}), able)
    return read_request(body, able)


def read_messages(
    fields: Mapping[str, Any], able: Abilities, *, may_lack_contents: bool = False
) -> tuple[Message, ...]:
    """systemInstruction and contents; each content's media decoded no further than to know what they are."""
    messages: list[Message] = []
    if "systemInstruction" in fields:
        content = fields["systemInstruction"]
        content = {"parts": [{"text": content}]} if isinstance(content, str) else content
        messages.append(Message("system", _parts(content, "systemInstruction", able)[1]))
    contents = fields.get("contents")
    contents = [contents] if isinstance(contents, Mapping) else contents
    if contents is None and messages and may_lack_contents:
        return tuple(messages)
    if not isinstance(contents, list) or not contents:
        raise ApiError(400, "contents must be a list of at least one content", field="contents")
    for at, content in enumerate(contents):
        role, parts = _parts(content, f"contents[{at}]", able)
        roles = {"user": "user", "model": "model", "function": "user", None: "user"}
        if not isinstance(role, str | None) or role not in roles:
            place = f"contents[{at}].role"
            raise ApiError(400, f"{place} must be user or model, not {role!r:.60}", field=place)
        messages.append(Message("model" if role == "model" else "user", parts))
    return tuple(messages)


def read_parts(content: object, place: str, able: Abilities) -> tuple[Part, ...]:
    """The parts of a content; its role does not matter."""
    return _parts(content, place, able)[1]


def _parts(content: object, place: str, able: Abilities) -> tuple[Any, tuple[Part, ...]]:
    fields = json_fields(content, place, {"role", "parts"})
    parts = fields.get("parts")
    parts = [parts] if isinstance(parts, Mapping) else parts
    if not isinstance(parts, list) or not parts:
        raise ApiError(400, f"{place}.parts must be a list of at least one part", field=f"{place}.parts")
    return fields.get("role"), tuple(_part(part, f"{place}.parts[{at}]", able) for at, part in enumerate(parts))


def _part(part: object, place: str, able: Abilities) -> Part:
    if not isinstance(part, Mapping):
        raise ApiError(400, f"{place} must be an object, not {type(part).__name__}", field=place)
    kept = dict(part)
    for key in ("thoughtSignature", "thought_signature"):
        kept.pop(key, None)
    for key in ("fileData", "file_data"):
        if isinstance(kept.get(key), Mapping):
            looks = json_fields({name: kept[name] for name in kept if name != key}, place, LOOK_KEYS)
            part = able.open_file(kept[key], f"{place}.{key}")
            return part.with_look(look_from_json(looks, place)) if looks and isinstance(part, Media) else part
    return part_from_json(kept, limits=able.limits, place=place)


def _looked_at(messages: tuple[Message, ...], resolution: str | None) -> tuple[Message, ...]:
    """The messages, with a resolution for all that is shown to the model and says none of its own."""

    def looked_at(part: Part) -> Part:
        if not isinstance(part, Image | Video | Document) or part.look.resolution or part.look.num_tokens:
            return part
        return part.with_look(replace(part.look, resolution=resolution))

    return tuple(
        message if message.role == "model" else replace(message, parts=tuple(map(looked_at, message.parts)))
        for message in messages
    )


def _samplings(config: Mapping[str, Any], held: Mapping[str, Any], able: Abilities) -> tuple[SamplingConfig, ...]:
    """One for each candidate; `held` are the settings that hold an answer to a form."""
    place = "generationConfig."
    count = whole(config.get("candidateCount", 1), f"{place}candidateCount", 1, able.max_candidates)
    options: dict[str, Any] = {**held, "logprobs": _logprobs(config, place)}
    if "temperature" in config:
        options["temperature"] = number(config["temperature"], f"{place}temperature", 0, 100)
    if "topP" in config and (top_p := number(config["topP"], f"{place}topP", 0, 1)) > 0:
        options["top_p"] = top_p
    elif "topP" in config:
        options["top_k"] = 1  # nothing but the likeliest
    if "topK" in config and "top_k" not in options:
        options["top_k"] = whole(config["topK"], f"{place}topK", 1, 2**31)
    most = whole(config.get("maxOutputTokens", able.max_tokens), f"{place}maxOutputTokens", 1, 2**31)
    stop = texts(config.get("stopSequences", []), f"{place}stopSequences", 16)
    seed = whole(config.get("seed", secrets.randbits(31)), f"{place}seed", -(2**63), 2**62)
    return tuple(SamplingConfig(max_tokens=most, stop=stop, seed=seed + at, **options) for at in range(count))


def _logprobs(config: Mapping[str, Any], place: str) -> int | None:
    count = whole(config.get("logprobs", 0), f"{place}logprobs", 0, MOST_ALTERNATIVES)
    if boolean(config.get("responseLogprobs", False), f"{place}responseLogprobs"):
        return count
    if "logprobs" in config:
        raise ApiError(400, f"{place}logprobs needs responseLogprobs", field=f"{place}logprobs")
    return None


def _modalities(value: object, can_draw: bool) -> tuple[bool, bool]:
    """Whether the answer may hold pictures, and text."""
    place = "generationConfig.responseModalities"
    wanted = texts([] if value is None else value, place, 4)
    names = {name.upper() for name in wanted}
    if extra := names - {"TEXT", "IMAGE"}:
        raise ApiError(400, f"{place}: {sorted(extra)[0]!r:.40} is nothing that this model says", field=place)
    if "IMAGE" in names and not can_draw:
        raise ApiError(400, f"{place}: this model draws no pictures", field=place)
    return not names or "IMAGE" in names, not names or "TEXT" in names


def _thinking(value: object, can_think: bool) -> tuple[bool, bool]:
    """Whether to think, and whether thoughts are shown. A model that cannot think passes over it."""
    if value is None:
        return False, False
    place = "generationConfig.thinkingConfig"
    fields = json_fields(value, place, {"includeThoughts", "thinkingBudget", "thinkingLevel"})
    shows = boolean(fields.get("includeThoughts", False), f"{place}.includeThoughts")
    budget = whole(fields.get("thinkingBudget", -1), f"{place}.thinkingBudget", -1, 2**31)
    return can_think and budget != 0, shows


def _tools(fields: Mapping[str, Any], able: Abilities) -> tuple[tuple[Mapping[str, Any], ...], Search | None]:
    """Function declarations in the one form that the renderer takes, and what is asked of file search."""
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise ApiError(400, "tools must be a list", field="tools")
    found: list[Mapping[str, Any]] = []
    searches: list[Search] = []
    for at, tool in enumerate(tools):
        place = f"tools[{at}]"
        known = json_fields(tool, place, {"functionDeclarations", "fileSearch"})
        if "fileSearch" in known:
            searches.append(read_search(known["fileSearch"], f"{place}.fileSearch", able.open_store))
        found += _functions(known.get("functionDeclarations", []), place)
    if len(searches) > 1:
        raise ApiError(400, "tools: fileSearch is given twice; one may name several stores", field="tools")
    if found and not able.knows_tools:
        raise ApiError(400, "tools: this model knows no functions", field="tools")
    return tuple(found), searches[0] if searches else None


def _functions(declared: object, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(declared, list):
        raise ApiError(400, f"{place}.functionDeclarations must be a list", field=place)
    found = []
    for item in declared:
        if not isinstance(item, Mapping):
            raise ApiError(400, f"{place}: a function declaration is an object", field=place)
        unused = ("responseJsonSchema", "response_json_schema", "behavior")
        found.append({key: value for key, value in item.items() if key not in unused})
    return found


def _mode(value: object, tools: tuple[Mapping[str, Any], ...]) -> tuple[str, Calling | None]:
    """The mode of toolConfig, and what it holds the answer to."""
    config = json_fields(value, "toolConfig", {"functionCallingConfig", "retrievalConfig"})
    place, known = "toolConfig.functionCallingConfig", {"mode", "allowedFunctionNames", "streamFunctionCallArguments"}
    calling = json_fields(config.get("functionCallingConfig", {}), place, known)
    mode = str(calling.get("mode", "AUTO")).upper()
    if mode not in MODES:
        raise ApiError(400, f"{place}.mode={mode!r:.40} is not one of {', '.join(MODES)}", field=f"{place}.mode")
    names = texts(calling.get("allowedFunctionNames", []), f"{place}.allowedFunctionNames", 512)
    if mode in ("ANY", "VALIDATED"):
        return mode, calling_of(names, tools, place, must=mode == "ANY")
    if names:
        raise ApiError(400, f"{place}.allowedFunctionNames is for the modes ANY and VALIDATED", field=place)
    return mode, None
