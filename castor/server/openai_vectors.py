"""OpenAI's embeddings, with the forms in which others ask for vectors of media."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.content import Part, Text, part_from_json
from castor.server.bodies import whole
from castor.server.errors import ApiError
from castor.server.gemini import able_of
from castor.server.gemini_request import Abilities
from castor.server.openai_request import MOUNTS, read_content, read_fields, read_part
from castor.server.service import json_of, model_of, service_of, while_there
from castor.server.vectors import Vectors, Wish, embed, with_task

KNOWN = {"model", "input", "messages", "dimensions", "encoding_format", "user", "task_type", "title"}
router = Router()


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings: a vector for each item of `input`, or one for `messages`."""
    service, body = service_of(request), await json_of(request)
    name = model_of(body)
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise ApiError(400, f"encoding_format={form!r:.40} is neither float nor base64", field="encoding_format")
    make = partial(read_wishes, body, able_of(request, name), service.config.max_vectors)
    made = await while_there(request, embed(service, name, make))
    data = [
        {"object": "embedding", "index": at, "embedding": _coded(vector) if form == "base64" else vector.tolist()}
        for at, vector in enumerate(made.values)
    ]
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": _usage(made)})


def read_wishes(body: Mapping[str, Any], able: Abilities, most: int) -> list[Wish]:
    """What vectors are wanted; ValueError or ApiError names a wrong field."""
    fields = read_fields(body, KNOWN)
    dimensions = fields.get("dimensions")
    size = None if dimensions is None else whole(dimensions, "dimensions", 1, 2**31)
    task, title = fields.get("task_type"), fields.get("title")
    prompts = _messages(fields["messages"], able) if "messages" in fields else _input(fields.get("input"), able, most)
    if "messages" in fields and fields.get("input"):
        raise ApiError(400, "input and messages exclude each other", field="input")
    return [Wish(parts=with_task(parts, task, title, ""), dimensions=size) for parts in prompts]


def _input(value: object, able: Abilities, most: int) -> list[tuple[Part, ...]]:
    items = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(items, list) or not 1 <= len(items) <= most:
        raise ApiError(400, f"input must be a text, or a list of 1 to {most} texts or content parts", field="input")
    if any(isinstance(item, int | list) for item in items):
        message = "input holds token ids, which no tokenizer of this server's made; send texts"
        raise ApiError(400, f"{message} (LangChain: check_embedding_ctx_length=False)", field="input")
    return [_item(item, f"input[{at}]", able) for at, item in enumerate(items)]


def _item(item: object, place: str, able: Abilities) -> tuple[Part, ...]:
    """A text, a medium as a data: URI, a content part, or an object that holds several in `content`."""
    if isinstance(item, str) and item[:5].lower() == "data:" and ";base64," in item[:200]:
        mime_type, _, data = item[5:].partition(";base64,")
        return (part_from_json({"inlineData": {"mimeType": mime_type, "data": data}}, limits=able.limits, place=place),)
    if isinstance(item, str):
        return (Text(item),)
    if isinstance(item, Mapping) and "content" in item:
        return read_content(item["content"], f"{place}.content", able)
    return (read_part(item, place, able),)


def _messages(value: object, able: Abilities) -> list[tuple[Part, ...]]:
    """vLLM's form: one conversation, of which one vector is made."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ApiError(400, "messages must be a list of messages", field="messages")
    if any(item.get("role") != "user" for item in value):
        raise ApiError(400, "messages: a vector is made of what the user says, not of other roles", field="messages")
    parts = [read_content(item.get("content"), f"messages[{at}].content", able) for at, item in enumerate(value)]
    return [tuple(part for message in parts for part in message)]


def _coded(vector: np.ndarray) -> str:
    """Float32, little-endian, in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(made: Vectors) -> dict[str, Any]:
    count = sum(made.total.values())
    return {"prompt_tokens": count, "total_tokens": count}


for mount in MOUNTS:
    router.add_route(f"{mount}/embeddings", embeddings, methods=["POST"])
