"""API keys: kept as SHA-256 digests only, compared in constant time, taken from any place a client puts them."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from starlette.requests import HTTPConnection

from castor.server.errors import ApiError


class Keys:
    """Who may ask. Without any key, everyone may."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Each is a key, or "sha256:" and its digest in hex. ValueError for an empty or a malformed one."""
        self._digests = tuple(_digest_of(key.strip()) for key in keys)

    @classmethod
    def of_file(cls, path: str | Path, more: Iterable[str] = ()) -> Keys:
        """One key or digest a line; empty lines and those that begin with # are passed over."""
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        return cls([*more, *(line for line in lines if line and not line.startswith("#"))])

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, connection: HTTPConnection) -> str:
        """Who asks: the digest of the key, "" where no keys are needed. ApiError 401 for a wrong or missing key."""
        if not self._digests:
            return ""
        offered = hashlib.sha256(_offered(connection).encode("utf-8", "surrogateescape")).digest()
        known = False
        for digest in self._digests:  # all of them, whichever fits
            known |= hmac.compare_digest(offered, digest)
        if not known:
            raise ApiError(401, "this server needs an API key: x-goog-api-key, ?key= or Authorization: Bearer")
        return offered.hex()


def _offered(connection: HTTPConnection) -> str:
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    found = connection.headers.get("x-goog-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    return found or connection.query_params.get("key", "")


def _digest_of(key: str) -> bytes:
    if not key:
        raise ValueError("an API key must not be empty")
    if key.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
            raise ValueError("after sha256: there must be 64 hexadecimal digits")
        return bytes.fromhex(key[7:])
    return hashlib.sha256(key.encode()).digest()
