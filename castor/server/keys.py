"""API keys: kept as SHA-256 digests only, compared in constant time, taken from any place a client puts them.

A key may be for some things alone, and may be limited to so many requests a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection

from castor.server.errors import ApiError

SCOPES = {  # what a key may be for, and the addresses of that; whatever is left is "answers"
    "vectors": re.compile(r".*:(?:embedContent|batchEmbedContents|asyncBatchEmbedContent)|.*/embeddings", re.DOTALL),
    "files": re.compile(r"/upload/.*|/v1(?:beta|alpha)?/(?:files|cachedContents|fileSearchStores)(?:/.*)?", re.DOTALL),
    "metrics": re.compile(r"/metrics"),
    "": re.compile(r"/docs|/openapi\.json|/(?:[a-z0-9/]+/)?models(?:/[^:]*)?"),  # any key may read these
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key by its digest; what it may be used for (nothing named: everything), and how often (0: no limit)."""

    digest: bytes
    scopes: frozenset[str] = frozenset()
    per_minute: int = 0


class Keys:
    """Who may ask for what. Without any key, everyone may ask for everything."""

    def __init__(self, keys: Iterable[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """Each is a key, or "sha256:" and its digest in hex, and then may say scopes=answers,vectors and rate=60.

        ValueError for an empty or a malformed one.
        """
        self._keys = tuple(_key_of(key.strip()) for key in keys)
        self._clock, self._left = clock, {key.digest: (float(key.per_minute), clock()) for key in self._keys}

    @classmethod
    def of_file(cls, path: str | Path, more: Iterable[str] = ()) -> Keys:
        """One a line; empty lines and those that begin with # are passed over."""
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        return cls([*more, *(line for line in lines if line and not line.startswith("#"))])

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, connection: HTTPConnection) -> str:
        """Who asks: the digest of the key, "" where no keys are needed.

        ApiError 401 for a wrong or missing key, 403 for one that is not for this, 429 for one that asks too often.
        """
        if not self._keys:
            return ""
        offered = hashlib.sha256(_offered(connection).encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:  # all of them, whichever fits
            found = key if hmac.compare_digest(offered, key.digest) else found
        if found is None:
            raise ApiError(401, "this server needs an API key: x-goog-api-key, ?key= or Authorization: Bearer")
        self._check(found, connection.scope["path"])
        return offered.hex()

    def _check(self, key: Key, path: str) -> None:
        scope = next((name for name, pattern in SCOPES.items() if pattern.fullmatch(path)), "answers")
        if key.scopes and scope and scope not in key.scopes:
            raise ApiError(403, f"this key is for {', '.join(sorted(key.scopes))}, and not for {scope}")
        if not key.per_minute:
            return
        left, at_s = self._left[key.digest]
        now_s = self._clock()
        left = min(float(key.per_minute), left + (now_s - at_s) * key.per_minute / 60)
        if left < 1:
            wait_s = (1 - left) * 60 / key.per_minute
            raise ApiError(429, f"this key may ask {key.per_minute} times a minute", retry_after_s=wait_s)
        self._left[key.digest] = (left - 1, now_s)


def _key_of(line: str) -> Key:
    words = line.split()
    digest, scopes, rate = _digest_of(words[0] if words else ""), frozenset[str](), 0
    for word in words[1:]:
        name, _, value = word.partition("=")
        if name == "scopes" and value and not set(value.split(",")) - {*SCOPES, "answers"} - {""}:
            scopes = frozenset(value.split(","))
        elif name == "rate" and value.isascii() and value.isdigit() and 1 <= int(value) <= 1_000_000:
            rate = int(value)
        else:
            message = f"after a key there may be scopes=answers,vectors,files,metrics and rate=N, not {word[:60]!r}"
            raise ValueError(message)
    return Key(digest=digest, scopes=scopes, per_minute=rate)


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
