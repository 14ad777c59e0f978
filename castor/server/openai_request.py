"""OpenAI's chat completions as queries; what would change the answer and is not offered is refused by name."""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Mapping, Set
from typing import Any

from castor.calls import FunctionCall, FunctionResponse
from castor.content import Audio, Document, Image, Message, Part, Text, Video
from castor.engine.sample import SamplingConfig
from castor.media.look import RESOLUTIONS, Look
from castor.media.source import decode_base64
from castor.server.answering import Calling, Query, calling_of
from castor.server.bodies import boolean, number, texts, whole
from castor.server.errors import ApiError
from castor.server.gemini_request import Abilities
from castor.server.logprobs import MOST_ALTERNATIVES
from castor.server.schemas import of_openai

MOUNTS = ("/v1", "/openai/v1", "/v1beta/openai")
IGNORED = {  # about bookkeeping, or hints that promise nothing
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "reasoning_effort"),
}
NO_EFFECT: dict[str, tuple[Any, ...]] = {  # settings that are not offered, and values with which they change nothing
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "audio": (),
    "functions": ([],),
    "function_call": ("none",),
    "prediction": (),
    "web_search_options": (),
    "verbosity": ("medium",),
}
KNOWN = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n"),
    *("logprobs", "top_logprobs", "response_format"),
    *("stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "modalities", *IGNORED, *NO_EFFECT),
}
MEDIA: dict[str, type[Image | Audio | Video | Document]] = {
    "image_url": Image,
    "audio_url": Audio,
    "video_url": Video,
    "file": Document,
}


def read_fields(
    body: Mapping[str, Any], known: Set[str], no_effect: Mapping[str, Container[Any]] | None = None
) -> dict[str, Any]:
    """What a body gives; ApiError for what is not known, or not offered but with values that change nothing."""
    fields = {key: value for key, value in body.items() if value is not None}
    for key in sorted(set(fields) - known):
        raise ApiError(400, f"unknown argument: {key[:100]!r}", field=key[:100])
    for key, harmless in (no_effect or {}).items():
        if key in fields and fields[key] not in harmless:
            raise ApiError(400, f"{key}={fields[key]!r:.60} is not offered here", field=key)
    return fields


def read_chat(body: Mapping[str, Any], able: Abilities) -> Query:
    """The body of chat/completions. ValueError or ApiError names a wrong field."""
    fields = read_fields(body, KNOWN, NO_EFFECT)
    (tools, calling), schema = _tools(fields, able), of_openai(fields)
    if tools and schema is not None:
        raise ApiError(400, "an answer in JSON cannot call functions", field="response_format")
    return Query(
        messages=_messages(fields.get("messages"), able),
        samplings=_samplings(fields, schema, able),
        draws=_draws(fields.get("modalities", ["text"]), able),
        tools=tools,
        calling=calling,
    )


