"""The nearest vectors: exactly, or among candidates that fewer bytes name and whole vectors then score.

    exact    every whole vector                                         any number of pieces, until it takes too long
    int8     candidates by 8-bit vectors, scored again                  a quarter of the memory traffic
    bits     candidates by equal signs (Hamming), scored again          a thirty-second of it
    graph    candidates by a graph of neighbours, scored again          `castor.index.graph`

The scores given are always those of whole vectors. How many of the exact answers a form finds is its recall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from castor.index.quantise import to_bits, to_int8
from castor.index.scan import nearest_bits, nearest_bytes

FORMS = ("exact", "int8", "bits", "graph")
CHUNK_ROWS = 1 << 16
CANDIDATES = 10  # for each neighbour wanted, at least 200: what is scored again


@dataclass(frozen=True, eq=False)
class Vectors:
    """Pieces by rising id, int64 [N], and their vectors [N, E] in consecutive parts, in memory or mapped."""

    ids_N: np.ndarray
    parts: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def dimensions(self) -> int:
        """E."""
        return self.parts[0].shape[1]

    def chunks(self) -> list[tuple[int, np.ndarray]]:
        """The first row of each chunk, and the chunk as it is stored, [n, E]."""
        found, start = [], 0
        for part in self.parts:
            for at in range(0, len(part), CHUNK_ROWS):
                found.append((start + at, part[at : at + CHUNK_ROWS]))
            start += len(part)
        return found

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 [R, E] of the rows asked for."""
        taken, start = np.empty((len(rows), self.dimensions), np.float32), 0
        for part in self.parts:
            is_here = (rows >= start) & (rows < start + len(part))
            if is_here.any():
                taken[is_here] = part[rows[is_here] - start]
            start += len(part)
        return taken

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Which of these ids are there: bool [R]."""
        return np.isin(ids, self.ids_N)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of ids that are all there."""
        return np.searchsorted(self.ids_N, ids)


