"""The Interactions API's steps and contents as those of generateContent, and back."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from castor.calls import FunctionCall
from castor.content import Media, Part, Text
from castor.server.answering import Tokens
from castor.server.errors import ApiError
from castor.server.service import Talk

MEDIA = ("image", "audio", "video", "document")
IGNORED = {"store", "stream", "service_tier", "labels", "previous_interaction_id", "model"}
KNOWN = {
    *("input", "system_instruction", "generation_config", "tools", "response_modalities", "response_format"),
    *("response_mime_type", "cached_content", *IGNORED),
}
SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "stop_sequences": "stopSequences",
    "max_output_tokens": "maxOutputTokens",
}
THINKING = {"minimal": 0, "low": -1, "medium": -1, "high": -1}


def request_of(body: Mapping[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The request of generateContent that asks the same, after the contents of an earlier interaction."""
    fields = {key: value for key, value in body.items() if value is not None}
    for key in sorted(set(fields) - KNOWN):
        raise ApiError(400, f"{key[:100]} is not offered here", field=key[:100])
    config = _config(fields)
    request: dict[str, Any] = {"contents": [*before, *_contents(fields.get("input"), before)]}
    if config:
        request["generationConfig"] = config
    if "system_instruction" in fields:
        request["systemInstruction"] = fields["system_instruction"]
    if "cached_content" in fields:
        request["cachedContent"] = fields["cached_content"]
    if "tools" in fields:
        request["tools"] = _tools(fields["tools"])
    choice = fields.get("generation_config", {}).get("tool_choice")
    if choice is not None:
        request["toolConfig"] = {"functionCallingConfig": _choice(choice)}
    return request


def _choice(choice: object) -> dict[str, Any]:
    """tool_choice as functionCallingConfig: a mode, or one with the names of functions."""
    if isinstance(choice, str):
        return {"mode": choice.upper()}
    allowed = choice.get("allowed_tools") if isinstance(choice, Mapping) else None
    if not isinstance(allowed, Mapping):
        raise ApiError(400, "tool_choice is a mode or holds allowed_tools", field="generation_config.tool_choice")
    mode, names = allowed.get("mode") or "validated", allowed.get("tools") or []
    return {"mode": str(mode).upper(), "allowedFunctionNames": names}


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = fields.get("generation_config", {})
    if not isinstance(given, Mapping):
        raise ApiError(400, "generation_config must be an object", field="generation_config")
    config: dict[str, Any] = {}
    for key, value in given.items():
        if key in SETTINGS:
            config[SETTINGS[key]] = value
        elif key == "thinking_level" and isinstance(value, str) and value in THINKING:
            config.setdefault("thinkingConfig", {})["thinkingBudget"] = THINKING[value]
        elif key == "thinking_summaries" and value in ("auto", "none"):
            config.setdefault("thinkingConfig", {})["includeThoughts"] = value == "auto"
        elif value is not None and key != "tool_choice":
            field = f"generation_config.{key}"
            raise ApiError(400, f"{field}={value!r:.60} is not offered here", field=field)
    if "response_modalities" in fields:
        config["responseModalities"] = fields["response_modalities"]
    return config | _format(fields)


def _format(fields: Mapping[str, Any]) -> dict[str, Any]:
    """response_format: a form of text with a schema, or the bare schema of the API's first version."""
    form, mime_type = fields.get("response_format"), fields.get("response_mime_type")
    if isinstance(form, list) and len(form) == 1:
        form = form[0]
    if form is None:
        return {} if mime_type is None else {"responseMimeType": mime_type}
    if not isinstance(form, Mapping):
        raise ApiError(400, "response_format must be one object", field="response_format")
    if form.get("type") != "text" or "properties" in form:
        return {"responseMimeType": mime_type or "application/json", "responseJsonSchema": dict(form)}
    config = {"responseMimeType": form.get("mime_type") or "application/json"}
    return config | ({"responseJsonSchema": form["schema"]} if form.get("schema") is not None else {})


def _tools(tools: object) -> list[dict[str, Any]]:
    """Functions and file search as generateContent has them."""
    if not isinstance(tools, list):
        raise ApiError(400, "tools must be a list", field="tools")
    functions, found = [], []
    for at, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "file_search":
            found.append({"fileSearch": {key: value for key, value in tool.items() if key != "type"}})
            continue
        if not isinstance(tool, Mapping) or kind != "function":
            message = f"tools[{at}]: functions and file_search are offered, and no other tools"
            raise ApiError(400, message, field=f"tools[{at}]")
        names = {"name": "name", "description": "description", "parameters": "parametersJsonSchema"}
        functions.append({names[key]: value for key, value in tool.items() if key in names and value is not None})
    return [*found, *([{"functionDeclarations": functions}] if functions else [])]


