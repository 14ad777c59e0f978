"""The store: one SQLite file with files, contents, pieces, words and vectors; whole after a crash at any moment.

A content is what some bytes say, whatever their files are called: a copy or a new name costs nothing. A content and
its pieces are written in one transaction, so that none is ever half there. Only one process writes at a time; others
may search meanwhile. What can be computed from this file (scan matrices, graphs) is kept beside it and never trusted
over it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from castor.index.piece import Place
from castor.index.quantise import check_storage, pack, unpack
from castor.index.words import spaced

FORMAT = 1
FILE, LOCK = "index.db", "writer.db"
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, taken_s REAL, problem TEXT
);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, content INTEGER REFERENCES contents (id),
    size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL, checked_ns INTEGER NOT NULL, problem TEXT
);
CREATE INDEX files_of_content ON files (content);
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL REFERENCES contents (id), place TEXT NOT NULL,
    title TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX pieces_of_content ON pieces (content);
CREATE TABLE vectors (piece INTEGER PRIMARY KEY REFERENCES pieces (id), vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (text, content='', tokenize='porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE names USING fts5 (text, content='', tokenize='porter unicode61 remove_diacritics 2');
"""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What all vectors of a store have in common; vectors of two models cannot be compared."""

    model: str  # the name by which it was loaded
    identity: str  # of its weights and its way of reading; see `castor.index.embedder`
    dimensions: int
    storage: str = "float32"
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file as it was when it was last looked at."""

    id: int
    path: str
    content: int | None
    size_bytes: int
    modified_ns: int
    checked_ns: int
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What is to be remembered of a file."""

    path: str
    size_bytes: int
    modified_ns: int
    checked_ns: int
    problem: str | None = None  # where it could not even be read; else the problem is its content's


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A content with its pieces and their vectors, or with the problem that kept it from having any."""

    key: bytes
    kind: str
    taken_s: float | None = None
    problem: str | None = None
    pieces: Sequence[tuple[Place, str, str]] = ()  # place, title, text
    vectors_NE: np.ndarray | None = None  # float32, of length 1