def streams(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer is wanted as a stream, and the use of tokens at its end."""
    options = body.get("stream_options") or {}
    known = {"include_usage", "include_obfuscation"}
    if not isinstance(options, Mapping) or set(options) - known:
        raise ApiError(400, f"stream_options holds include_usage alone, not {options!r:.60}", field="stream_options")
    usage = boolean(options.get("include_usage", False), "stream_options.include_usage")
    return boolean(body.get("stream") or False, "stream"), usage


def _samplings(fields: Mapping[str, Any], schema: dict[str, Any] | None, able: Abilities) -> tuple[SamplingConfig, ...]:
    options: dict[str, Any] = {"response_schema": schema, "logprobs": _logprobs(fields)}
    if "temperature" in fields:
        options["temperature"] = number(fields["temperature"], "temperature", 0, 100)
    if "top_p" in fields and (top_p := number(fields["top_p"], "top_p", 0, 1)) > 0:
        options["top_p"] = top_p
    elif "top_p" in fields:
        options["top_k"] = 1  # nothing but the likeliest
    if "top_k" in fields and "top_k" not in options:
        options["top_k"] = whole(fields["top_k"], "top_k", 1, 2**31)
    most = fields.get("max_completion_tokens", fields.get("max_tokens", able.max_tokens))
    seed = whole(fields.get("seed", secrets.randbits(31)), "seed", -(2**63), 2**62)
    options |= {"max_tokens": whole(most, "max_completion_tokens", 1, 2**31)}
    options |= {"stop": texts(fields.get("stop", []), "stop", 16)}
    count = whole(fields.get("n", 1), "n", 1, able.max_candidates)
    return tuple(SamplingConfig(seed=seed + at, **options) for at in range(count))


def _logprobs(fields: Mapping[str, Any]) -> int | None:
    count = whole(fields.get("top_logprobs", 0), "top_logprobs", 0, MOST_ALTERNATIVES)
    if boolean(fields.get("logprobs", False), "logprobs"):
        return count
    if count:
        raise ApiError(400, "top_logprobs needs logprobs", field="top_logprobs")
    return None


def _draws(value: object, able: Abilities) -> bool:
    wanted = set(texts(value, "modalities", 4))
    if extra := wanted - {"text", "image"}:
        raise ApiError(400, f"modalities: {min(extra)!r:.40} is nothing that this model says", field="modalities")
    if "image" in wanted and not able.can_draw:
        raise ApiError(400, "modalities: this model draws no pictures", field="modalities")
    return "image" in wanted


def _tools(fields: Mapping[str, Any], able: Abilities) -> tuple[tuple[Mapping[str, Any], ...], Calling | None]:
    """Function declarations in Gemini's form, and what the answer is held to."""
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise ApiError(400, "tools must be a list", field="tools")
    found: list[Mapping[str, Any]] = []
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        if not isinstance(function, Mapping):
            raise ApiError(400, f"tools[{at}] must be of type function", field=f"tools[{at}]")
        names = {"name": "name", "description": "description", "parameters": "parametersJsonSchema"}
        found.append({names[key]: value for key, value in function.items() if key in names and value is not None})
    if found and not able.knows_tools:
        raise ApiError(400, "tools: this model knows no functions", field="tools")
    calling = _choice(fields.get("tool_choice", "auto"), tuple(found), fields)
    return () if fields.get("tool_choice") == "none" else tuple(found), calling


def _choice(choice: object, tools: tuple[Mapping[str, Any], ...], fields: Mapping[str, Any]) -> Calling | None:
    """What tool_choice holds the answer to: required, one function by its name, or some of them."""
    most = 8 if boolean(fields.get("parallel_tool_calls", True), "parallel_tool_calls") else 1
    if choice in ("auto", "none"):
        return None
    if choice == "required":
        return calling_of((), tools, "tool_choice", most=most)
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if isinstance(choice, Mapping) and kind == "function":
        return calling_of([_named(choice)], tools, "tool_choice", most=1)
    allowed = choice.get("allowed_tools") if isinstance(choice, Mapping) and kind == "allowed_tools" else None
    if isinstance(allowed, Mapping) and allowed.get("mode") in ("auto", "required"):
        named = allowed.get("tools")
        names = [_named(tool) for tool in named] if isinstance(named, list) and named else [""]
        return calling_of(names, tools, "tool_choice", must=allowed["mode"] == "required", most=most)
    message = f"tool_choice={choice!r:.60}: there is auto, none, required, a function by its name, and allowed_tools"
    raise ApiError(400, message, field="tool_choice")


def _named(tool: object) -> str:
    """The name in {"type": "function", "function": {"name": ...}}."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def _messages(value: object, able: Abilities) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a list of at least one message", field="messages")
    names: dict[str, str] = {}  # functions by the ids of their calls
    return tuple(_message(item, f"messages[{at}]", names, able) for at, item in enumerate(value))


def _message(item: object, place: str, names: dict[str, str], able: Abilities) -> Message:
    if not isinstance(item, Mapping):
        raise ApiError(400, f"{place} must be an object, not {type(item).__name__}", field=place)
    role = item.get("role")
    parts = read_content(item.get("content"), f"{place}.content", able)
    if role == "tool":
        call_id = item.get("tool_call_id")
        if not isinstance(call_id, str) or call_id not in names:
            raise ApiError(400, f"{place}.tool_call_id={call_id!r:.60} answers no call", field=f"{place}.tool_call_id")
        text = "".join(part.text for part in parts if isinstance(part, Text))
        return Message.user(FunctionResponse(names[call_id], _result(text), call_id))
    if role == "assistant":
        parts += _calls(item.get("tool_calls"), f"{place}.tool_calls", names)
    known = {"system": "system", "developer": "system", "user": "user", "assistant": "model"}
    if not isinstance(role, str) or role not in known:
        raise ApiError(400, f"{place}.role must be one of {', '.join(known)}, tool", field=f"{place}.role")
    if not parts:
        raise ApiError(400, f"{place} is empty", field=f"{place}.content")
    return Message("system" if known[role] == "system" else "model" if role == "assistant" else "user", parts)


def _result(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"result": value}


def _calls(value: object, place: str, names: dict[str, str]) -> tuple[Part, ...]:
    if value is None:
        return ()
    calls: list[Part] = []
    for at, item in enumerate(value if isinstance(value, list) else [value]):
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(function, Mapping):
            raise ApiError(400, f"{place}[{at}] must hold a function", field=place)
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (TypeError, ValueError, RecursionError):
            raise ApiError(400, f"{place}[{at}].function.arguments must be JSON in a string", field=place) from None
        calls.append(call := FunctionCall(function.get("name", ""), arguments, item.get("id")))
        if call.id is not None:
            names[call.id] = call.name
    return tuple(calls)


def read_content(value: object, place: str, able: Abilities) -> tuple[Part, ...]:
    """A text, or a list of content parts."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if not isinstance(value, list):
        raise ApiError(400, f"{place} must be a text or a list of parts", field=place)
    return tuple(read_part(item, f"{place}[{at}]", able) for at, item in enumerate(value))


def read_part(item: object, place: str, able: Abilities) -> Part:
    """A content part: text, or a medium."""
    kind = item.get("type") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(kind, str):
        raise ApiError(400, f"{place} must be an object with a type", field=place)
    if kind in ("text", "refusal"):
        return Text(item.get(kind, ""))
    held = item.get(kind)
    held = {"url": held} if isinstance(held, str) else held
    if kind not in (*MEDIA, "input_audio") or not isinstance(held, Mapping):
        raise ApiError(400, f"{place}.type={kind!r:.60} is not offered here, or holds nothing", field=place)
    if kind == "input_audio":
        form = held.get("format")
        if not isinstance(form, str) or not form.isalnum():
            raise ApiError(400, f"{place}.input_audio.format must be a word such as wav", field=place)
        data = decode_base64(held.get("data"), place, able.limits)
        return Audio(data, mime_type=f"audio/{form}", name=place, limits=able.limits)
    if kind == "image_url" and held.get("detail") not in (None, "auto", "low", "high"):
        raise ApiError(400, f"{place}.image_url.detail is auto, low or high", field=place)
    uri = held.get("file_data") if kind == "file" else held.get("url")
    is_here = isinstance(uri, str) and uri[:5].lower() == "data:"
    part = MEDIA[kind](uri, name=place, limits=able.limits) if is_here else able.fetch(str(uri), place)
    detail = held.get("detail") if kind == "image_url" else None
    return part.with_look(Look(resolution=detail)) if detail in RESOLUTIONS and isinstance(part, Image) else part
