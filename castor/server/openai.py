"""OpenAI's routes: chat completions and models. `/v1/models` is answered by the Gemini routes, in a form both read."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.calls import FunctionCall
from castor.content import Image, Part, Text
from castor.server.answering import End
from castor.server.errors import ApiError, openai_error
from castor.server.gemini import able_of, get_model, list_models
from castor.server.logprobs import openai_logprobs
from castor.server.openai_request import MOUNTS, read_chat, streams
from castor.server.service import Streamed, Talk, begun, json_of, model_of, service_of, talk, while_there

REASONS = {"stop": "stop", "length": "length"}
router = Router()


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions."""
    body = await json_of(request)
    name = model_of(body)
    is_stream, with_usage = streams(body)
    make = partial(read_chat, body, able_of(request, name))
    head = {"id": f"chatcmpl-{secrets.token_urlsafe(12)}", "created": int(time.time()), "model": name}

    async def answer() -> dict[str, Any]:
        async with talk(service_of(request), name, make) as speaking:
            return {**head, "object": "chat.completion", **await _whole(speaking)}

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        async with talk(service_of(request), name, make) as speaking:
            async for piece in _chunks(speaking, with_usage):
                yield {**head, "object": "chat.completion.chunk", **piece}

    if not is_stream:
        return JSONResponse(await while_there(request, answer()))
    return Streamed(_events(await begun(request, pieces())), media_type="text/event-stream")


async def _whole(speaking: Talk) -> dict[str, Any]:
    messages: dict[int, dict[str, Any]] = {}
    ends: dict[int, dict[str, Any]] = {}
    async for index, item in speaking.items():
        message = messages.setdefault(index, {"role": "assistant", "content": None, "refusal": None})
        if isinstance(item, End):
            reason = "tool_calls" if "tool_calls" in message else REASONS[item.reason]
            ends[index] = {"logprobs": _logprobs(speaking, index, item), "finish_reason": reason}
            continue
        for key, value in _delta(item, len(message.get("tool_calls", ()))).items():
            before = message.get(key)
            message[key] = value if before is None else before + value
    for message in messages.values():
        for call in message.get("tool_calls", ()):
            del call["index"]
    choices = [{"index": index, "message": message, **ends[index]} for index, message in messages.items()]
    return {"choices": choices, "usage": _usage(speaking)}


async def _chunks(speaking: Talk, with_usage: bool) -> AsyncIterator[dict[str, Any]]:
    calls: dict[int, int] = {}
    for index in range(len(speaking.query.samplings)):
        yield _chunk(index, {"role": "assistant", "content": ""}, None, with_usage)
    async for index, item in speaking.items():
        if isinstance(item, End):
            reason = "tool_calls" if calls.get(index) else REASONS[item.reason]
            yield _chunk(index, {}, reason, with_usage, _logprobs(speaking, index, item))
        elif delta := _delta(item, calls.get(index, 0)):
            calls[index] = calls.get(index, 0) + len(delta.get("tool_calls", ()))
            yield _chunk(index, delta, None, with_usage)
    if with_usage:
        yield {"choices": [], "usage": _usage(speaking)}


def _chunk(
    index: int, delta: dict[str, Any], reason: str | None, with_usage: bool, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {"choices": [choice], **({"usage": None} if with_usage else {})}


def _logprobs(speaking: Talk, index: int, end: End) -> dict[str, Any] | None:
    """Those of a whole answer, where they were asked for; a stream gives them with its last chunk."""
    if speaking.query.samplings[index].logprobs is None:
        return None
    return openai_logprobs(end.said, speaking.answerer.model.tokenizer)


def _delta(part: Part, number: int) -> dict[str, Any]:
    """What a part adds to a message; pictures in the form that OpenRouter uses, thoughts not at all."""
    if isinstance(part, Text):
        return {} if part.thought else {"content": part.text}
    if isinstance(part, Image):
        url = f"data:{part.mime_type};base64,{base64.b64encode(part.data).decode()}"
        return {"images": [{"type": "image_url", "image_url": {"url": url}}]}
    assert isinstance(part, FunctionCall), "a model says text, pictures and calls"
    function = {"name": part.name, "arguments": json.dumps(dict(part.args))}
    call_id = part.id or f"call_{secrets.token_urlsafe(12)}"
    return {"tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]}


def _usage(speaking: Talk) -> dict[str, Any]:
    prompt, said = speaking.prompt.tokens, speaking.said
    num_prompt, num_said = sum(prompt.values()), sum(said.values())
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_said,
        "total_tokens": num_prompt + num_said,
        "prompt_tokens_details": {"audio_tokens": prompt.get("AUDIO", 0), "cached_tokens": speaking.num_reused},
        "completion_tokens_details": {"reasoning_tokens": speaking.num_thought},
    }


async def _events(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Server-sent events as OpenAI's clients take them, with their end mark."""
    try:
        async for piece in pieces:
            yield _event(piece)
    except ApiError as error:
        yield _event(openai_error(error))
        return
    yield b"data: [DONE]\n\n"


def _event(piece: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(piece).encode() + b"\n\n"


for mount in MOUNTS:
    router.add_route(f"{mount}/chat/completions", chat, methods=["POST"])
    if mount != "/v1":
        router.add_route(f"{mount}/models", list_models, methods=["GET"])
        router.add_route(f"{mount}/models/{{name:path}}", get_model, methods=["GET"])
