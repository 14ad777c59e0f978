"""The Gemini API's routes for files: resumable upload, get, list, delete, download, and use in a request."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Router

from castor.calls import json_fields
from castor.content import Part, part_from_json
from castor.media.sniff import sniff
from castor.server.bodies import parse_object, read_body, whole
from castor.server.errors import ApiError
from castor.server.fetch import FetchError
from castor.server.files import FileStore, ToStore, Upload
from castor.server.service import Service, page_of, service_of

VERSIONS = ("v1", "v1beta", "v1alpha")
OURS = re.compile(r"(?:https?://[^/]+/v1(?:beta|alpha)?/)?files/[a-z0-9-]+")
FILE_KEYS = {"name", "displayName", "mimeType", "sizeBytes", "source", "state", "uri"}
router = Router()


def open_file(service: Service, owner: str, file: Mapping[str, Any], place: str) -> Part:
    """The part that a fileData object names: an uploaded file of this client, or what an address gives."""
    fields = json_fields(file, place, {"mimeType", "fileUri", "displayName"})
    uri = fields.get("fileUri")
    is_ours = isinstance(uri, str) and OURS.fullmatch(uri) is not None
    if service.fetcher is not None and isinstance(uri, str) and not is_ours and uri[:4].lower() == "http":
        return fetched(service, uri, place, fields.get("mimeType"))
    if not is_ours or not isinstance(uri, str):
        raise ApiError(400, f"{place}: fileUri is files/ID of an uploaded file, not {uri!r:.80}", field=place)
    stored = service.files.get(uri, owner)
    found = {"fileUri": stored.id, "mimeType": fields.get("mimeType") or stored.mime_type}
    limits = service.config.limits
    return part_from_json({"fileData": found}, base_dir=service.files.folder, limits=limits, place=place)


def fetched(service: Service, url: str, place: str, mime_type: object = None) -> Part:
    """The part at an address; ApiError 400 where fetching is not allowed or fails."""
    if service.fetcher is None:
        raise ApiError(400, f"{place}: media come as data: URIs; nothing is fetched from addresses", field=place)
    try:
        content, stated = service.fetcher.fetch(url)
    except FetchError as error:
        raise ApiError(400, f"{place}: {error}", field=place) from None
    kind = mime_type or sniff(content) or stated
    blob = {"mimeType": kind, "data": base64.b64encode(content).decode(), "displayName": place}
    return part_from_json({"inlineData": blob}, limits=service.config.limits, place=place)


async def begin(request: Request) -> Response:
    """POST /upload/v1beta/files: the address to send the content to."""
    body = await start_of(request)
    try:
        file = json_fields(body.get("file", {}), "file", FILE_KEYS)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return started(request, file)


async def start_of(request: Request) -> dict[str, Any]:
    """The body of a request that starts a resumable upload; there may be none."""
    command = request.headers.get("x-goog-upload-command", "")
    if request.headers.get("x-goog-upload-protocol") != "resumable" or command != "start":
        raise ApiError(400, "uploads are resumable: X-Goog-Upload-Protocol: resumable, X-Goog-Upload-Command: start")
    return parse_object(await read_body(request, 1 << 20, service_of(request).config.body_timeout_s) or b"{}")


def started(request: Request, file: Mapping[str, Any], to_store: ToStore | None = None) -> Response:
    """A new upload, of what a body and the headers say of its file, and where its pieces go.

    With `to_store`, what it gives of the whole upload is the answer to the last piece, in place of a file.
    """
    address = f"{base_url(request)}/upload/session/"
    header = request.headers.get("x-goog-upload-header-content-length")
    size = whole(file.get("sizeBytes", header or 0) or 0, "file.sizeBytes", 0, 1 << 50)
    mime_type = file.get("mimeType") or request.headers.get("x-goog-upload-header-content-type") or ""
    name = request.headers.get("x-goog-upload-file-name", "")
    files = service_of(request).files
    secret = files.begin(
        request.state.owner,
        name=_text(file.get("name", ""), "file.name", 60),
        display_name=_text(file.get("displayName", name), "file.displayName", 512),
        mime_type=_text(mime_type, "file.mimeType", 100),
        size_bytes=size,
    )
    files.upload(secret).to_store = to_store
    url = address + secret
    headers = {"X-Goog-Upload-URL": url, "X-Goog-Upload-Control-URL": url, "X-Goog-Upload-Status": "active"}
    return Response(headers={**headers, "X-Goog-Upload-Chunk-Granularity": "1"})


async def go_on(request: Request) -> Response:
    """POST of a piece, or of a command alone. Any error ends the upload, except that a client may leave and return."""
    store, secret = service_of(request).files, request.path_params["secret"]
    upload = store.upload(secret)
    if upload.is_busy:
        raise ApiError(409, "a piece of this upload is still on its way")
    commands = {word.strip() for word in request.headers.get("x-goog-upload-command", "").split(",")}
    if not commands or commands - {"upload", "finalize", "query", "cancel"}:
        raise ApiError(400, f"X-Goog-Upload-Command {', '.join(sorted(commands))[:60]!r} is not known")
    if "cancel" in commands:
        store.cancel(secret)
        return JSONResponse({}, headers={"X-Goog-Upload-Status": "cancelled"})
    upload.is_busy = True
    try:
        if "upload" in commands:
            await _take(request, store, upload)
    except ApiError as error:
        if error.status != 499:
            store.cancel(secret)
        raise
    finally:
        upload.is_busy = False
    received = {"X-Goog-Upload-Size-Received": str(upload.num_bytes)}
    if "finalize" not in commands:
        return JSONResponse({}, headers={"X-Goog-Upload-Status": "active", **received})
    if upload.to_store is not None:
        return JSONResponse(await upload.to_store(store.take(secret)), headers={"X-Goog-Upload-Status": "final"})
    stored = store.finish(secret)
    return JSONResponse({"file": stored.to_json(base_url(request))}, headers={"X-Goog-Upload-Status": "final"})


async def _take(request: Request, store: FileStore, upload: Upload) -> None:
    offset = whole(request.headers.get("x-goog-upload-offset", "0"), "X-Goog-Upload-Offset", 0, 1 << 50)
    if offset != upload.num_bytes:
        raise ApiError(400, f"X-Goog-Upload-Offset is {offset}, but {upload.num_bytes} bytes have come")
    try:
        async for piece in request.stream():
            store.append(upload, piece)  # what has come stays, and the client may ask how much that is
    except ClientDisconnect:
        raise ApiError(499, "the client closed the connection") from None


async def list_files(request: Request) -> Response:
    """GET /v1beta/files."""
    url = base_url(request)
    files = [stored.to_json(url) for stored in service_of(request).files.all(request.state.owner)]
    return JSONResponse(page_of(request, files, "files"))


async def get_file(request: Request) -> Response:
    """GET /v1beta/files/ID, and its content at :download."""
    store, name = service_of(request).files, "files/" + request.path_params["name"]
    stored = store.get(name.removesuffix(":download"), request.state.owner)
    if name.endswith(":download"):
        return FileResponse(store.folder / stored.id, media_type="application/octet-stream")
    return JSONResponse(stored.to_json(base_url(request)))


async def delete_file(request: Request) -> Response:
    """DELETE /v1beta/files/ID."""
    service_of(request).files.delete("files/" + request.path_params["name"], request.state.owner)
    return JSONResponse({})


def base_url(request: Request) -> str:
    """The address under which the client reaches this server; ApiError 400 where it states none that is usable."""
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9A-Fa-f:]+\](?::\d{1,5})?", host):
        raise ApiError(400, "the Host header is missing or not an address")
    return f"{request.scope['scheme']}://{host}"


def _text(value: object, place: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ApiError(400, f"{place} must be a line of up to {most} letters, not {value!r:.60}", field=place)
    return value


for version in VERSIONS:
    router.add_route(f"/upload/{version}/files", begin, methods=["POST"])
    router.add_route(f"/{version}/files", list_files, methods=["GET"])
    router.add_route(f"/{version}/files/{{name:path}}", get_file, methods=["GET"])
    router.add_route(f"/{version}/files/{{name:path}}", delete_file, methods=["DELETE"])
router.add_route("/upload/session/{secret}", go_on, methods=["POST"])
