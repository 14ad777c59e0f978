"""Errors as the two kinds of clients expect them: Google's form and OpenAI's."""

from __future__ import annotations

import math
from typing import Any

GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    411: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
OPENAI_TYPE = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused: an HTTP status, a sentence, and the field at fault where there is one."""

    def __init__(
        self, status: int, message: str, *, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.retry_after_s = status, message, field, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the answer; OpenAI's client would ask again after every 5xx."""
        headers = {"x-should-retry": "false"} if self.status == 501 else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


def google_error(error: ApiError) -> dict[str, Any]:
    """{"error": {"code", "message", "status", "details"}}."""
    details: list[dict[str, Any]] = []
    if error.field is not None:
        violation = {"field": error.field, "description": error.message}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    if error.retry_after_s is not None:
        delay = f"{max(1, math.ceil(error.retry_after_s))}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    status = GOOGLE_STATUS.get(error.status, "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    body = {"code": error.status, "message": error.message, "status": status}
    return {"error": {**body, "details": details} if details else body}


def openai_error(error: ApiError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}."""
    kind = OPENAI_TYPE.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    code = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}.get(error.status)
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": code}}
