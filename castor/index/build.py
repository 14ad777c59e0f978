"""Bringing a store up to date with a folder: what is new or changed is embedded, what is gone is dropped.

Everything is committed batch by batch. Killed at any moment, the store holds every finished content whole and no other;
the same command goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from castor.index.ahead import Claims, Cut, Event, Opened, reading_ahead
from castor.index.embedder import Embedder
from castor.index.piece import Piece
from castor.index.reading import ReadingConfig
from castor.index.store import Entry, FileRow, FileState, Store
from castor.index.walk import Found, walk

BATCH_PIECES, BATCH_BYTES = 32, 128 << 20  # embedded and committed together
RACY_NS = 2_000_000_000  # a file looked at so soon after its last change may have changed again unseen


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """How a folder is brought in."""

    exclude: tuple[str, ...] = ()  # patterns of names, or of paths below the folder
    retry: bool = False  # try again what could not be read before
    check_all: bool = False  # read every file, whatever its size and time of change say
    num_threads: int = max(1, min(4, (os.cpu_count() or 2) - 1))  # that read and decode
    reading: ReadingConfig = field(default_factory=ReadingConfig)


@dataclass(kw_only=True)
class Report:
    """What an update did. Seconds are by stage; those of "decode" are of threads beside the others."""

    num_new: int = 0
    num_changed: int = 0
    num_same: int = 0
    num_moved: int = 0  # renamed: not embedded again
    num_dropped: int = 0  # gone, and not under a new name
    num_pieces: int = 0  # embedded
    problems: list[tuple[str, str]] = field(default_factory=list)  # of all files below the folder
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    total_s: float = 0.0
    is_interrupted: bool = False


STAGES = ("walk", "decode", "wait", "embed", "write")
Progress = Callable[[int, int, Report], None]  # bytes done, bytes to do, the report so far


def update(
    store: Store,
    embedder: Callable[[], Embedder],
    root: str,
    config: UpdateConfig | None = None,
    progress: Progress | None = None,
) -> Report:
    """Bring `store` up to date with the folder `root` (an absolute path); an interrupt ends it early and cleanly.

    `embedder` gives the model; it is asked for only where there are files to read.
    """
    settings = config or UpdateConfig()

    def bring_in(todo: list[Found], report: Report) -> None:
        job = Job(store, embedder().pieces, report)
        claims = Claims(job.committed)
        with reading_ahead(todo, claims, settings.reading, settings.num_threads) as events:
            job.run(events, sum(file.size_bytes for file in todo), progress)

    return updated(store, root, settings, bring_in)


def updated(store: Store, root: str, config: UpdateConfig, bring_in: Callable[[list[Found], Report], None]) -> Report:
    """The course of every update, which `bring_in` does the work of: it reads, embeds and writes the files it is given.

    It is called only where there are any, and may be interrupted.
    """
    report, start_s = Report(), time.perf_counter()
    with store.writing():
        if config.retry:
            store.forget_problems()
        store.add_root(root)
        try:
            todo = changed_files(store, root, config, report)
            if todo:
                bring_in(todo, report)
            store.sweep()
        except KeyboardInterrupt:
            report.is_interrupted = True
    below = root.rstrip("/") + "/"
    report.problems = [(path, why) for path, why in store.problems() if path.startswith(below) or path == root]
    report.total_s = time.perf_counter() - start_s
    return report


def changed_files(store: Store, root: str, config: UpdateConfig, report: Report) -> list[Found]:
    """The files to read, after forgetting those that are gone; what cannot be looked at is remembered."""
    start_s = time.perf_counter()
    known, there, closed, todo = store.files(root), set(), [], []
    unseen: list[tuple[FileState, None]] = []
    for file in walk(root, index=store.folder, exclude=config.exclude):
        there.add(file.path)
        row = known.get(file.path)
        if file.problem is not None:
            closed.append(file.path.rstrip("/") + "/")
            state = FileState(path=file.path, size_bytes=0, modified_ns=0, checked_ns=0, problem=file.problem)
            unseen.append((state, None))
        elif row is None or config.check_all or not _is_same(row, file):
            todo.append(file)
        else:
            report.num_same += 1
    # What lies in a folder that cannot be entered now may still be there.
    gone = [path for path in known if path not in there and not path.startswith(tuple(closed) or "\0")]
    store.forget(gone)
    store.write([], unseen)
    report.num_dropped = sum(known[path].content is not None or known[path].size_bytes > 0 for path in gone)
    report.seconds["walk"] += time.perf_counter() - start_s
    return todo


def _is_same(row: FileRow, file: Found) -> bool:
    is_settled = row.modified_ns < row.checked_ns - RACY_NS
    is_known = row.content is not None or row.problem is not None
    return is_settled and is_known and (row.size_bytes, row.modified_ns) == (file.size_bytes, file.modified_ns)


@dataclass(kw_only=True)
class _Open:
    """A content on its way into the store."""

    opened: Opened
    pieces: list[Piece | None] = field(default_factory=list)  # None once embedded: frames are let go
    told: list[tuple] = field(default_factory=list)  # place, title, text of each
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    is_closed: bool = False
    problem: str | None = None

    @property
    def is_done(self) -> bool:
        return self.is_closed and (self.problem is not None or len(self.vectors) == len(self.told))

    def entry(self) -> Entry:
        opened = self.opened
        assert opened.key is not None
        if self.problem is not None or not self.told:
            problem = self.problem or "nothing in it can be embedded"
            return Entry(key=opened.key, kind=opened.kind, problem=problem)
        vectors_NE = np.stack([self.vectors[at] for at in range(len(self.told))])
        return Entry(key=opened.key, kind=opened.kind, taken_s=opened.taken_s, pieces=self.told, vectors_NE=vectors_NE)


class Tally:
    """Counts files that were written by what the store knew of them before: new, changed, the same, or renamed."""

    def __init__(self, store: Store, report: Report) -> None:
        self._report, self.known = report, set(store.content_ids())
        self._before, with_file = store.keys_of_files()
        self._left = self.known - with_file  # contents whose files are gone: found again, they were renamed

    def count(self, path: str, key: bytes | None) -> None:
        """One file, with the key of its content."""
        report = self._report
        if path in self._before:
            is_same = self._before[path] == key
            report.num_same += is_same
            report.num_changed += not is_same
        elif key in self._left:
            self._left.discard(key)
            report.num_moved += 1
            report.num_dropped -= report.num_dropped > 0
        else:
            report.num_new += 1


class Job:
    """Events of files into a store, through vectors of their pieces."""

    def __init__(self, store: Store, embed: Callable[[Sequence[Piece]], np.ndarray], report: Report) -> None:
        self.store, self._embed, self.report = store, embed, report
        self._tally = Tally(store, report)
        self.committed = set(self._tally.known)
        self._open: dict[int, _Open] = {}
        self._batch: list[tuple[_Open, int]] = []
        self._batch_bytes = 0
        self._links: list[tuple[FileState, bytes | None]] = []  # files whose content may still be on its way

    def run(self, events: Iterable[Event], total_bytes: int, progress: Progress | None = None) -> None:
        """Take all events, and write all that is done, also when interrupted."""
        done_bytes, waited_from_s = 0, time.perf_counter()
        try:
            for event in events:
                self.report.seconds["wait"] += time.perf_counter() - waited_from_s
                self.take(event)
                if isinstance(event, Opened):
                    done_bytes += event.state.size_bytes
                if progress:
                    progress(done_bytes, total_bytes, self.report)
                waited_from_s = time.perf_counter()
            self.flush()
            assert not self._links and not self._open, "a file was left open"
        except KeyboardInterrupt:
            self._write()
            raise

    def take(self, event: Event) -> None:
        """One event; a full batch is embedded and written."""
        if isinstance(event, Opened):
            self._links.append((event.state, event.key))
            if event.is_new:
                self._open[event.number] = _Open(opened=event)
        elif isinstance(event, Cut):
            content, piece = self._open[event.number], event.piece
            self._batch.append((content, len(content.told)))
            content.pieces.append(piece)
            content.told.append((piece.place, piece.title, piece.text))
            self._batch_bytes += piece.size_bytes
        else:
            self.report.seconds["decode"] += event.seconds
            if event.number in self._open:
                content = self._open[event.number]
                content.is_closed, content.problem = True, content.problem or event.problem
        if len(self._batch) >= BATCH_PIECES or self._batch_bytes >= BATCH_BYTES or len(self._links) >= 512:
            self.flush()

    def flush(self) -> None:
        """Embed what waits, and commit every content that is complete."""
        start_s = time.perf_counter()
        batch = [(content, at) for content, at in self._batch if content.problem is None]
        try:
            vectors_NE = self._embed([_piece(content, at) for content, at in batch]) if batch else []
            for (content, at), vector_E in zip(batch, vectors_NE, strict=True):
                content.vectors[at] = vector_E
        except ValueError:  # one of them cannot be embedded: each alone, to see which
            for content, at in batch:
                self._embed_alone(content, at)
        for content, at in self._batch:
            content.pieces[at] = None
        self.report.num_pieces += sum(at in content.vectors for content, at in batch)
        self._batch, self._batch_bytes = [], 0
        self.report.seconds["embed"] += time.perf_counter() - start_s
        self._write()

    def _embed_alone(self, content: _Open, at: int) -> None:
        if content.problem is not None:
            return
        piece = _piece(content, at)
        try:
            content.vectors[at] = self._embed([piece])[0]
        except ValueError as error:
            where = f"{piece.place}: " if str(piece.place) else ""
            content.problem = where + str(error)

    def _write(self) -> None:
        start_s = time.perf_counter()
        done = {number: content for number, content in self._open.items() if content.is_done}
        entries = [content.entry() for content in done.values()]
        keys = self.committed | {entry.key for entry in entries}
        files = [(state, key) for state, key in self._links if key is None or key in keys]
        if files or entries:
            self.store.write(entries, files)
        self.committed = keys
        self._links = [(state, key) for state, key in self._links if key is not None and key not in keys]
        for number in done:
            del self._open[number]
        for state, key in files:
            self._tally.count(state.path, key)
        self.report.seconds["write"] += time.perf_counter() - start_s


def _piece(content: _Open, at: int) -> Piece:
    piece = content.pieces[at]
    assert piece is not None, "a piece is embedded once"
    return piece
