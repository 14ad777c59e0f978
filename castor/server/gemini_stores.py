"""The Gemini API's routes for file search: stores, their documents, and the operations that bring documents in."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Router

from castor.calls import json_fields
from castor.server.bodies import parse_object, read_body, whole
from castor.server.errors import ApiError
from castor.server.files import Upload
from castor.server.gemini import VERSIONS
from castor.server.metadata import read_metadata
from castor.server.service import json_of, page_of, service_of
from castor.server.state import Record, time_text
from castor.server.stores import PREFIX, NewDocument, Stores
from castor.server.uploads import start_of, started

STORE_KEYS = {"displayName", "embeddingModel"}
DOCUMENT_KEYS = {"displayName", "mimeType", "customMetadata", "chunkingConfig"}
IMPORT_KEYS = {"fileName", "customMetadata", "chunkingConfig"}
MAX_WINDOW = 2048  # words of a passage that somebody may ask for
DEFAULT_WINDOW = 200
router = Router()


def _stores(request: Request) -> Stores:
    return service_of(request).file_search.stores


def _store(request: Request) -> Record:
    return _stores(request).find(request.path_params["id"], request.state.owner)


def _document(request: Request) -> tuple[Record, Record]:
    store = _store(request)
    return store, _stores(request).document(store, request.path_params["document"])


async def create(request: Request) -> Response:
    """POST /v1beta/fileSearchStores."""
    body = await read_body(request, 1 << 20, service_of(request).config.body_timeout_s)  # clients may send none
    fields = _fields(parse_object(body or b"{}"), "the request", STORE_KEYS)
    model = fields.get("embeddingModel")
    if not isinstance(model, str | None):
        raise ApiError(400, "embeddingModel is the name of a model", field="embeddingModel")
    search = service_of(request).file_search
    store = await search.create(request.state.owner, _line(fields.get("displayName", ""), "displayName"), model)
    return JSONResponse(about(search.stores, store))


async def list_all(request: Request) -> Response:
    """GET /v1beta/fileSearchStores."""
    stores = _stores(request)
    page = page_of(request, stores.all(request.state.owner), "fileSearchStores")
    page["fileSearchStores"] = [about(stores, store) for store in page["fileSearchStores"]]
    return JSONResponse(page)


async def get(request: Request) -> Response:
    """GET /v1beta/fileSearchStores/ID."""
    return JSONResponse(about(_stores(request), _store(request)))


async def delete(request: Request) -> Response:
    """DELETE /v1beta/fileSearchStores/ID; one that holds documents only with force=true."""
    stores, store = _stores(request), _store(request)
    if stores.counts(store) and not _is_forced(request):
        raise ApiError(400, f"{PREFIX}{store.id} holds documents; force=true deletes them as well", field="force")
    await asyncio.to_thread(stores.remove, store)
    return JSONResponse({})


async def import_file(request: Request) -> Response:
    """POST /v1beta/fileSearchStores/ID:importFile: a copy of an uploaded file, which may go afterwards."""
    store, fields = _store(request), _fields(await json_of(request), "the request", IMPORT_KEYS)
    if not isinstance(name := fields.get("fileName"), str):
        raise ApiError(400, "fileName is the name of an uploaded file", field="fileName")
    files, stores = service_of(request).files, _stores(request)
    stored = files.get(name, request.state.owner)
    new = NewDocument(
        display_name=stored.display_name,
        mime_type=stored.mime_type,
        metadata=_checked(read_metadata, fields.get("customMetadata")),
        window=_window(fields.get("chunkingConfig")),
        is_import=True,
    )

    def copied() -> Record:
        stores.check_room(stored.size_bytes)
        copy = files.folder / f"{stored.id}.{store.id}.part"
        try:
            shutil.copyfile(files.folder / stored.id, copy)
            return stores.add_document(store, copy, new)
        except FileNotFoundError:
            raise ApiError(404, f"files/{stored.id}: it has just gone") from None
        finally:
            copy.unlink(missing_ok=True)

    document = await asyncio.to_thread(copied)
    service_of(request).file_search.wake()
    return JSONResponse(operation(store, document))


async def begin_upload(request: Request) -> Response:
    """POST /upload/v1beta/fileSearchStores/ID:uploadToFileSearchStore: the address to send the document to."""
    store, fields = _store(request), _fields(await start_of(request), "the request", DOCUMENT_KEYS)
    make = partial(
        NewDocument,
        metadata=_checked(read_metadata, fields.pop("customMetadata", None)),
        window=_window(fields.pop("chunkingConfig", None)),
    )

    async def take(upload: Upload) -> dict[str, Any]:
        new = make(display_name=upload.display_name, mime_type=upload.mime_type)
        document = await asyncio.to_thread(_moved, _stores(request), store, upload.path, new)
        service_of(request).file_search.wake()
        return operation(store, document)

    return started(request, fields, take)


def _moved(stores: Stores, store: Record, path: Path, new: NewDocument) -> Record:
    try:
        return stores.add_document(store, path, new)
    finally:
        path.unlink(missing_ok=True)


async def list_documents(request: Request) -> Response:
    """GET /v1beta/fileSearchStores/ID/documents."""
    store = _store(request)
    page = page_of(request, _stores(request).documents(store), "documents")
    page["documents"] = [about_document(store, document) for document in page["documents"]]
    return JSONResponse(page)


async def get_document(request: Request) -> Response:
    """GET /v1beta/fileSearchStores/ID/documents/ID."""
    return JSONResponse(about_document(*_document(request)))


async def delete_document(request: Request) -> Response:
    """DELETE /v1beta/fileSearchStores/ID/documents/ID; one that has passages only with force=true."""
    store, document = _document(request)
    if document.body["state"] == "ACTIVE" and not _is_forced(request):
        message = f"{PREFIX}{store.id}/documents/{document.id} has passages; force=true deletes them as well"
        raise ApiError(400, message, field="force")
    await asyncio.to_thread(_stores(request).remove_document, store, document)
    return JSONResponse({})


async def get_operation(request: Request) -> Response:
    """GET /v1beta/fileSearchStores/ID/operations/ID: how far a document has come."""
    return JSONResponse(operation(*_document(request)))


async def get_media(request: Request) -> Response:
    """GET /v1beta/fileSearchStores/ID/media/ID: the bytes of a document, as a grounding chunk's mediaId names it."""
    store, document = _document(request)
    path = _stores(request).path(store.id, document.id)
    return FileResponse(path, media_type="application/octet-stream")


