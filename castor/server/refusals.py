"""Which client is speaking, and a refusal in its form."""

from __future__ import annotations

import re

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from castor.server.errors import ApiError, google_error, openai_error

_OPENAI_PATHS = re.compile(
    r"/openai/.*|/v1beta/openai/.*"
    r"|/v1/(?:chat|completions|embeddings|images|audio|videos|responses|moderations|fine_tuning|assistants|threads"
    r"|vector_stores|uploads|realtime|evals)(?:/.*)?",
    re.DOTALL,
)


def speaks_openai(connection: HTTPConnection) -> bool:
    """Whether a client is OpenAI's: by the path, and where both have that path, by the headers."""
    path = connection.scope["path"]
    if _OPENAI_PATHS.fullmatch(path):
        return True
    is_google = {"x-goog-api-key", "x-goog-api-client"} & set(connection.headers) or "key" in connection.query_params
    shared = path.startswith("/v1/") and ":" not in path.rpartition("/")[2]
    return shared and not is_google and "authorization" in connection.headers


def error_response(connection: HTTPConnection, error: ApiError) -> JSONResponse:
    """A refusal in the form that the client reads, in at most a few hundred letters.

    Of an upload it also says that it is over: without that, Google's clients try again for seconds.
    """
    error = ApiError(error.status, error.message[:800], field=error.field, retry_after_s=error.retry_after_s)
    body = openai_error(error) if speaks_openai(connection) else google_error(error)
    headers = error.headers
    if "/upload/" in connection.scope["path"]:
        headers["x-goog-upload-status"] = "cancelled"
    return JSONResponse(body, error.status, headers=headers)
