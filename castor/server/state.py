"""State: what a server keeps between requests, in one SQLite file beside the uploads.

Cached contents, interactions and batches are records of JSON with an owner and a time at which they go. Requests of a
batch have a table of their own. Where the folder of uploads is kept, so is this, over restarts.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from castor.server.errors import ApiError

MAX_RECORDS = 10_000  # of one kind
_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT, id TEXT, owner TEXT, body TEXT, created_s REAL, updated_s REAL, expires_s REAL, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS batch_rows (
    batch TEXT, number INTEGER, request TEXT, key TEXT, answer TEXT, PRIMARY KEY (batch, number));
"""
# Records of a kind, and bytes of the file that are in use.
_USED = """
SELECT (SELECT COUNT(*) FROM records WHERE kind = ?), (page_count - freelist_count) * page_size
FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size();
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Something that is kept, under kind and id."""

    kind: str
    id: str
    owner: str
    body: dict[str, Any]
    created_s: float
    updated_s: float
    expires_s: float


class State:
    """The records of one server. Every method may be called from any thread."""

    def __init__(self, path: Path, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """`max_bytes` of all records together; 429 beyond."""
        self._clock, self._max_bytes, self._lock = clock, max_bytes, threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """One statement of SQL, by itself a transaction."""
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    def add(
        self,
        kind: str,
        owner: str,
        body: dict[str, Any],
        lasts_s: float,
        rows: Sequence[tuple[str, str]] = (),
        record_id: str = "",
    ) -> Record:
        """Keep something for `lasts_s` seconds; ApiError 429 where too much is kept already.

        `rows` are the requests of a batch with their keys, both JSON.
        """
        self.purge()
        text = json.dumps(body)
        used = self.run(_USED, kind)[0]
        if used[0] >= MAX_RECORDS or used[1] + len(text) + sum(len(request) for request, _ in rows) > self._max_bytes:
            raise ApiError(429, f"too many {kind}s, or too large ones, are kept here; delete some first")
        now_s, record_id = self._clock(), record_id or secrets.token_hex(12)
        values = (kind, record_id, owner, text, now_s, now_s, now_s + lasts_s)
        with self._lock, self._transaction():
            self._db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            statement = "INSERT INTO batch_rows VALUES (?, ?, ?, ?, NULL)"
            self._db.executemany(statement, [(record_id, at, *row) for at, row in enumerate(rows)])
        return self.get(kind, record_id, owner)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN")
        try:
            yield
        except sqlite3.Error:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def get(self, kind: str, record_id: str, owner: str | None) -> Record:
        """A record; ApiError 404 where this owner (None: anybody) has none of that id."""
        columns = "kind, id, owner, body, created_s, updated_s, expires_s"
        found = self.run(f"SELECT {columns} FROM records WHERE kind = ? AND id = ?", kind, record_id)
        record = _record(found[0]) if found else None
        if record is None or record.expires_s <= self._clock() or owner not in (None, record.owner):
            raise ApiError(404, f"{kind} {record_id[:60]!r}: there is none of that name; it may have expired")
        return record

    def all(self, kind: str, owner: str) -> list[Record]:
        """Records of one kind and owner, the newest first."""
        columns = "kind, id, owner, body, created_s, updated_s, expires_s"
        order = "ORDER BY created_s DESC, id"
        statement = f"SELECT {columns} FROM records WHERE kind = ? AND owner = ? AND expires_s > ? {order}"
        return [_record(row) for row in self.run(statement, kind, owner, self._clock())]

    def change(self, record: Record, body: dict[str, Any], expires_s: float | None = None) -> Record:
        """The record with another body, and with another end where one is given."""
        expires_s, now_s = record.expires_s if expires_s is None else expires_s, self._clock()
        statement = "UPDATE records SET body = ?, updated_s = ?, expires_s = ? WHERE kind = ? AND id = ?"
        self.run(statement, json.dumps(body), now_s, expires_s, record.kind, record.id)
        return self.get(record.kind, record.id, record.owner)

    def remove(self, record: Record) -> None:
        """Forget a record, and its rows if it is a batch."""
        self.run("DELETE FROM records WHERE kind = ? AND id = ?", record.kind, record.id)
        self.run("DELETE FROM batch_rows WHERE batch = ?", record.id)

    def purge(self) -> None:
        """Forget what has expired."""
        now_s = self._clock()
        self.run("DELETE FROM records WHERE expires_s <= ?", now_s)
        self.run("DELETE FROM batch_rows WHERE batch NOT IN (SELECT id FROM records WHERE kind = 'batch')")

    def now_s(self) -> float:
        """Seconds since 1970, by this state's clock."""
        return self._clock()


def _record(row: tuple[Any, ...]) -> Record:
    kind, record_id, owner, body, created_s, updated_s, expires_s = row
    return Record(
        kind=kind,
        id=record_id,
        owner=owner,
        body=json.loads(body),
        created_s=created_s,
        updated_s=updated_s,
        expires_s=expires_s,
    )


def time_text(seconds: float) -> str:
    """A moment as both APIs write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
