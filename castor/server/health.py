"""Routes for those who run the server: alive, ready, measured."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from castor.server.service import service_of

router = Router()


async def healthz(request: Request) -> Response:
    """GET /healthz: the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """GET /readyz: 503 once the server is shutting down, an engine has failed, or it can take no more requests."""
    service = service_of(request)
    loaded = service.models.answerers
    is_failed = any(answerer.engine.is_closed for answerer in loaded)
    is_full = bool(loaded) and all(answerer.is_full for answerer in loaded)
    hindrances = {"draining": service.is_draining, "failed": is_failed, "full": is_full}
    hindrance = next((name for name, is_so in hindrances.items() if is_so), None)
    return JSONResponse({"status": hindrance or "ready"}, 503 if hindrance else 200)


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(service_of(request).measures.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


router.add_route("/healthz", healthz, methods=["GET"])
router.add_route("/readyz", readyz, methods=["GET"])
router.add_route("/metrics", metrics, methods=["GET"])
