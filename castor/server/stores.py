"""File search stores: their documents as records and files, and an index of each store's passages, in one folder.

    stores/ID/index.db         passages, words and vectors (castor.index)
    stores/ID/documents/DOC    the bytes of a document, as they came

What there is, is what the records say. Files and passages that no record speaks of, left by a server that died, go at
the next start.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.index.index import Index
from castor.index.store import Entry, FileState, Header, Store
from castor.server.errors import ApiError
from castor.server.state import Record, State

KIND = "fileSearchStore"
ALWAYS_S = 100 * 365 * 86_400.0  # stores stay until somebody deletes them
PREFIX = "fileSearchStores/"


@dataclass(frozen=True, kw_only=True)
class NewDocument:
    """What is known of a document that comes in."""

    display_name: str
    mime_type: str
    metadata: list[dict[str, Any]]  # as the API has it
    window: tuple[int, int] | None  # words of a passage, and how many of them are those of the one before
    is_import: bool = False  # of an uploaded file rather than an upload of its own


class Stores:
    """The stores of one server. Every method may be called from any thread."""

    def __init__(self, state: State, folder: Path, max_bytes: int) -> None:
        """`max_bytes` of all documents and indexes together."""
        self._state, self.folder, self._max_bytes, self._lock = state, folder, max_bytes, threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Let what is being written be written, and nothing more."""
        with self._lock:
            self._is_closed = True

    def add(self, owner: str, display_name: str, header: Header) -> Record:
        """A new store, whose vectors will be as the header says."""
        body = {"display_name": display_name, "model": header.model, "identity": header.identity}
        record_id = _id_of(display_name)
        folder = self.folder / record_id
        with self._lock:
            (folder / "documents").mkdir(parents=True, mode=0o700)
            Store.open(folder, header).close()
            try:
                return self._state.add(KIND, owner, body, ALWAYS_S, record_id=record_id)
            except ApiError:
                shutil.rmtree(folder)
                raise

    def find(self, name: str, owner: str) -> Record:
        """The store of that name; ApiError 404 where this owner has none."""
        return self._state.get(KIND, name.removeprefix(PREFIX), owner)

    def all(self, owner: str) -> list[Record]:
        """The stores of an owner, the newest first."""
        return self._state.all(KIND, owner)

    def remove(self, store: Record) -> None:
        """A store with all that is in it."""
        with self._lock:
            self._state.run("DELETE FROM records WHERE kind = ?", documents_of(store.id))
            self._state.remove(store)
            shutil.rmtree(self.folder / store.id, ignore_errors=True)

    def documents(self, store: Record) -> list[Record]:
        """The documents of a store, the newest first."""
        return self._state.all(documents_of(store.id), store.owner)

    def document(self, store: Record, document_id: str) -> Record:
        """One of them; ApiError 404 where there is none of that name."""
        return self._state.get(documents_of(store.id), document_id, store.owner)

    def counts(self, store: Record) -> dict[str, tuple[int, int]]:
        """How many documents, and how many bytes of them, are in each state."""
        columns = "json_extract(body, '$.state'), COUNT(*), SUM(json_extract(body, '$.size_bytes'))"
        rows = self._state.run(f"SELECT {columns} FROM records WHERE kind = ? GROUP BY 1", documents_of(store.id))
        return {name: (count, size_bytes) for name, count, size_bytes in rows}

    def check_room(self, more_bytes: int) -> None:
        """ApiError 429 where so much more cannot be kept."""
        used = 0
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # it may go meanwhile
                used += path.stat().st_size
        if used + more_bytes > self._max_bytes:
            raise ApiError(429, f"file search stores may have {self._max_bytes} bytes together; delete some first")

    def add_document(self, store: Record, path: Path, new: NewDocument) -> Record:
        """A file, which is moved into the store, as a document that waits to be brought in."""
        size_bytes = path.stat().st_size
        self.check_room(size_bytes)
        body = {
            "display_name": new.display_name,
            "mime_type": new.mime_type,
            "metadata": new.metadata,
            "window": new.window,
            "is_import": new.is_import,
            "size_bytes": size_bytes,
            "state": "PENDING",
        }
        record_id = _id_of(new.display_name)
        with self._lock:
            self._state.get(KIND, store.id, store.owner)  # it may have gone meanwhile
            kept = self.path(store.id, record_id)
            path.replace(kept)
            try:
                record = self._state.add(documents_of(store.id), store.owner, body, ALWAYS_S, record_id=record_id)
            except ApiError:
                kept.unlink()
                raise
            self._state.change(store, store.body)  # the time of its last change
        return record

    def remove_document(self, store: Record, document: Record) -> None:
        """A document with its passages."""
        with self._lock:
            self._state.remove(document)
            self.path(store.id, document.id).unlink(missing_ok=True)
            with self.index(store) as index:
                index.store.forget([within(document.id)])
                index.store.sweep()
            self._state.change(store, store.body)

    def path(self, store_id: str, document_id: str) -> Path:
        """Where a document's bytes lie."""
        return self.folder / store_id / within(document_id)

    @contextmanager
    def index(self, store: Record) -> Generator[Index]:
        """A store's index, open for as long as the block runs; ApiError 404 where the store has just gone."""
        try:
            index = Index(self.folder / store.id)
        except ValueError:
            raise ApiError(404, f"{PREFIX}{store.id} is gone or cannot be read") from None
        try:
            yield index
        finally:
            index.close()

    def waiting(self) -> tuple[Record, Record] | None:
        """The document that has waited longest, with its store."""
        is_waiting = "kind LIKE ? AND json_extract(body, '$.state') = 'PENDING'"
        statement = f"SELECT kind, id FROM records WHERE {is_waiting} ORDER BY created_s, id LIMIT 1"
        while rows := self._state.run(statement, documents_of("%")):
            [(kind, name)] = rows
            try:
                return self._state.get(KIND, kind.split("/")[1], None), self._state.get(kind, name, None)
            except ApiError:  # deleted in this moment
                continue
        return None

    def finish(self, store: Record, document: Record, entry: Entry | None, key: bytes) -> None:
        """A document's passages into the index (None: they are there, of another with the same content).

        Where that other has gone in this moment, the document goes on waiting.
        """
        state = FileState(
            path=within(document.id), size_bytes=document.body["size_bytes"], modified_ns=0, checked_ns=time.time_ns()
        )
        with self._lock:
            self._state.get(document.kind, document.id, None)  # ApiError 404: deleted meanwhile
            with self.index(store) as index:
                if self._is_closed or (entry is None and key not in index.store.content_ids()):
                    return
                index.store.write([] if entry is None else [entry], [(state, key)])
            self._state.change(document, {**document.body, "state": "ACTIVE"})

    def fail(self, document: Record, why: str) -> None:
        """A document that cannot be brought in, and why; nothing where it was deleted meanwhile."""
        with suppress(ApiError):
            self._state.change(document, {**document.body, "state": "FAILED", "error": why})

    def tidy(self) -> None:
        """Remove what no record speaks of."""
        with self._lock:
            self.folder.mkdir(exist_ok=True, mode=0o700)
            known = {row[0] for row in self._state.run("SELECT id FROM records WHERE kind = ?", KIND)}
            for folder in self.folder.iterdir():
                if folder.name in known:
                    self._tidy(self._state.get(KIND, folder.name, None))
                else:
                    shutil.rmtree(folder, ignore_errors=True)

    def _tidy(self, store: Record) -> None:
        there = {within(document.id) for document in self.documents(store)}
        for path in (self.folder / store.id).glob("documents/*"):
            if within(path.name) not in there:
                path.unlink()
        with suppress(ApiError), self.index(store) as index:
            index.store.forget([path for path in index.store.files() if path not in there])
            index.store.sweep()


def documents_of(store_id: str) -> str:
    """The kind of the records of a store's documents."""
    return f"{PREFIX}{store_id}/documents"


def within(document_id: str) -> str:
    """A document's path in its store's folder and index."""
    return f"documents/{document_id}"


def _id_of(display_name: str) -> str:
    """Up to 40 letters, digits and dashes: what can be kept of a name, and twelve that nobody guesses."""
    words = re.sub(r"[^a-z0-9]+", "-", display_name.lower()).strip("-")[:26].strip("-")
    return f"{words}-{secrets.token_hex(6)}" if words else secrets.token_hex(6)
