"""What this server answers, as an OpenAPI document and as one page without outside parts; made from its routes.

A body's fields are those that the route knows; a field that is not among them is refused there.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router

from castor import __version__
from castor.server import caches, gemini_stores, gemini_vectors, interaction_forms, openai_media, openai_request
from castor.server import openai_vectors as embeddings
from castor.server.gemini import METHODS, VERSIONS, post_model
from castor.server.gemini_request import REQUEST_KEYS

BODIES = {  # the fields of each body, by the name of the route or method
    "generateContent": REQUEST_KEYS,
    "streamGenerateContent": REQUEST_KEYS,
    "countTokens": {*REQUEST_KEYS, "generateContentRequest"},
    "embedContent": gemini_vectors.KEYS,
    "batchEmbedContents": {"requests", "model"},
    "batchGenerateContent": {"batch"},
    "asyncBatchEmbedContent": {"batch"},
    "cachedContents": caches.KEYS,
    "interactions": interaction_forms.KNOWN,
    "chat/completions": openai_request.KNOWN,
    "embeddings": embeddings.KNOWN,
    "images/generations": openai_media.DRAW_KEYS,
    "audio/transcriptions": openai_media.SPEECH_KEYS,
    "moderations": {"model", "input"},
    "files": {"file"},
    "fileSearchStores": gemini_stores.STORE_KEYS,
    "importFile": gemini_stores.IMPORT_KEYS,
    "uploadToFileSearchStore": gemini_stores.DOCUMENT_KEYS,
}
router = Router()


def document(routes: list[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, endpoint in sorted(_addresses(routes), key=lambda entry: entry[:2]):
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, endpoint)
    schemes = {
        "google": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Castor", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": [{}, {"google": []}, {"bearer": []}],
    }


def _addresses(routes: list[Route]) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Address, method and function of all of them; those of a model one for each of its methods."""
    for route in routes:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            if route.endpoint is post_model:
                for name, endpoint in METHODS.items():
                    yield path.replace("{rest}", f"{{model}}:{name}"), method, endpoint
            else:
                yield path, method, route.endpoint


def _operation(path: str, method: str, endpoint: Callable[..., Any]) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    summary = (endpoint.__doc__ or "").strip().partition("\n")[0]
    operation: dict[str, Any] = {"summary": summary, "parameters": parameters, "responses": {}}
    operation["responses"]["200"] = {"description": "as the client of this API expects it"}
    operation["responses"]["4XX"] = {"description": "what is wrong, with the field at fault, in that API's form"}
    if method in ("POST", "PATCH") and (fields := _fields(path)) is not None:
        kind = "multipart/form-data" if path.endswith("transcriptions") else "application/json"
        schema = {"type": "object", "properties": {name: {} for name in sorted(fields)}, "additionalProperties": False}
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return operation


def _fields(path: str) -> set[str] | None:
    if path.endswith("/cachedContents/{id}"):
        return {"ttl", "expireTime"}
    tail = (
        path.rpartition(":")[2]
        if ":" in path
        else re.sub(rf"^(?:/upload)?/(?:openai/|{'|'.join(VERSIONS)})/?", "", path)
    )
    tail = re.sub(r"^(?:v1|openai)/", "", tail)
    return set(BODIES[tail]) if tail in BODIES else None


async def as_json(request: Request) -> Response:
    """GET /openapi.json."""
    return JSONResponse(document(_routes(request)))


async def as_page(request: Request) -> Response:
    """GET /docs: the same for people."""
    rows = [
        f"<tr><td>{method.upper()}<td><code>{html.escape(path)}</code><td>{html.escape(operation['summary'])}"
        for path, operations in document(_routes(request))["paths"].items()
        for method, operation in operations.items()
    ]
    style = "body{font:15px system-ui;margin:2rem;color-scheme:light dark}td{padding:.2rem .8rem .2rem 0}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Castor</title><style>{style}</style>'
    return HTMLResponse(f"{head}<h1>Castor {__version__}</h1><table>{''.join(rows)}</table></html>")


def _routes(request: Request) -> list[Route]:
    return [route for route in request.app.router.routes if isinstance(route, Route)]


router.add_route("/openapi.json", as_json, methods=["GET"])
router.add_route("/docs", as_page, methods=["GET"])
