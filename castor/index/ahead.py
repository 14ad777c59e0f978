"""Files read and cut into pieces by threads, ahead of the model: decoding and embedding overlap, memory is bounded.

A file gives `Opened`, its pieces one by one, and `Closed`; events of several files may alternate. Files whose content
is known, or is being read by another thread, give no pieces.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from castor.index.forms import form_of, kind_of
from castor.index.piece import Piece
from castor.index.reading import ReadingConfig, content_key, pieces_of, taken_s
from castor.index.store import FileState
from castor.index.walk import Found
from castor.media.source import read_file

HEAD_BYTES = 4096
MOST_WAITING = 16  # pieces that are decoded and not yet embedded


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file whose content is known by key; where that is None, the file cannot be used and its state says why."""

    number: int
    state: FileState
    key: bytes | None = None
    kind: str = ""
    taken_s: float | None = None
    is_new: bool = False  # whether pieces follow


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One piece of a file."""

    number: int
    piece: Piece


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The end of a file; with a problem, its content cannot be read and the pieces so far do not count."""

    number: int
    problem: str | None = None
    seconds: float = 0.0  # that a thread spent on it, without waiting for the model


Event = Opened | Cut | Closed


class Claims:
    """Keys of contents that are known or in somebody's hands; each can be taken once."""

    def __init__(self, known: Iterable[bytes]) -> None:
        self._taken, self._lock = set(known), threading.Lock()

    def take(self, key: bytes) -> bool:
        """Whether the caller is the first."""
        with self._lock:
            is_first = key not in self._taken
            self._taken.add(key)
            return is_first


def events_of(number: int, file: Found, claims: Claims, config: ReadingConfig) -> Iterator[Event]:
    """The events of one file, in order; never an error for what a file may be like."""
    name = Path(file.path).name
    state = FileState(
        path=file.path, size_bytes=file.size_bytes, modified_ns=file.modified_ns, checked_ns=time.time_ns()
    )
    try:
        with open(file.path, "rb") as opened:
            form = form_of(opened.read(HEAD_BYTES), file.path)
        data = b"" if form is None else read_file(file.path, name, config.limits)
    except (OSError, ValueError) as error:
        form, data = None, b""
        told = _told(error, name) if isinstance(error, ValueError) else error.strerror or str(error)
    else:
        told = f"not a kind of file that is read{f' ({Path(name).suffix})' if Path(name).suffix else ''}"
    if form is None:
        told = told if file.size_bytes else "the file is empty"
        yield Opened(number=number, state=replace(state, problem=told))
        yield Closed(number=number)
        return
    key, problem = content_key(form, data), None
    is_new = claims.take(key)
    when_s = taken_s(data, form, name) if is_new else None
    yield Opened(number=number, state=state, key=key, kind=kind_of(form), taken_s=when_s, is_new=is_new)
    if is_new:
        try:
            for piece in pieces_of(data, form, name, config):
                yield Cut(number=number, piece=piece)
        except ValueError as error:
            problem = _told(error, name)
    yield Closed(number=number, problem=problem)


def _timed(events: Iterator[Event]) -> Iterator[Event]:
    """The same, with the seconds that they took in the last one."""
    seconds = 0.0
    while True:
        start_s = time.perf_counter()
        event = next(events, None)
        seconds += time.perf_counter() - start_s
        if event is None:
            return
        yield replace(event, seconds=seconds) if isinstance(event, Closed) else event


def _told(error: ValueError, name: str) -> str:
    """Why, without the file's name: the same bytes may have another one tomorrow."""
    return str(error).removeprefix(f"{name}: ")


@contextmanager
def reading_ahead(
    files: Iterable[Found], claims: Claims, config: ReadingConfig, num_threads: int
) -> Generator[Iterator[Event]]:
    """The events of all files from `num_threads` threads, which end when the block is left, however it is left."""
    waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
    left, lock, stop = iter(enumerate(files)), threading.Lock(), threading.Event()

    def put(event: Event | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put(event, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    taken = next(left, None)
                if taken is None or not all(map(put, _timed(events_of(*taken, claims, config)))):
                    return
        finally:
            put(None)

    with ThreadPoolExecutor(num_threads, "castor-read") as pool:
        try:
            yield _events(waiting, [pool.submit(work) for _ in range(num_threads)])
        finally:
            stop.set()


def _events(waiting: queue.Queue[Event | None], workers: Sequence[Future[None]]) -> Iterator[Event]:
    left = len(workers)
    while left:
        event = waiting.get()
        if event is None:
            left -= 1
        else:
            yield event
    for worker in workers:
        worker.result()  # a fault of ours is raised here
