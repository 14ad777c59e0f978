"""The Gemini API's methods for vectors: one vector for each request, of all parts of its content together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from castor.calls import json_fields
from castor.server.bodies import whole
from castor.server.errors import ApiError
from castor.server.gemini_reply import details
from castor.server.gemini_request import Abilities, read_parts
from castor.server.service import deadline_of, json_of, service_of, while_there
from castor.server.vectors import Vectors, Wish, embed, with_task

KEYS = {"model", "content", "taskType", "title", "outputDimensionality"}


def read_wish(value: object, place: str, name: str, able: Abilities) -> Wish:
    """An EmbedContentRequest; `place` ends in a dot or is empty. ValueError or ApiError names a wrong field."""
    fields = json_fields(value, place.rstrip(".") or "the request", KEYS)
    model = fields.get("model", name)
    if not isinstance(model, str) or model.removeprefix("models/") != name:
        raise ApiError(400, f"{place}model={model!r:.60} is not the model of the address", field=f"{place}model")
    parts = read_parts(fields.get("content"), f"{place}content", able)
    size = fields.get("outputDimensionality")
    dimensions = None if size is None else whole(size, f"{place}outputDimensionality", 1, 2**31)
    parts = with_task(parts, fields.get("taskType"), fields.get("title"), place)
    return Wish(parts=parts, dimensions=dimensions)


def read_wishes(body: Mapping[str, Any], name: str, able: Abilities, most: int) -> list[Wish]:
    """The body of batchEmbedContents."""
    requests = json_fields(body, "the request", {"requests", "model"}).get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= most:
        raise ApiError(400, f"requests must be a list of 1 to {most} requests", field="requests")
    return [read_wish(item, f"requests[{at}].", name, able) for at, item in enumerate(requests)]


async def embed_content(request: Request, name: str, able: Abilities) -> Response:
    """models.embedContent."""
    body = await json_of(request)
    make, deadline_s = (lambda: [read_wish(body, "", name, able)]), deadline_of(request)
    work = embed(service_of(request), name, make, deadline_s=deadline_s)
    made = await while_there(request, work)
    return JSONResponse({"embedding": {"values": made.values[0].tolist()}, **_usage(made)})


async def batch_embed_contents(request: Request, name: str, able: Abilities) -> Response:
    """models.batchEmbedContents."""
    service, body = service_of(request), await json_of(request)
    make = partial(read_wishes, body, name, able, service.config.max_vectors)
    made = await while_there(request, embed(service, name, make, deadline_s=deadline_of(request)))
    return JSONResponse({"embeddings": [{"values": vector.tolist()} for vector in made.values], **_usage(made)})


def _usage(made: Vectors) -> dict[str, Any]:
    total = made.total
    by_modality = details(total)
    return {"usageMetadata": {"promptTokenCount": sum(total.values()), "promptTokensDetails": by_modality}}
