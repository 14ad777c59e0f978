"""Bodies of requests: read within a limit of bytes and seconds, and parsed within a limit of nesting and values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request

from castor.server.errors import ApiError

MAX_DEPTH = 64
MAX_VALUES = 1_000_000  # each costs tens of bytes of memory for two or three on the wire


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The body; ApiError 413 beyond `max_bytes`, 408 where it takes too long, 499 where the client leaves."""
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdigit():
        raise ApiError(400, f"content-length {stated[:40]!r} is not a number")
    too_large = ApiError(413, f"the request's body has more than the {max_bytes} bytes that are allowed")
    if len(stated) > 15 or int(stated) > max_bytes:
        await _let_pass(request.stream())
        raise too_large
    body, pieces = bytearray(), request.stream()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in pieces:
                body += piece
                if len(body) > max_bytes:
                    await _let_pass(pieces)  # the same stream: it may be at its end already
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the request's body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise ApiError(499, "the client closed the connection") from None
    return bytes(body)


async def _let_pass(pieces: AsyncIterator[bytes]) -> None:
    """Read on for a moment without keeping it: a client that is still sending would miss its refusal."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(2):
            async for _ in pieces:
                pass


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; ApiError 400 says what is wrong with it."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ApiError(400, f"the request's JSON has more than {MAX_VALUES} values")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, f"the request's JSON is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise ApiError(400, f"the request is not JSON: {error}"[:300]) from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the request must be a JSON object, not {type(value).__name__}")
    _check_depth(value)
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ApiError(400, f"the request's JSON is nested more than {MAX_DEPTH} levels deep")


def number(value: object, place: str, low: float, high: float) -> float:
    """A number of a request; proto JSON also writes numbers as strings."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        found = None
    if found is None or not low <= found <= high:
        raise ApiError(400, f"{place} must be a number from {low:g} to {high:g}, not {value!r:.60}", field=place)
    return found


def whole(value: object, place: str, low: int, high: int) -> int:
    """A whole number of a request; 40.0 and "40" count as well."""
    exact = value if isinstance(value, int) and not isinstance(value, bool) else number(value, place, low, high)
    if exact != int(exact) or not low <= exact <= high:
        raise ApiError(400, f"{place} must be a whole number from {low} to {high}, not {value!r:.60}", field=place)
    return int(exact)


def boolean(value: object, place: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ApiError(400, f"{place} must be true or false, not {value!r:.60}", field=place)
    return value


def texts(value: object, place: str, most: int) -> tuple[str, ...]:
    """A list of up to `most` strings, none of them empty; one string alone counts as well."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > most or not all(isinstance(x, str) and x for x in items):
        raise ApiError(400, f"{place} must be up to {most} texts, not {value!r:.60}", field=place)
    return tuple(items)
