"""A store's vectors as one array that is mapped, not read: what a search over many pieces scans.

It is a copy, named after the count of changes at which it was made. Pieces that came since are read from the store
beside it, pieces that went are passed over, and once these are many it is written anew. Losing it loses nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from castor.checkpoint import load_json, save_json
from castor.index.neighbours import Vectors
from castor.index.store import Store

WORTH_IT = 20_000  # pieces from which on a copy is kept; fewer are read from the store in a moment
STALE_SHARE = 0.1  # of pieces come or gone, from which on the copy is written anew


def vectors_of(store: Store) -> Vectors:
    """Every piece's vector. Those of pieces that a crash left without a file are among them."""
    ids_N = store.piece_ids()
    if len(ids_N) < WORTH_IT:
        return Vectors(*_in_memory(store, None))
    kept = _read(store)
    if kept is None or _num_different(kept.ids_N, ids_N) > STALE_SHARE * len(ids_N):
        _write(store, len(ids_N))
        kept = _read(store)
    if kept is None:  # other processes wrote or searched meanwhile: the next search makes the copy
        return Vectors(*_in_memory(store, None))
    came = np.setdiff1d(ids_N, kept.ids_N, assume_unique=True)
    if not len(came):
        return kept
    ids, (vectors_NE,) = _in_memory(store, came)
    return Vectors(np.concatenate([kept.ids_N, ids]), [*kept.parts, vectors_NE])


def _in_memory(store: Store, ids: np.ndarray | None) -> tuple[np.ndarray, list[np.ndarray]]:
    ids_N, vectors_NE = store.all_vectors(None if ids is None else ids.tolist())
    return ids_N, [vectors_NE]


def _num_different(kept: np.ndarray, there: np.ndarray) -> int:
    return len(np.setxor1d(kept, there, assume_unique=True))


def _folder(store: Store) -> Path:
    return store.folder / "scan"


def _read(store: Store) -> Vectors | None:
    folder = _folder(store)
    if not (folder / "about.json").is_file():
        return None
    name = load_json(folder / "about.json")["name"]
    try:
        ids_N, vectors_NE = np.load(folder / f"{name}.ids.npy"), np.load(folder / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):  # removed or cut by somebody: a copy can be made again
        return None
    is_whole = len(ids_N) == len(vectors_NE) and vectors_NE.shape[1] == store.header.dimensions
    return Vectors(ids_N, [vectors_NE]) if is_whole else None


def _write(store: Store, count: int) -> None:
    """The copy first, then the word that it is there, then the old one away. Nothing, if pieces go meanwhile."""
    folder, changes = _folder(store), store.changes
    folder.mkdir(exist_ok=True)
    name, process = f"vectors-{changes}", os.getpid()
    dtype = np.float32 if store.header.storage == "float32" else np.float16
    half_done = folder / f".{name}.{process}.npy"
    try:
        written = np.lib.format.open_memmap(half_done, "w+", dtype, (count, store.header.dimensions))
        ids_N, at = np.zeros(count, np.int64), 0
        for ids, vectors in store.vectors():
            ids, vectors = ids[: count - at], vectors[: count - at]  # the store may grow meanwhile
            written[at : at + len(ids)], ids_N[at : at + len(ids)] = vectors, ids
            at += len(ids)
        written.flush()
        del written
        if at < count:
            return
        np.save(folder / f"{name}.ids.npy", ids_N)
        os.replace(half_done, folder / f"{name}.npy")
    finally:
        half_done.unlink(missing_ok=True)
    save_json(folder / "about.json", {"name": name, "changes": changes, "count": count})
    for path in folder.glob("vectors-*"):
        if not path.name.startswith(f"{name}."):
            path.unlink(missing_ok=True)