def _contents(value: object, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text, a content, contents, or steps."""
    if isinstance(value, str):
        return [{"role": "user", "parts": [{"text": value}]}]
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, Mapping) for item in items):
        raise ApiError(400, "input must be a text, contents or steps", field="input")
    if all(item.get("type") in ("text", *MEDIA) for item in items):
        return [{"role": "user", "parts": [_part(item, f"input[{at}]") for at, item in enumerate(items)]}]
    names = {
        part["functionCall"].get("id"): part["functionCall"]["name"]
        for content in before
        for part in content["parts"]
        if "functionCall" in part
    }
    contents = []
    for at, item in enumerate(items):
        contents += _step(item, f"input[{at}]", names)
    return contents


def _step(step: Mapping[str, Any], place: str, names: dict[str, str]) -> list[dict[str, Any]]:
    """A step as a content; `names` are functions by the ids of their calls."""
    kind = step.get("type")
    if kind in ("user_input", "model_output"):
        content = step.get("content")
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(content, list) or not content:
            raise ApiError(400, f"{place}.content must be a list of contents", field=place)
        parts = [_part(item, f"{place}.content[{at}]") for at, item in enumerate(content)]
        return [{"role": "user" if kind == "user_input" else "model", "parts": parts}]
    if kind == "thought":
        return []
    if kind == "function_call":
        call = {"id": step.get("id"), "name": step.get("name"), "args": step.get("arguments") or {}}
        names[str(step.get("id"))] = str(step.get("name"))
        return [{"role": "model", "parts": [{"functionCall": {k: v for k, v in call.items() if v is not None}}]}]
    if kind == "function_result":
        name = step.get("name") or names.get(str(step.get("call_id")))
        if name is None:
            raise ApiError(400, f"{place}.call_id={step.get('call_id')!r:.60} answers no call", field=place)
        result = step.get("result")
        response = result if isinstance(result, Mapping) else {"result": result}
        told = {"name": name, "response": response} | ({"id": step["call_id"]} if step.get("call_id") else {})
        return [{"role": "user", "parts": [{"functionResponse": told}]}]
    raise ApiError(400, f"{place}.type={kind!r:.60} is not a step that is offered here", field=place)


def _part(item: object, place: str) -> dict[str, Any]:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or kind not in ("text", *MEDIA):
        raise ApiError(400, f"{place}.type={kind!r:.60} is not one of text, {', '.join(MEDIA)}", field=place)
    if kind == "text":
        return {"text": item.get("text")}
    look = {} if item.get("resolution") is None else {"mediaResolution": {"level": item["resolution"]}}
    if item.get("uri") is not None:
        return {"fileData": {"fileUri": item["uri"], "mimeType": item.get("mime_type")}, **look}
    return {"inlineData": {"mimeType": item.get("mime_type"), "data": item.get("data")}, **look}


def content_of(part: Part) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Of a part of an answer: the type of its step, such a step as it begins, and what the part adds to it."""
    if isinstance(part, Text):
        text = {"type": "text", "text": part.text}
        if part.thought:
            return "thought", {"type": "thought", "summary": []}, {"type": "thought_summary", "content": text}
        return "model_output", {"type": "model_output", "content": []}, text
    if isinstance(part, FunctionCall):
        call_id = part.id or f"call_{secrets.token_hex(8)}"
        started = {"type": "function_call", "id": call_id, "name": part.name, "arguments": {}}
        return "function_call", started, {"type": "arguments_delta", "arguments": json.dumps(dict(part.args))}
    assert isinstance(part, Media), "a model says texts, calls and media"
    shown = {"type": part.KIND, "mime_type": part.mime_type, "data": base64.b64encode(part.data).decode()}
    return "model_output", {"type": "model_output", "content": []}, shown


def contents_of(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An answer's steps as the model's content, thoughts left out; none where it said nothing."""
    parts: list[dict[str, Any]] = []
    for at, step in enumerate(steps):
        for content in _step(step, f"steps[{at}]", {}):
            parts += content["parts"]
    return [{"role": "model", "parts": parts}] if parts else []


def usage_of(talk: Talk) -> dict[str, Any]:
    """The Interactions API's usage."""

    def listed(tokens: Tokens) -> list[dict[str, Any]]:
        return [{"modality": name.lower(), "tokens": count} for name, count in tokens.items() if count]

    prompt, said, thought = talk.prompt, talk.answered, talk.num_thought
    num_prompt, num_found, num_said = (sum(tokens.values()) for tokens in (prompt.tokens, prompt.found, said))
    found = {"total_tool_use_tokens": num_found, "tool_use_tokens_by_modality": listed(prompt.found)}
    return {
        "total_input_tokens": num_prompt,
        "input_tokens_by_modality": listed(prompt.tokens),
        "total_output_tokens": num_said,
        "output_tokens_by_modality": listed(said),
        **({"total_thought_tokens": thought} if thought else {}),
        **(found if num_found else {}),
        "total_cached_tokens": talk.num_reused,
        "total_tokens": num_prompt + num_found + num_said + thought,
    }
