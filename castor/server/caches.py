"""The Gemini API's cached contents: beginnings of prompts that are kept, and computed before they are asked for.

What is kept is the request's own JSON. The engine finds the keys and values of its tokens by their content; should they
have been given up for others, they are computed once more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.calls import json_fields
from castor.engine.sample import SamplingConfig
from castor.server.answering import Answerer, Query
from castor.server.errors import ApiError
from castor.server.gemini import VERSIONS, able
from castor.server.gemini_request import CACHED_KEYS, read_request
from castor.server.service import Service, json_of, model_of, page_of, service_of, while_there
from castor.server.state import Record, time_text
from castor.tokens.sequence import Sequence

KEYS = {"model", "displayName", "ttl", "expireTime", "name", *CACHED_KEYS}
DEFAULT_S, LONGEST_S = 3600.0, 7 * 24 * 3600.0
router = Router()


async def create(request: Request) -> Response:
    """POST /v1beta/cachedContents: the beginning is read and computed before this answers."""
    service, owner, body = service_of(request), request.state.owner, await json_of(request)
    try:
        fields = json_fields(body, "the request", KEYS)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    offer = service.models.find(model_of(fields))
    lasts_s = _lasts_s(fields, service.state.now_s())
    kept = {key: fields[key] for key in CACHED_KEYS if key in fields}
    make = partial(read_request, kept, able(service, owner, offer.facts), is_beginning=True)
    count = await while_there(request, _compute(service, offer.names[0], make))
    name = fields.get("displayName", "")
    if not isinstance(name, str) or len(name) > 512:
        raise ApiError(400, "displayName is a text of up to 512 letters", field="displayName")
    body = {
        "model": f"models/{offer.names[0]}",
        "displayName": name,
        "tokens": count,
        "fields": kept,
    }
    record = await asyncio.to_thread(service.state.add, "cachedContent", owner, body, lasts_s)
    return JSONResponse(_about(record))


async def _compute(service: Service, name: str, make: Any) -> int:
    """Let the engine compute a beginning; the number of its tokens."""
    async with service.models.use(name) as answerer:
        with answerer.place():
            try:
                query, sequence = await answerer.in_thread(lambda: _read(answerer, make))
            except ValueError as error:
                raise ApiError(400, str(error)) from None
            sampling = SamplingConfig(max_tokens=1)
            request = await answerer.submit(sequence, sampling, query.deadline_s)
            async for _ in request:
                pass
    return len(sequence)


def _read(answerer: Answerer, make: Any) -> tuple[Query, Sequence]:
    query: Query = make()
    sequence = answerer.render(query, reply=False)
    answerer.model.decoder.check_length(len(sequence), 1)
    return query, sequence


def _lasts_s(fields: Mapping[str, Any], now_s: float) -> float:
    ttl, end = fields.get("ttl"), fields.get("expireTime")
    lasts_s = DEFAULT_S
    if ttl is not None:
        if not isinstance(ttl, str) or not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?s", ttl):
            raise ApiError(400, f"ttl is seconds such as 300s, not {ttl!r:.40}", field="ttl")
        lasts_s = float(ttl[:-1])
    elif end is not None:
        try:
            lasts_s = datetime.fromisoformat(end).timestamp() - now_s
        except (TypeError, ValueError):
            raise ApiError(400, f"expireTime is a moment in RFC 3339, not {end!r:.40}", field="expireTime") from None
    if not 0 < lasts_s <= LONGEST_S:
        raise ApiError(400, f"a cached content is kept for up to {LONGEST_S:.0f}s, not {lasts_s:.0f}s", field="ttl")
    return lasts_s


def _about(record: Record) -> dict[str, Any]:
    return {
        "name": f"cachedContents/{record.id}",
        "model": record.body["model"],
        "displayName": record.body["displayName"],
        "createTime": time_text(record.created_s),
        "updateTime": time_text(record.updated_s),
        "expireTime": time_text(record.expires_s),
        "usageMetadata": {"totalTokenCount": record.body["tokens"]},
    }


def _record(request: Request) -> Record:
    return service_of(request).state.get("cachedContent", request.path_params["id"], request.state.owner)


async def list_all(request: Request) -> Response:
    """GET /v1beta/cachedContents."""
    records = service_of(request).state.all("cachedContent", request.state.owner)
    return JSONResponse(page_of(request, [_about(record) for record in records], "cachedContents"))


async def get(request: Request) -> Response:
    """GET /v1beta/cachedContents/ID."""
    return JSONResponse(_about(_record(request)))


async def patch(request: Request) -> Response:
    """PATCH /v1beta/cachedContents/ID: how long it is kept is all that may change."""
    record, state = _record(request), service_of(request).state
    fields = await json_of(request)
    if set(fields) - {"ttl", "expireTime", "expire_time"} or not fields:
        raise ApiError(400, "of a cached content only ttl or expireTime can be changed")
    fields = {"expireTime" if key == "expire_time" else key: value for key, value in fields.items()}
    now_s = state.now_s()
    return JSONResponse(_about(state.change(record, record.body, now_s + _lasts_s(fields, now_s))))


async def delete(request: Request) -> Response:
    """DELETE /v1beta/cachedContents/ID."""
    service_of(request).state.remove(_record(request))
    return JSONResponse({})


for version in VERSIONS:
    router.add_route(f"/{version}/cachedContents", create, methods=["POST"])
    router.add_route(f"/{version}/cachedContents", list_all, methods=["GET"])
    for method, route in (("GET", get), ("PATCH", patch), ("DELETE", delete)):
        router.add_route(f"/{version}/cachedContents/{{id}}", route, methods=[method])
