"""How well vectors find: recall and nDCG of pools, by the numbers kept of a vector and by how they are stored.

float32 is the vector; int8 rounds it to 255 levels of the pool's largest number; binary keeps signs, takes the 50
nearest by Hamming distance and orders these by their int8 vectors. Queries keep their precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from castor.evals.interval import interval

STORAGES = ("float32", "int8", "binary")
SHORTLIST = 50


@dataclass(frozen=True)
class Pool:
    """Queries [Q, E] and targets [N, E] as vectors of length 1, which belong together [Q, N], slices of queries."""

    name: str
    query_QE: np.ndarray
    target_NE: np.ndarray
    is_right_QN: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> bool [Q]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Scores of one pool, or of a slice of its queries."""

    pool: str
    slice: str
    dimensions: int
    storage: str
    num_queries: int
    num_targets: int
    recall_1: float
    low: float  # 95 % interval of recall_1
    high: float
    recall_5: float
    ndcg_10: float
    chance: float  # recall_1 of a random order


def ranked(pool: Pool, dimensions: int, storage: str = "float32") -> np.ndarray:
    """The places of the ten best targets of each query, best first, int64 [Q, 10 or N]; ties go to the earlier one."""
    if storage not in STORAGES:
        raise ValueError(f"storage={storage!r} is not one of {STORAGES}")
    query_QE, target_NE = (unit(x_NE[:, :dimensions]) for x_NE in (pool.query_QE, pool.target_NE))
    near_QN = query_QE @ (target_NE if storage == "float32" else int8(target_NE)).T
    if storage == "binary":
        agree_QN = np.sign(query_QE) @ np.sign(target_NE).T  # dimensions minus twice the Hamming distance
        short_QS = np.argsort(-agree_QN, axis=1, kind="stable")[:, :SHORTLIST]
        kept_QN = np.full_like(near_QN, -np.inf)
        np.put_along_axis(kept_QN, short_QS, np.take_along_axis(near_QN, short_QS, 1), 1)
        near_QN = kept_QN
    return np.argsort(-near_QN, axis=1, kind="stable")[:, :10]


def unit(x_NE: np.ndarray) -> np.ndarray:
    """The same with length 1."""
    return x_NE / np.maximum(np.linalg.norm(x_NE, axis=1, keepdims=True), 1e-12)


def int8(x_NE: np.ndarray) -> np.ndarray:
    """What is left of numbers that are stored in a byte each, with one scale for all."""
    scale = max(float(np.abs(x_NE).max()), 1e-12) / 127
    return np.round(x_NE / scale).astype(np.int8).astype(np.float32) * scale


def scores(order_QK: np.ndarray, is_right_QN: np.ndarray) -> dict[str, np.ndarray]:
    """recall_1, recall_5 (is a right one among the first) and ndcg_10 of each query."""
    hit_QK = np.take_along_axis(is_right_QN, order_QK, axis=1)
    gain_K = 1.0 / np.log2(np.arange(2, hit_QK.shape[1] + 2))
    num_right_Q = np.minimum(is_right_QN.sum(1), hit_QK.shape[1])
    ideal_Q = np.concatenate([[0.0], np.cumsum(gain_K)])[num_right_Q]
    ndcg_Q = (hit_QK * gain_K).sum(1) / np.maximum(ideal_Q, 1e-12)
    return {"recall_1": hit_QK[:, :1].max(1), "recall_5": hit_QK[:, :5].max(1), "ndcg_10": ndcg_Q}


def measure(pool: Pool, dimensions: int, storage: str = "float32", *, sliced: bool = False) -> list[Found]:
    """The pool's scores; with `sliced`, also those of each slice with queries in it."""
    found = scores(ranked(pool, dimensions, storage), pool.is_right_QN)
    everyone = np.ones(len(pool.query_QE), dtype=bool)
    rows = []
    for name, is_in_Q in ({"all": everyone} | (dict(pool.slices) if sliced else {})).items():
        if not is_in_Q.any():
            continue
        first_Q = found["recall_1"][is_in_Q].astype(float)
        low, high = interval(first_Q, np.ones(len(first_Q)))
        rows.append(
            Found(
                pool=pool.name, slice=name, dimensions=dimensions, storage=storage, num_queries=len(first_Q),
                num_targets=len(pool.target_NE), recall_1=float(first_Q.mean()), low=low, high=high,
                recall_5=float(found["recall_5"][is_in_Q].mean()), ndcg_10=float(found["ndcg_10"][is_in_Q].mean()),
                chance=float(pool.is_right_QN[is_in_Q].mean()),
            )
        )  # fmt: skip
    return rows


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """All pools, the sizes and storages of a vector, and what it was run with."""

    rows: tuple[Found, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def main(self) -> list[Found]:
        """Whole vectors as they are, by pool and slice."""
        most = max(row.dimensions for row in self.rows)
        return [row for row in self.rows if (row.dimensions, row.storage) == (most, "float32")]

    def kept(self) -> dict[tuple[int, str], float]:
        """The mean over pools of recall_1 by (dimensions, storage)."""
        found: dict[tuple[int, str], list[float]] = {}
        for row in self.rows:
            if row.slice == "all":
                found.setdefault((row.dimensions, row.storage), []).append(row.recall_1)
        return {key: float(np.mean(values)) for key, values in found.items()}

    def dumps(self) -> str:
        """The report as JSON text."""
        obj = {"settings": dict(self.settings), "rows": [asdict(row) for row in self.rows]}
        return json.dumps(obj, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Two tables: the pools, and what smaller vectors keep."""
        head = "| Pool | Slice | Queries | Targets | R@1 | 95 % interval | R@5 | nDCG@10 | Chance |"
        lines = [head, "|---|---|" + "--:|" * 7]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.cells()]
        lines += ["", "| Dimensions | Storage | Mean R@1 | Kept |", "|--:|---|--:|--:|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.kept_cells()]
        return "\n".join([*lines, ""])

    def cells(self) -> list[tuple[str, ...]]:
        """The first table's."""
        percent = "{:.1f} %".format
        return [
            (
                row.pool if row.slice == "all" else "", row.slice.replace("_", " "), str(row.num_queries),
                str(row.num_targets), percent(100 * row.recall_1), f"{100 * row.low:.1f} – {100 * row.high:.1f}",
                percent(100 * row.recall_5), percent(100 * row.ndcg_10), percent(100 * row.chance),
            )
            for row in self.main()
        ]  # fmt: skip

    def kept_cells(self) -> list[tuple[str, ...]]:
        """The second table's."""
        kept = self.kept()
        whole = kept[max(dim for dim, _ in kept), "float32"]
        return [
            (str(dim), storage, f"{100 * value:.1f} %", f"{100 * value / max(whole, 1e-12):.1f} %")
            for (dim, storage), value in kept.items()
        ]


def report_of(pools: Sequence[Pool], dimensions: Sequence[int], settings: Mapping[str, Any]) -> RetrievalReport:
    """Every pool at every size and in every storage; slices for whole vectors as they are."""
    rows: list[Found] = []
    for dim in dimensions:
        for storage in STORAGES:
            for pool in pools:
                rows += measure(pool, dim, storage, sliced=(dim, storage) == (dimensions[0], "float32"))
    return RetrievalReport(rows=tuple(rows), settings=settings)
