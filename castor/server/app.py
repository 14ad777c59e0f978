"""The application: routes, who may ask, and one form of error for each kind of client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from castor.engine.model import Model
from castor.server import (
    caches,
    gemini,
    gemini_batches,
    gemini_stores,
    health,
    interactions,
    openai,
    openai_media,
    openai_vectors,
    openapi,
    playground,
    uploads,
)
from castor.server.batches import Batches
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.server.fetch import Fetcher
from castor.server.file_search import FileSearch
from castor.server.files import FileStore
from castor.server.keys import Keys
from castor.server.measures import LOG, Measures, Watch
from castor.server.models import Models, Offer
from castor.server.not_offered import KEEPING, not_offered
from castor.server.refusals import error_response
from castor.server.safety import Classifier
from castor.server.service import Service
from castor.server.state import State

ROUTES = (
    gemini,
    openai,
    openai_vectors,
    openai_media,
    caches,
    gemini_batches,
    gemini_stores,
    interactions,
    uploads,
    health,
    openapi,
    playground,
)


def create_app(offered: Model | list[Offer], config: ServerConfig | None = None, keys: Keys | None = None) -> Starlette:
    """An ASGI application that answers with a model, under the config's names, or with several.

    Its state's `service` is a Service.
    """
    config = config or ServerConfig()
    offers = offered if isinstance(offered, list) else [Offer.of_model(offered, config.names)]
    models = Models(offers, config)
    measures = Measures(models)
    files = FileStore(config)
    state = State(files.folder / "state.sqlite", max_bytes=config.state_bytes)
    service = Service(models=models, config=config, files=files, measures=measures, state=state)
    service.batches, service.file_search = Batches(service), FileSearch(service)
    service.classifier = Classifier.shipped() if config.rates_safety else None
    service.fetcher = Fetcher(max_bytes=config.file_bytes) if config.allows_fetch else None

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        tasks = [asyncio.create_task(work()) for work in (models.watch, service.batches.run, service.file_search.run)]
        for task in tasks:
            task.add_done_callback(_tell)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        models.close()
        service.file_search.stores.close()
        state.close()
        files.close()

    app = Starlette(lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.service = service
    for routes in ROUTES:
        app.router.routes.extend(routes.router.routes)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, service=service, keys=keys or Keys())
    app.add_middleware(Watch, measures=measures)
    if config.cors:
        exposed = ["x-goog-upload-url", "x-goog-upload-status", "x-request-id", "retry-after"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=exposed,
            max_age=600,
        )
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
            if self.service.config.is_replica and KEEPING.fullmatch(connection.scope["path"]):
                raise ApiError(501, "one of several replicas keeps nothing between requests")
            if self.service.is_draining and not is_open:
                raise ApiError(503, "this server is shutting down", retry_after_s=5)
        except ApiError as error:
            await error_response(connection, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _tell(task: asyncio.Task[None]) -> None:
    """Say in the log that work in the background ended by an error."""
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("work in the background ended", exc_info=error)


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
