"""What a server counts for Prometheus, and its log: a JSON object a line, never anything that a user wrote."""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from castor.server.answering import Tokens
from castor.server.models import Models

LOG = logging.getLogger("castor.server")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Measures:
    """The counters of one server."""

    def __init__(self, models: Models) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("castor_requests", "requests", ["route", "status"], registry=registry)
        self.seconds = Histogram("castor_request_seconds", "of requests", ["route"], buckets=SECONDS, registry=registry)
        self.tokens = Counter("castor_tokens", "tokens", ["direction", "modality"], registry=registry)
        self.first_token = Histogram(
            "castor_first_part_seconds", "from a request's place to its first part", buckets=SECONDS, registry=registry
        )
        queue = Gauge("castor_requests_inside", "requests that are answered or wait for it", registry=registry)
        queue.set_function(lambda: sum(answerer.num_inside for answerer in models.answerers))
        loaded = Gauge("castor_model_loaded", "whether a model is in memory", ["model"], registry=registry)
        for offer in models.offers:
            loaded.labels(offer.names[0]).set_function(lambda offer=offer: float(offer.answerer is not None))
        ProcessCollector(registry=registry)
        self.reused = Counter("castor_reused_tokens", "of prompts, known from earlier ones", registry=registry)
        self.vectors = Counter("castor_vectors", "vectors that were made", registry=registry)

    def count_tokens(self, direction: str, tokens: Tokens) -> None:
        """Add tokens that were read ("prompt") or said ("answer")."""
        for modality, count in tokens.items():
            if count:
                self.tokens.labels(direction, modality).inc(count)

    def page(self) -> bytes:
        """All of them in Prometheus's text form."""
        return generate_latest(self._registry)


class Watch:
    """Counts and logs every request, and gives it an id."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self.app, self.measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started_s, status = secrets.token_hex(8), time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = route_of(scope)
            seconds = time.monotonic() - started_s
            self.measures.requests.labels(route, str(status)).inc()
            self.measures.seconds.labels(route).observe(seconds)
            said = {"request": request_id, "route": route, "status": status, "seconds": round(seconds, 4)}
            LOG.info("request", extra={"fields": said})


def route_of(scope: Scope) -> str:
    """What was asked for, as a word from this program and not from the client."""
    method = scope.get("state", {}).get("method")
    return str(method or getattr(scope.get("endpoint"), "__name__", "none"))


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time in UTC, level, text, the fields of the record, and an exception's traceback where there is one."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Write the server's log, and what uvicorn says from warnings on, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("castor.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(level)
