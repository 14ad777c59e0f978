"""Routes for those who run the server: alive, ready, measured."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from castor.server.service import service_of

router = APIRouter()


async def healthz(request: Request) -> Response:
    """GET /healthz: the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """GET /readyz: 503 once the server is shutting down or can take no more requests."""
    service = service_of(request)
    if service.is_draining or service.answerer.is_full:
        return JSONResponse({"status": "draining" if service.is_draining else "full"}, 503)
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(service_of(request).measures.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


router.add_route("/healthz", healthz, methods=["GET"])
router.add_route("/readyz", readyz, methods=["GET"])
router.add_route("/metrics", metrics, methods=["GET"])
