"""The same job on a Ray cluster: files are read and embedded by actors on its machines, and one process writes.

    files to read -> ray.data -> actors, each with the model: pieces and vectors of whole files -> this process: store

A file is one row, and its result is one row. Ray gives the rows of an actor or a machine that died to another one; the
store takes a content once, whatever comes twice. So nothing is lost and nothing is doubled. Files are read where the
actor runs: the folder must lie under the same path on every machine (a shared file system).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from castor.index.ahead import Claims, Closed, Cut, Opened, events_of
from castor.index.build import Progress, Report, Tally, UpdateConfig, updated
from castor.index.embedder import Embedder
from castor.index.index import FROM_PYTHON, Index
from castor.index.piece import Piece
from castor.index.reading import ReadingConfig
from castor.index.store import Entry, FileState
from castor.index.walk import Found

# A file, the key of its content (None: unreadable), and the content where the store lacks it.
Result = tuple[FileState, bytes | None, Entry | None]
WRITTEN_TOGETHER = 16  # files
PIECES_TOGETHER = 32


class FileWorker:
    """What an actor does: rows of files in, rows of pickled results out. Loads the model once."""

    def __init__(self, model: str, dimensions: int, identity: str, reading: ReadingConfig, known: Any) -> None:
        import ray

        from castor.engine.model import load

        self.embedder, self.reading = Embedder(load(model), model, dimensions), reading
        self.known = Known(ray.get(known))
        if self.embedder.identity != identity:
            raise ValueError(
                f"{model}: another model on this machine ({self.embedder.identity}) than here ({identity})"
            )

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """A batch as Ray Data has it: one array for each column."""
        made = []
        for path, size_bytes, modified_ns in zip(rows["path"], rows["size_bytes"], rows["modified_ns"], strict=True):
            file = Found(path=str(path), size_bytes=int(size_bytes), modified_ns=int(modified_ns))
            made.append(pickle.dumps(embedded_file(file, self.known, self.embedder.pieces, self.reading)))
        return {"result": made}


class Known(Claims):
    """Claims of contents that the store has. Any other may be taken again: by a copy, or after a machine died."""

    def take(self, key: bytes) -> bool:
        """Whether the store lacks it."""
        return key not in self._taken


def embedded_file(
    file: Found, known: Known, embed: Callable[[Sequence[Piece]], np.ndarray], reading: ReadingConfig
) -> Result:
    """One file as it goes into a store, some pieces of it in memory at a time."""
    opened, told, vectors, waiting, problem = None, [], [], [], None
    for event in events_of(0, file, known, reading):
        if isinstance(event, Opened):
            opened = event
        elif isinstance(event, Closed):
            problem = problem or event.problem
        elif isinstance(event, Cut) and problem is None:
            told.append((event.piece.place, event.piece.title, event.piece.text))
            waiting.append(event.piece)
        if waiting and problem is None and (len(waiting) == PIECES_TOGETHER or isinstance(event, Closed)):
            try:
                vectors.append(embed(waiting))
            except ValueError as error:
                problem = str(error)
            waiting = []
    assert opened is not None
    if not opened.is_new:
        return opened.state, opened.key, None
    assert opened.key is not None
    if problem is not None or not told:
        problem = problem or "nothing in it can be embedded"
        return opened.state, opened.key, Entry(key=opened.key, kind=opened.kind, problem=problem)
    entry = Entry(
        key=opened.key, kind=opened.kind, taken_s=opened.taken_s, pieces=told, vectors_NE=np.concatenate(vectors)
    )
    return opened.state, opened.key, entry


def update_on_ray(
    index: Index,
    root: str,
    address: str,
    config: UpdateConfig | None = None,
    *,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Report:
    """As `castor.index.build.update`, on the cluster at `address`; "local" begins one on this machine.

    ValueError where Ray is not installed. Copies are embedded once each, but stored once.
    """
    settings, store = config or UpdateConfig(), index.store
    if store.header.model == FROM_PYTHON:
        raise ValueError(f"{index.folder}: workers load the model by its name; make the index with a name")
    ray = _connected(address)

    def bring_in(todo: list[Found], report: Report) -> None:
        tally, total_bytes = Tally(store, report), sum(file.size_bytes for file in todo)
        results = _results(ray, todo, index, (settings.reading, ray.put(tally.known)), num_workers)
        for done_bytes, group in _written_groups(results):
            store.write([entry for *_, entry in group if entry], [(state, key) for state, key, _ in group])
            for state, key, entry in group:
                tally.count(state.path, key)
                report.num_pieces += len(entry.pieces) if entry else 0
            if progress:
                progress(done_bytes, total_bytes, report)

    return updated(store, root, settings, bring_in)


def _connected(address: str) -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError(f"--ray needs {error.name}: pip install 'castor[cluster]'") from None
    if not ray.is_initialized():
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    return ray


def _results(
    ray: Any, files: Sequence[Found], index: Index, how: tuple[ReadingConfig, Any], num_workers: int
) -> Iterator[Result]:
    """The result of each file as it comes. A row of Ray's is a file, so that little is lost with a machine."""
    header = index.store.header
    rows = [{name: value for name, value in asdict(file).items() if name != "problem"} for file in files]
    blocks = max(num_workers, min(len(rows), 200))
    work = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        FileWorker,
        fn_constructor_args=(header.model, header.dimensions, header.identity, *how),
        batch_size=1,
        concurrency=num_workers,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in work.iter_rows():
        yield pickle.loads(row["result"])


def _written_groups(results: Iterable[Result]) -> Iterator[tuple[int, list[Result]]]:
    group: list[Result] = []
    done_bytes = 0
    for result in results:
        group.append(result)
        done_bytes += result[0].size_bytes
        if len(group) == WRITTEN_TOGETHER:
            yield done_bytes, group
            group = []
    if group:
        yield done_bytes, group
