"""The Gemini API's routes for batches: create, get, list, cancel, delete."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.calls import json_fields
from castor.server.bodies import parse_object
from castor.server.errors import ApiError
from castor.server.gemini import METHODS, VERSIONS
from castor.server.refusals import speaks_openai
from castor.server.service import json_of, page_of, service_of
from castor.server.state import Record

MAX_REQUESTS = 50_000
KEYS = {"displayName", "inputConfig", "model", "name", "priority"}
router = Router()


async def create_answers(request: Request, name: str) -> Response:
    """models.batchGenerateContent."""
    return await _create(request, name, embeds=False)


async def create_vectors(request: Request, name: str) -> Response:
    """models.asyncBatchEmbedContent."""
    return await _create(request, name, embeds=True)


async def _create(request: Request, name: str, *, embeds: bool) -> Response:
    service, body = service_of(request), await json_of(request)
    offer = service.models.find(name)
    if embeds and offer.facts.vector_dim is None:
        raise ApiError(400, f"{name} makes no vectors")
    try:
        batch = json_fields(json_fields(body, "the request", {"batch"}).get("batch"), "batch", KEYS)
        config = json_fields(batch.get("inputConfig"), "batch.inputConfig", {"requests", "fileName"})
        rows = await asyncio.to_thread(_rows, request, config)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    about = {
        "model": offer.names[0],
        "embeds": embeds,
        "display_name": str(batch.get("displayName", ""))[:512],
        "from_file": "fileName" in config,
    }
    record = await asyncio.to_thread(service.batches.add, request.state.owner, about, rows)
    service.batches.wake()
    return JSONResponse(service.batches.about(record))


def _rows(request: Request, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Requests and keys, each JSON, of what stands in the request or in an uploaded file."""
    if "fileName" in config:
        return _of_file(request, config["fileName"])
    requests = json_fields(config.get("requests"), "batch.inputConfig.requests", {"requests"}).get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        raise ValueError(f"batch.inputConfig.requests.requests must be a list of 1 to {MAX_REQUESTS} requests")
    rows = []
    for at, item in enumerate(requests):
        fields = json_fields(item, f"batch.inputConfig.requests.requests[{at}]", {"request", "metadata"})
        rows.append((_request(fields, f"requests[{at}]"), json.dumps(fields.get("metadata"))))
    return rows


def _of_file(request: Request, name: object) -> list[tuple[str, str]]:
    """Of lines {"key": ..., "request": {...}}."""
    if not isinstance(name, str):
        raise ValueError("batch.inputConfig.fileName must be the name of a file")
    files = service_of(request).files
    stored = files.get(name, request.state.owner)
    rows = []
    with (files.folder / stored.id).open("rb") as lines:
        for at, line in enumerate(lines, 1):
            if not line.strip():
                continue
            fields = json_fields(parse_object(line), f"{name} line {at}", {"request", "key"})
            rows.append((_request(fields, f"{name} line {at}"), json.dumps(fields.get("key"))))
            if len(rows) > MAX_REQUESTS:
                raise ValueError(f"{name}: more than {MAX_REQUESTS} requests")
    if not rows:
        raise ValueError(f"{name}: no requests")
    return rows


def _request(fields: dict[str, Any], place: str) -> str:
    if not isinstance(fields.get("request"), dict):
        raise ValueError(f"{place}.request must be an object")
    return json.dumps(fields["request"])


def _record(request: Request) -> Record:
    if speaks_openai(request):
        raise ApiError(501, "batches in OpenAI's form: not offered by this server")
    return service_of(request).state.get("batch", request.path_params["id"].partition(":")[0], request.state.owner)


async def list_all(request: Request) -> Response:
    """GET /v1beta/batches; the list is called operations."""
    service = service_of(request)
    if speaks_openai(request):
        raise ApiError(501, "batches in OpenAI's form: not offered by this server")
    page = page_of(request, service.state.all("batch", request.state.owner), "operations")
    page["operations"] = [await asyncio.to_thread(service.batches.about, record) for record in page["operations"]]
    return JSONResponse(page)


async def get(request: Request) -> Response:
    """GET /v1beta/batches/ID."""
    return JSONResponse(await asyncio.to_thread(service_of(request).batches.about, _record(request)))


async def cancel(request: Request) -> Response:
    """POST /v1beta/batches/ID:cancel."""
    if not request.path_params["id"].endswith(":cancel"):
        raise ApiError(404, "a batch can be cancelled: batches/ID:cancel")
    service_of(request).batches.cancel(_record(request))
    return JSONResponse({})


async def delete(request: Request) -> Response:
    """DELETE /v1beta/batches/ID; one that is under way ends."""
    record = _record(request)
    service_of(request).batches.cancel(record)
    service_of(request).state.remove(record)
    return JSONResponse({})


METHODS |= {"batchGenerateContent": create_answers, "asyncBatchEmbedContent": create_vectors}
for version in VERSIONS:
    router.add_route(f"/{version}/batches", list_all, methods=["GET"])
    for method, route in (("GET", get), ("POST", cancel), ("DELETE", delete)):
        router.add_route(f"/{version}/batches/{{id}}", route, methods=[method])