class Store:
    """An open store. `Store.open` makes or opens one; `writing` is held by what changes it."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, header: Header) -> None:
        self.folder, self.header, self._db = folder, header, connection

    @classmethod
    def open(cls, folder: str | Path, create: Header | None = None) -> Store:
        """The store in `folder`; with `create` it is made there if there is none. ValueError where there is none."""
        folder = Path(folder)
        path = folder / FILE
        if create is None and not cls.is_begun(folder):
            raise ValueError(f"{folder}: there is no index here; to make one: castor index DIR --index {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise ValueError(f"{path}: cannot be opened ({error})") from error
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.create_function("spaced", 1, spaced, deterministic=True)
            header = _header(connection, path, create)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ValueError(f"{path}: not a usable index ({error})") from error
        except ValueError:
            connection.close()
            raise
        return cls(folder, connection, header)

    @staticmethod
    def is_begun(folder: str | Path) -> bool:
        """Whether there is a store in `folder`; a process that was killed at its very start leaves an empty file."""
        path = Path(folder) / FILE
        if not path.is_file():
            return False
        try:
            with closing(sqlite3.connect(path, timeout=60)) as connection:
                return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None
        except sqlite3.DatabaseError:  # not a database, or not for us to read: `open` says so
            return True

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def writing(self) -> Generator[None]:
        """Held by the one process that writes, and let go by the system if it dies; ValueError if another holds it."""
        with ExitStack() as held:
            try:
                lock = held.enter_context(closing(sqlite3.connect(self.folder / LOCK, timeout=0, isolation_level=None)))
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise ValueError(f"{self.folder}: cannot be written to ({error})") from error
                raise ValueError(
                    f"{self.folder}: another process is writing to this index; wait until it is done"
                ) from None
            yield

    @contextmanager
    def _transaction(self, *, changes_vectors: bool = False) -> Generator[sqlite3.Cursor]:
        cursor = self._db.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            if changes_vectors:
                cursor.execute("UPDATE meta SET value = value + 1 WHERE name = 'changes'")
            cursor.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                cursor.execute("ROLLBACK")

    @property
    def changes(self) -> int:
        """Grows whenever pieces come or go: what was computed from the vectors is stale if it differs."""
        return int(self._db.execute("SELECT value FROM meta WHERE name = 'changes'").fetchone()[0])

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """What a SELECT gives."""
        return self._db.execute(query, values).fetchall()

    # Files

    def add_root(self, path: str) -> None:
        """Remember a folder that was indexed."""
        with self._transaction() as cursor:
            cursor.execute("INSERT OR IGNORE INTO roots VALUES (?)", (path,))

    def roots(self) -> list[str]:
        """The folders that were indexed."""
        return [path for (path,) in self.rows("SELECT path FROM roots ORDER BY path")]

    def files(self, root: str | None = None) -> dict[str, FileRow]:
        """The files known below a folder (or all), by path."""
        below = "" if root is None else " WHERE path = :root OR substr(path, 1, length(:root) + 1) = :root || '/'"
        names = ("id", "path", "content", "size_bytes", "modified_ns", "checked_ns", "problem")
        found = self._db.execute(f"SELECT {', '.join(names)} FROM files{below}", {"root": (root or "").rstrip("/")})
        return {row[1]: FileRow(**dict(zip(names, row, strict=True))) for row in found}

    def content_ids(self) -> dict[bytes, int]:
        """Every content that is known, by key."""
        return dict(self.rows("SELECT key, id FROM contents"))

    def keys_of_files(self) -> tuple[dict[str, bytes | None], set[bytes]]:
        """The content's key of each known path, and all of these keys."""
        query = "SELECT path, key FROM files LEFT JOIN contents ON contents.id = files.content"
        found = dict(self.rows(query))
        return found, {key for key in found.values() if key is not None}

    def write(self, entries: Iterable[Entry], files: Iterable[tuple[FileState, bytes | None]]) -> None:
        """New contents, and files with the key of what they hold (None: unreadable), all or nothing."""
        entries = list(entries)
        with self._transaction(changes_vectors=any(entry.pieces for entry in entries)) as cursor:
            for entry in entries:
                self._write_entry(cursor, entry)
            for state, key in files:
                _write_file(cursor, state, key)

    def _write_entry(self, cursor: sqlite3.Cursor, entry: Entry) -> None:
        cursor.execute("SELECT id FROM contents WHERE key = ?", (entry.key,))
        if cursor.fetchone():
            return
        cursor.execute(
            "INSERT INTO contents (key, kind, taken_s, problem) VALUES (?, ?, ?, ?)",
            (entry.key, entry.kind, entry.taken_s, entry.problem),
        )
        content = cursor.lastrowid
        if entry.vectors_NE is None:
            assert not entry.pieces
            return
        assert entry.vectors_NE.shape == (len(entry.pieces), self.header.dimensions), entry.vectors_NE.shape
        blobs = pack(entry.vectors_NE, self.header.storage)
        for (place, title, text), blob in zip(entry.pieces, blobs, strict=True):
            cursor.execute(
                "INSERT INTO pieces (content, place, title, text) VALUES (?, ?, ?, ?)",
                (content, place.to_json(), title, text),
            )
            piece = cursor.lastrowid
            cursor.execute("INSERT INTO vectors VALUES (?, ?)", (piece, blob))
            if text:
                cursor.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (piece, spaced(text)))

    def forget(self, paths: Iterable[str]) -> None:
        """Files that are no longer there. Their contents stay until `sweep`, lest they turn up under a new name."""
        with self._transaction() as cursor:
            for path in paths:
                cursor.execute("SELECT id FROM files WHERE path = ?", (path,))
                for (file,) in cursor.fetchall():
                    cursor.execute(
                        "INSERT INTO names (names, rowid, text) VALUES ('delete', ?, ?)", (file, spaced(path))
                    )
                    cursor.execute("DELETE FROM files WHERE id = ?", (file,))

    def drop_root(self, path: str) -> int:
        """Forget a folder and all files below it; gives how many. Files below another remembered folder stay."""
        others = tuple(f"{root.rstrip('/')}/" for root in self.roots() if root != path)
        gone = [file for file in self.files(path) if not file.startswith(others or "\0")]
        self.forget(gone)
        with self._transaction() as cursor:  # last, so that a crash leaves nothing that no folder accounts for
            cursor.execute("DELETE FROM roots WHERE path = ?", (path,))
        self.sweep()
        return len(gone)

    def forget_problems(self) -> None:
        """Contents that could not be read are unknown again, and all files with problems are to be looked at anew."""
        with self._transaction() as cursor:
            cursor.execute("UPDATE files SET checked_ns = 0 WHERE problem IS NOT NULL")
            cursor.execute("UPDATE files SET checked_ns = 0, content = NULL WHERE content IN (" + _WITH_PROBLEM + ")")
            cursor.execute(f"DELETE FROM contents WHERE id IN ({_WITH_PROBLEM})")

    def sweep(self) -> int:
        """Drop contents that no file has, with their pieces; gives how many."""
        orphans = "SELECT id FROM contents WHERE id NOT IN (SELECT content FROM files WHERE content IS NOT NULL)"
        found = [content for (content,) in self.rows(orphans)]
        if not found:
            return 0
        with self._transaction(changes_vectors=True) as cursor:
            for content in found:
                cursor.execute(
                    "INSERT INTO words (words, rowid, text) "
                    "SELECT 'delete', id, spaced(text) FROM pieces WHERE content = ? AND text != ''",
                    (content,),
                )
                cursor.execute(
                    "DELETE FROM vectors WHERE piece IN (SELECT id FROM pieces WHERE content = ?)", (content,)
                )
                cursor.execute("DELETE FROM pieces WHERE content = ?", (content,))
                cursor.execute("DELETE FROM contents WHERE id = ?", (content,))
        return len(found)

    # Vectors

    def piece_ids(self) -> np.ndarray:
        """The ids of all pieces, rising: int64 [N]."""
        return np.array([piece for (piece,) in self.rows("SELECT piece FROM vectors ORDER BY piece")], np.int64)

    def vectors(self, pieces: Sequence[int] | None = None, size: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids int64 [n] and vectors float32 [n, E], some thousands at a time: of all, or of those asked for."""
        storage, dimensions = self.header.storage, self.header.dimensions
        if pieces is None:
            cursor = self._db.execute("SELECT piece, vector FROM vectors ORDER BY piece")
            groups: Iterable[list[tuple[int, bytes]]] = iter(lambda: cursor.fetchmany(size), [])
        else:
            wanted = sorted(int(piece) for piece in pieces)
            query = "SELECT piece, vector FROM vectors WHERE piece IN (SELECT value FROM json_each(?)) ORDER BY piece"
            slices = (wanted[at : at + size] for at in range(0, len(wanted), size))
            groups = (self.rows(query, (json.dumps(each),)) for each in slices)
        for group in groups:
            if group:
                ids, blobs = zip(*group, strict=True)
                yield np.array(ids, np.int64), unpack(blobs, storage, dimensions)

    def all_vectors(self, pieces: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The same in one: int64 [N] and float32 [N, E]."""
        found = list(self.vectors(pieces))
        if not found:
            return np.zeros(0, np.int64), np.zeros((0, self.header.dimensions), np.float32)
        return np.concatenate([ids for ids, _ in found]), np.concatenate([vectors for _, vectors in found])

    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be read, and why."""
        return self.rows(
            "SELECT path, coalesce(files.problem, contents.problem) FROM files LEFT JOIN contents "
            "ON contents.id = files.content WHERE coalesce(files.problem, contents.problem) IS NOT NULL ORDER BY path"
        )

    def counts(self) -> dict[str, tuple[int, int]]:
        """Readable files and pieces, by kind."""
        files = dict(
            self.rows(
                "SELECT kind, count(*) FROM files JOIN contents ON contents.id = files.content "
                "WHERE contents.problem IS NULL GROUP BY kind"
            )
        )
        pieces = dict(
            self.rows("SELECT kind, count(*) FROM pieces JOIN contents ON contents.id = pieces.content GROUP BY kind")
        )
        return {kind: (count, pieces.get(kind, 0)) for kind, count in sorted(files.items())}


_WITH_PROBLEM = "SELECT id FROM contents WHERE problem IS NOT NULL"


def _write_file(cursor: sqlite3.Cursor, state: FileState, key: bytes | None) -> None:
    content = None
    if key is not None:
        (content,) = cursor.execute("SELECT id FROM contents WHERE key = ?", (key,)).fetchone()
    is_new = cursor.execute("SELECT 1 FROM files WHERE path = ?", (state.path,)).fetchone() is None
    cursor.execute(
        "INSERT INTO files (path, content, size_bytes, modified_ns, checked_ns, problem) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (path) DO UPDATE SET content = excluded.content, size_bytes = excluded.size_bytes, "
        "modified_ns = excluded.modified_ns, checked_ns = excluded.checked_ns, problem = excluded.problem",
        (state.path, content, state.size_bytes, state.modified_ns, state.checked_ns, state.problem),
    )
    if is_new:
        cursor.execute("INSERT INTO names (rowid, text) VALUES (?, ?)", (cursor.lastrowid, spaced(state.path)))


def _header(connection: sqlite3.Connection, path: Path, create: Header | None) -> Header:
    """The header of a store; of an empty file, `create`'s, written with the tables in one transaction."""
    connection.execute("BEGIN IMMEDIATE" if create else "BEGIN")
    try:
        has_tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        if not has_tables:
            assert create is not None
            check_storage(create.storage)
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            values = {"header": json.dumps(asdict(create)), "changes": "0"}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        (text,) = connection.execute("SELECT value FROM meta WHERE name = 'header'").fetchone()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    values = json.loads(text)
    if values.get("format") != FORMAT:
        raise ValueError(f"{path}: an index of format {values.get('format')}, this program reads format {FORMAT}")
    return Header(**values)
