"""The playground: a page at / that talks to this server's own routes.

Its files lie in `page`, and nothing comes from outside. The page is open to everyone; what it asks for needs a key
wherever the server wants one.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router

PAGE = Path(__file__).parent / "page"
SAMPLES = Path(__file__).parent.parent / "samples"
PREFIX = "/playground/"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".wav": "audio/wav",
    ".mp4": "video/mp4",
}
HEADERS = {
    # Scripts and styles are files of this server alone: whatever a model writes, nothing of it can run.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
router = Router()


class File(NamedTuple):
    """One file of the page, ready to be sent."""

    content: bytes
    kind: str
    tag: str


@functools.cache
def files() -> dict[str, File]:
    """All files by the name in their address: those of the page, and the samples that can be tried."""
    found = {}
    for folder in (PAGE, SAMPLES):
        for path in sorted(folder.iterdir()):
            if path.suffix in KINDS:
                content = path.read_bytes()
                tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
                found[path.name] = File(content, KINDS[path.suffix], tag)
    return found


def is_open(path: str) -> bool:
    """Whether an address is the page's own, which is shown without a key."""
    return path == "/" or path.startswith(PREFIX)


async def playground(request: Request) -> Response:
    """GET / and /playground/NAME; 304 where the browser has the file already."""
    file = files().get(request.path_params.get("name", "index.html"))
    if file is None:
        raise HTTPException(404)
    headers = {**HEADERS, "etag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.kind})


router.add_route("/", playground, methods=["GET"])
router.add_route(PREFIX + "{name}", playground, methods=["GET"])