def about(stores: Stores, store: Record) -> dict[str, Any]:
    """The Gemini API's FileSearchStore."""
    counts = stores.counts(store)
    words = {"ACTIVE": "active", "PENDING": "pending", "FAILED": "failed"}
    numbers = {f"{words[name]}DocumentsCount": str(count) for name, (count, _) in counts.items()}
    return {
        "name": f"{PREFIX}{store.id}",
        "displayName": store.body["display_name"],
        "createTime": time_text(store.created_s),
        "updateTime": time_text(store.updated_s),
        **numbers,
        "sizeBytes": str(sum(size_bytes for _, size_bytes in counts.values())),
        "embeddingModel": f"models/{store.body['model']}",
    }


def about_document(store: Record, document: Record) -> dict[str, Any]:
    """The Gemini API's Document."""
    body = document.body
    return {
        "name": f"{PREFIX}{store.id}/documents/{document.id}",
        "displayName": body["display_name"],
        "customMetadata": body["metadata"],
        "state": f"STATE_{body['state']}",
        "sizeBytes": str(body["size_bytes"]),
        "mimeType": body["mime_type"],
        "createTime": time_text(document.created_s),
        "updateTime": time_text(document.updated_s),
    }


def operation(store: Record, document: Record) -> dict[str, Any]:
    """The Gemini API's operation that brings a document in; it has the document's id."""
    body, name = document.body, f"{PREFIX}{store.id}"
    found: dict[str, Any] = {"name": f"{name}{'' if body['is_import'] else '/upload'}/operations/{document.id}"}
    if body["state"] == "PENDING":
        return found
    found["done"] = True
    if body["state"] == "FAILED":
        return {**found, "error": {"code": 3, "message": body["error"], "status": "INVALID_ARGUMENT"}}
    return {**found, "response": {"parent": name, "documentName": f"{name}/documents/{document.id}"}}


def _fields(body: object, place: str, known: set[str]) -> dict[str, Any]:
    return _checked(partial(json_fields, place=place, known=known), body)


def _checked(read: Any, value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def _window(value: object) -> tuple[int, int] | None:
    """chunkingConfig: words of a passage, and how many it has in common with the one before."""
    if value is None:
        return None
    place = "chunkingConfig"
    outer: Mapping[str, Any] = _fields(value, place, {"whiteSpaceConfig"})
    if "whiteSpaceConfig" not in outer:
        return None
    place += ".whiteSpaceConfig"
    inner = _fields(outer["whiteSpaceConfig"], place, {"maxTokensPerChunk", "maxOverlapTokens"})
    most = whole(inner.get("maxTokensPerChunk", DEFAULT_WINDOW), f"{place}.maxTokensPerChunk", 1, MAX_WINDOW)
    return most, whole(inner.get("maxOverlapTokens", 0), f"{place}.maxOverlapTokens", 0, most - 1)


def _line(value: object, place: str) -> str:
    if not isinstance(value, str) or len(value) > 512 or not value.isprintable():
        raise ApiError(400, f"{place} must be a line of up to 512 letters, not {value!r:.60}", field=place)
    return value


def _is_forced(request: Request) -> bool:
    return request.query_params.get("force", "").lower() == "true"


for version in VERSIONS:
    base = f"/{version}/fileSearchStores"
    router.add_route(base, create, methods=["POST"])
    router.add_route(base, list_all, methods=["GET"])
    router.add_route(f"{base}/{{id}}:importFile", import_file, methods=["POST"])
    router.add_route(f"/upload{base}/{{id}}:uploadToFileSearchStore", begin_upload, methods=["POST"])
    router.add_route(f"{base}/{{id}}", get, methods=["GET"])
    router.add_route(f"{base}/{{id}}", delete, methods=["DELETE"])
    router.add_route(f"{base}/{{id}}/documents", list_documents, methods=["GET"])
    router.add_route(f"{base}/{{id}}/documents/{{document}}", get_document, methods=["GET"])
    router.add_route(f"{base}/{{id}}/documents/{{document}}", delete_document, methods=["DELETE"])
    router.add_route(f"{base}/{{id}}/operations/{{document}}", get_operation, methods=["GET"])
    router.add_route(f"{base}/{{id}}/upload/operations/{{document}}", get_operation, methods=["GET"])
    router.add_route(f"{base}/{{id}}/media/{{document}}", get_media, methods=["GET"])
