"""Candidates by a graph of neighbours (HNSW, Malkov and Yashunin 2016, as usearch builds it), for many pieces.

The graph is made of one bit a number, and where these find too few of the exact neighbours, of bfloat16; both are
scored again with whole vectors. The recall that is stated is measured on the index's own vectors. Like every copy it
lies beside the store and is never trusted over it: pieces that came since are added when it is opened, others dropped.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from castor.checkpoint import load_json, save_json
from castor.index.neighbours import Vectors, exact, recall, rescored
from castor.index.quantise import to_bits
from castor.index.snapshot import STALE_SHARE
from castor.index.store import Store

GRAPH_FROM = 50_000  # pieces below which every vector is scored in less time than a person notices
ENOUGH = 0.95  # recall@10 that a graph of bits must have
ADDED_TOGETHER = 1 << 16
KINDS = ("bits", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What is known of a kept graph. `recall_10` is the share of the exact ten nearest that it finds."""

    name: str
    kind: str
    changes: int
    count: int
    recall_10: float


class Graph:
    """An open graph, as `Candidates`."""

    def __init__(self, graph: Any, kind: str, vectors: Vectors, recall_10: float = 0.0) -> None:
        self._graph, self.kind, self._vectors, self.recall_10 = graph, kind, vectors, recall_10

    @staticmethod
    def facts(store: Store) -> GraphFacts | None:
        """Of the graph that is kept beside a store; None where there is none."""
        path = _folder(store) / "graph.json"
        return GraphFacts(**load_json(path)) if path.is_file() else None

    @staticmethod
    def is_kept(store: Store) -> bool:
        """Whether there is one, and usearch to read it."""
        return Graph.facts(store) is not None and has_usearch()

    @staticmethod
    def is_stale(store: Store, vectors: Vectors) -> bool:
        """Whether there is none, or so many pieces came or went since that it should be made anew."""
        facts = Graph.facts(store)
        if facts is None or not (path := _folder(store) / f"{facts.name}.ids.npy").is_file():
            return True
        changed = len(np.setxor1d(np.load(path), vectors.ids_N, assume_unique=True))
        return changed > STALE_SHARE * len(vectors)

    @classmethod
    def of(cls, store: Store, vectors: Vectors) -> Graph:
        """The kept graph, with what came since it was written; ValueError says how to get one."""
        facts = cls.facts(store)
        if facts is None or not (path := _folder(store) / f"{facts.name}.usearch").is_file():
            raise ValueError(f"{store.folder}: no graph is kept for this index; to make one: castor index --graph")
        is_now = facts.changes == store.changes
        graph = _needed().restore(str(path), view=is_now)
        if not is_now:
            kept = np.load(_folder(store) / f"{facts.name}.ids.npy")
            for gone in np.setdiff1d(kept, vectors.ids_N, assume_unique=True):
                graph.remove(int(gone))
            _add(graph, facts.kind, vectors, np.setdiff1d(vectors.ids_N, kept, assume_unique=True))
        return cls(graph, facts.kind, vectors, facts.recall_10)

    @classmethod
    def made(cls, kind: str, vectors: Vectors) -> Graph:
        """A graph in memory."""
        if kind == "bits":
            graph = _needed()(ndim=8 * -(-vectors.dimensions // 8), metric="hamming", dtype="b1")
        else:
            graph = _needed()(ndim=vectors.dimensions, metric="ip", dtype="bf16")
        _add(graph, kind, vectors, vectors.ids_N)
        return cls(graph, kind, vectors)

    @classmethod
    def build(cls, store: Store, vectors: Vectors, kind: str = "auto", num_queries: int = 200) -> GraphFacts:
        """Make and keep a graph; of "auto", the first of bits and bfloat16 that finds enough."""
        if kind not in ("auto", *KINDS):
            raise ValueError(f"kind={kind!r} is not one of auto, {', '.join(KINDS)}")
        if not len(vectors):
            raise ValueError(f"{store.folder}: a graph is made of pieces, and this index has none")
        changes, made = store.changes, None
        for each in KINDS if kind == "auto" else (kind,):
            made = cls.made(each, vectors)
            made.recall_10 = made.measured(num_queries)
            if made.recall_10 >= ENOUGH:
                break
        assert made is not None
        facts = GraphFacts(
            name=f"graph-{changes}-{made.kind}",
            kind=made.kind,
            changes=changes,
            count=len(vectors),
            recall_10=made.recall_10,
        )
        made._keep(_folder(store), facts)
        return facts

    def measured(self, num_queries: int, k: int = 10) -> float:
        """Recall@k for pieces of the index as questions, each without itself."""
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(len(self._vectors), min(num_queries, len(self._vectors)), replace=False))
        queries_QE = self._vectors.take(rows)
        wanted, _ = exact(self._vectors, queries_QE, k + 1)
        found, _ = rescored(self._vectors, self, queries_QE, k + 1)
        others = [row[row != own][:k] for row, own in zip(wanted, rows, strict=True)]
        hits = [recall(row[None], other[None]) for row, other in zip(found, others, strict=True)]
        return round(float(np.mean(hits)), 4)

    def near(self, queries_QE: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The rows found, [Q, at most count]; -1 where a filter leaves fewer."""
        vectors, share = self._vectors, 1.0 if rows is None else max(len(rows), 1) / len(self._vectors)
        most = min(len(vectors), int(count / share))
        encoded = to_bits(queries_QE) if self.kind == "bits" else np.asarray(queries_QE, np.float32)
        keys_QC = np.atleast_2d(self._graph.search(encoded, most).keys).astype(np.int64)
        rows_QC = np.minimum(np.searchsorted(vectors.ids_N, keys_QC), len(vectors) - 1)
        is_right = vectors.ids_N[rows_QC] == keys_QC
        if rows is not None:
            may = np.zeros(len(vectors), bool)
            may[rows] = True
            is_right &= may[rows_QC]
        found = np.full((len(keys_QC), count), -1, np.int64)
        for at, (named, right) in enumerate(zip(rows_QC, is_right, strict=True)):
            kept = named[right][:count]
            found[at, : len(kept)] = kept
        return found

    @property
    def memory_bytes(self) -> int:
        """Of the graph with its vectors, beside the whole vectors."""
        return self._graph.memory_usage

    def _keep(self, folder: Path, facts: GraphFacts) -> None:
        folder.mkdir(exist_ok=True)
        half_done = folder / f".{facts.name}.{os.getpid()}"
        self._graph.save(str(half_done))
        os.replace(half_done, folder / f"{facts.name}.usearch")
        np.save(folder / f"{facts.name}.ids.npy", self._vectors.ids_N)
        save_json(folder / "graph.json", asdict(facts))
        for path in folder.glob("graph-*"):
            if not path.name.startswith(f"{facts.name}."):
                path.unlink(missing_ok=True)


def _add(graph: Any, kind: str, vectors: Vectors, ids: np.ndarray) -> None:
    for at in range(0, len(ids), ADDED_TOGETHER):
        some = ids[at : at + ADDED_TOGETHER]
        taken_NE = vectors.take(vectors.rows_of(some))
        graph.add(some.astype(np.uint64), to_bits(taken_NE) if kind == "bits" else taken_NE)


def _folder(store: Store) -> Path:
    return store.folder / "scan"


def has_usearch() -> bool:
    """Whether graphs can be made and read here."""
    return _usearch() is not None


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ModuleNotFoundError as error:
        if error.name != "usearch":
            raise
        return None
    return Index


def _needed() -> Any:
    found = _usearch()
    if found is None:
        raise ValueError("a graph needs usearch: pip install 'castor[search]'")
    return found
