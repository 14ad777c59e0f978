"""The application: routes, who may ask, and one form of error for each kind of client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from castor.engine.model import Model
from castor.server import gemini, health, openai, playground, uploads
from castor.server.answering import Answerer
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.server.files import FileStore
from castor.server.keys import Keys
from castor.server.measures import Measures, Watch
from castor.server.not_offered import not_offered
from castor.server.refusals import error_response
from castor.server.service import Service


def create_app(model: Model, config: ServerConfig | None = None, keys: Keys | None = None) -> FastAPI:
    """An ASGI application that answers with `model`; its state's `service` is a Service."""
    config = config or ServerConfig()
    answerer = Answerer(model, max_rows=config.max_rows, max_waiting=config.max_waiting, limits=config.limits)
    measures = Measures(lambda: answerer.num_inside)
    service = Service(answerer=answerer, config=config, files=FileStore(config), measures=measures)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        answerer.close()
        service.files.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.service = service
    for routes in (gemini.router, openai.router, uploads.router, health.router, playground.router):
        app.router.routes.extend(routes.routes)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, service=service, keys=keys or Keys())
    app.add_middleware(Watch, measures=measures)
    return app


class Guard:
    """Lets those pass who have a key, where one is needed; refuses new requests once the server is ending."""

    OPEN = ("/healthz", "/readyz", "/upload/session/")  # the clients send no key with the pieces of an upload

    def __init__(self, app: ASGIApp, service: Service, keys: Keys) -> None:
        self.app, self.service, self.keys = app, service, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        path = connection.scope["path"]
        is_open = path.startswith(self.OPEN) or playground.is_open(path)
        try:
            scope.setdefault("state", {})["owner"] = "" if is_open else self.keys.owner(connection)
            if self.service.is_draining and not is_open:
                raise ApiError(503, "this server is shutting down", retry_after_s=5)
        except ApiError as error:
            await error_response(connection, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def _refused(request: Request, error: Any) -> Response:
    if error.status in (404, 405) and (what := not_offered(request.scope["path"])) is not None:
        error = ApiError(501, f"{what}: not offered by this server")
    return error_response(request, error)


async def _no_route(request: Request, error: Any) -> Response:
    path = request.scope["path"]
    message = {404: f"there is nothing at {path[:200]}", 405: f"{request.method} is not for {path[:200]}"}
    return await _refused(request, ApiError(error.status_code, message.get(error.status_code, str(error.detail))))


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(request, ApiError(500, "the server failed at this request; its log says why"))