class Candidates(Protocol):
    """Rows likely to be near: [Q, at most C], -1 where there are fewer. `rows` are those that may be named."""

    def near(self, queries_QE: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The rows named."""
        ...


def exact(
    vectors: Vectors, queries_QE: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 and scores float32, both [Q, min(k, N)], best first; of `rows` alone where these are given."""
    queries = torch.from_numpy(np.ascontiguousarray(queries_QE, np.float32))
    if rows is None:
        chunks = ((start, None, chunk) for start, chunk in vectors.chunks())
    else:
        cuts = (rows[at : at + CHUNK_ROWS] for at in range(0, len(rows), CHUNK_ROWS))
        chunks = ((0, cut, vectors.take(cut)) for cut in cuts)
    best_scores, best_rows = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for start, cut, chunk in chunks:
        scores_QN = queries @ torch.from_numpy(np.array(chunk, np.float32)).T
        scores_QK, at_QK = scores_QN.topk(min(k, scores_QN.shape[1]))
        rows_QK = at_QK + start if cut is None else torch.from_numpy(cut)[at_QK]
        best_scores, best_rows = torch.cat([best_scores, scores_QK], 1), torch.cat([best_rows, rows_QK], 1)
        best_scores, order = best_scores.topk(min(k, best_scores.shape[1]))
        best_rows = best_rows.gather(1, order)
    return best_rows.numpy(), best_scores.numpy()


def rescored(
    vectors: Vectors, candidates: Candidates, queries_QE: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `exact`, of the candidates alone; a query with fewer than k of them has -1 and -inf at the end."""
    found_QC = candidates.near(queries_QE, max(200, CANDIDATES * k), rows)
    width = min(k, found_QC.shape[1])
    best_rows = np.full((len(queries_QE), width), -1, np.int64)
    best_scores = np.full((len(queries_QE), width), -np.inf, np.float32)
    for at, query_E in enumerate(np.asarray(queries_QE, np.float32)):
        named = np.sort(found_QC[at][found_QC[at] >= 0])  # in the order of the file, which is read faster so
        scores = vectors.take(named) @ query_E
        order = np.argsort(-scores, kind="stable")[:width]
        best_rows[at, : len(order)], best_scores[at, : len(order)] = named[order], scores[order]
    return best_rows, best_scores


class BitCandidates:
    """Candidates by the number of equal signs."""

    def __init__(self, vectors: Vectors) -> None:
        self.dimensions = vectors.dimensions
        bits = [to_bits(np.asarray(chunk)) for _, chunk in vectors.chunks()]
        self.words_NW = _words(np.concatenate(bits))

    def near(self, queries_QE: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The rows whose signs differ least, [Q, min(count, N)], in any order."""
        most = min(count, len(self.words_NW) if rows is None else len(rows))
        found = np.empty((len(queries_QE), most), np.int64)
        for at, word_W in enumerate(_words(to_bits(queries_QE))):
            named = nearest_bits(self.words_NW, word_W, most, rows)
            found[at] = self._near(word_W, most, rows) if named is None else named
        return found

    def _near(self, word_W: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The same of one query without compiled code."""
        words_NW = self.words_NW if rows is None else self.words_NW[rows]
        found = _smallest(np.bitwise_count(words_NW ^ word_W).sum(axis=1, dtype=np.int32), count)
        return found if rows is None else rows[found]


class ByteCandidates:
    """Candidates by 8-bit vectors."""

    def __init__(self, vectors: Vectors) -> None:
        pairs = [to_int8(np.asarray(chunk, np.float32)) for _, chunk in vectors.chunks()]
        self.codes_NE = np.concatenate([codes for codes, _ in pairs])
        self.scales_N = np.concatenate([scales for _, scales in pairs])

    def near(self, queries_QE: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The rows with the highest products of 8-bit numbers, [Q, min(count, N)], in any order."""
        codes_QE, _ = to_int8(np.asarray(queries_QE, np.float32))
        most = min(count, len(self.codes_NE) if rows is None else len(rows))
        found = np.empty((len(codes_QE), most), np.int64)
        for at, code_E in enumerate(codes_QE):
            named = nearest_bytes(self.codes_NE, self.scales_N, code_E, most, rows)
            if named is None:
                return self._near(codes_QE, most, rows)
            found[at] = named
        return found

    def _near(self, codes_QE: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray:
        """The same without compiled code."""
        codes_NE, scales_N = (
            (self.codes_NE, self.scales_N) if rows is None else (self.codes_NE[rows], self.scales_N[rows])
        )
        products_NQ = torch.empty(len(codes_NE), len(codes_QE), dtype=torch.int32)
        queries = torch.from_numpy(codes_QE.T.copy())
        for at in range(0, len(codes_NE), CHUNK_ROWS):
            products_NQ[at : at + CHUNK_ROWS] = torch._int_mm(torch.from_numpy(codes_NE[at : at + CHUNK_ROWS]), queries)
        scores_NQ = products_NQ.numpy() * scales_N[:, None]
        found = np.stack([_smallest(-scores_N, count) for scores_N in scores_NQ.T])
        return found if rows is None else rows[found]


def candidates_of(form: str, vectors: Vectors) -> Candidates | None:
    """What names candidates in a form other than a graph; None for "exact"."""
    made: dict[str, Callable[[Vectors], Candidates]] = {"int8": ByteCandidates, "bits": BitCandidates}
    if form not in FORMS:
        raise ValueError(f"form={form!r} is not one of {', '.join(FORMS)}")
    return made[form](vectors) if form in made else None


def recall(found_QK: np.ndarray, wanted_QK: np.ndarray) -> float:
    """The share of the wanted rows that were found, whatever their order."""
    hits = [len(np.intersect1d(found, wanted)) for found, wanted in zip(found_QK, wanted_QK, strict=True)]
    return float(np.sum(hits) / wanted_QK.size) if wanted_QK.size else 1.0


def _smallest(values_N: np.ndarray, count: int) -> np.ndarray:
    if count >= len(values_N):
        return np.arange(len(values_N))
    return np.argpartition(values_N, count - 1)[:count]


def _words(bits_NB: np.ndarray) -> np.ndarray:
    """uint8 [N, B] -> uint64 [N, ceil(B / 8)], filled up with zeros."""
    padding = -bits_NB.shape[1] % 8
    return np.ascontiguousarray(np.pad(bits_NB, ((0, 0), (0, padding)))).view(np.uint64)
