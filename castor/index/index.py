"""`Index`: a folder of one's own files that answers. What `castor.Index` is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np

from castor.content import Part, Text
from castor.engine.model import Model, load
from castor.index.build import Progress, Report, UpdateConfig, update
from castor.index.embedder import Embedder
from castor.index.filters import Filter
from castor.index.fuse import best_first, fused, hybrid
from castor.index.graph import GRAPH_FROM, Graph
from castor.index.hits import Hit, hits_of
from castor.index.neighbours import FORMS, Candidates, Vectors, candidates_of, exact, rescored
from castor.index.snapshot import vectors_of
from castor.index.store import Header, Store
from castor.index.textual import by_name, by_words, shares_of, telling_terms
from castor.index.walk import root_of

NAME_WEIGHT = 0.5  # of a file's name beside meaning and words
AWAY = 0.5  # of examples to be far from, beside those to be near to (Rocchio 1971)
FROM_PYTHON = "a loaded model"
DEPTH = 50  # pieces that each ranking names at least


class Index:
    """An index of files. Vectors come from one model, which is loaded when it is first needed.

    >>> index = castor.Index("my-index", model="google/embeddinggemma-2")
    >>> index.update("~/things")
    >>> index.search("a red boat", kinds=("image",))[0].path
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        model: Model | str | None = None,
        dimensions: int | None = None,
        storage: str | None = None,
    ) -> None:
        """The index in `folder`, which is made there when `model` is given and nothing is.

        `model` is a loaded model or a name for `castor.load`; without it, the one that the index was made with is
        loaded by its name. ValueError where an index holds vectors of another model, or of other dimensions.
        """
        self.folder = Path(folder).expanduser()
        self._embedder: Embedder | None = None
        is_there = Store.is_begun(self.folder)
        if model is not None and (not is_there or not isinstance(model, str)):
            self._embedder = self._made(model, dimensions)
        create = None
        if not is_there and self._embedder is not None:
            made = self._embedder
            create = Header(
                model=made.name, identity=made.identity, dimensions=made.dimensions, storage=storage or "float32"
            )
        self.store = Store.open(self.folder, create)
        self._wanted = model if isinstance(model, str) else None
        self._cached: _Current | None = None
        try:
            self._check_settings(dimensions, storage)
        except ValueError:
            self.store.close()
            raise

    def _check_settings(self, dimensions: int | None, storage: str | None) -> None:
        header = self.store.header
        if dimensions not in (None, header.dimensions):
            raise ValueError(f"{self.folder}: this index has vectors of {header.dimensions} numbers, not {dimensions}")
        if storage not in (None, header.storage):
            raise ValueError(f"{self.folder}: this index stores vectors as {header.storage}, not {storage}")
        if self._embedder is not None:
            self._check(self._embedder)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def embedder(self) -> Embedder:
        """The model, loaded on first use and checked against the index's vectors."""
        return self.load_model()

    def load_model(self) -> Embedder:
        """Load it now rather than at the first question; ValueError where it is not the one of the index's vectors."""
        if self._embedder is None:
            made = self._made(self._wanted or self.store.header.model, self.store.header.dimensions)
            self._check(made)
            self._embedder = made
        return self._embedder

    def _made(self, model: Model | str, dimensions: int | None) -> Embedder:
        if not isinstance(model, str):
            return Embedder(model, FROM_PYTHON, dimensions)
        if model == FROM_PYTHON:
            raise ValueError(f"{self.folder}: this index was made with a model given from Python; give it, or its name")
        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        return Embedder(load(model), name, dimensions)

    def _check(self, embedder: Embedder) -> None:
        header = self.store.header
        if (embedder.identity, embedder.dimensions) != (header.identity, header.dimensions):
            raise ValueError(
                f"{self.folder}: this index holds vectors of {header.model} ({header.identity}, {header.dimensions} "
                f"numbers), which cannot be compared with those of {embedder.name} ({embedder.identity}, "
                f"{embedder.dimensions} numbers); give that model, or another folder for the index"
            )

    def update(
        self,
        folder: str | Path | None = None,
        config: UpdateConfig | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Report:
        """Bring in a folder, or bring all folders up to date; `options` are fields of `UpdateConfig`."""
        config = dataclasses.replace(config or UpdateConfig(), **options)
        roots = [root_of(folder)] if folder is not None else self.store.roots()
        if not roots:
            raise ValueError(f"{self.folder}: no folder is indexed yet; name one")
        reports: list[Report] = []
        for root in roots:
            reports.append(update(self.store, lambda: self.embedder, root_of(root), config, progress))
            if reports[-1].is_interrupted:
                break
        return _summed(reports)

    def forget(self, folder: str | Path) -> int:
        """Drop a folder with all its files, whether it still exists or not; gives how many files that were."""
        path = os.path.realpath(Path(folder).expanduser())
        if path not in self.store.roots():
            raise ValueError(f"{folder}: not one of the folders of this index: {', '.join(self.store.roots())}")
        with self.store.writing():
            return self.store.drop_root(path)

    def search(
        self,
        *question: Part | str,
        k: int = 10,
        each: bool = False,
        words: bool = True,
        per_file: bool = True,
        form: str = "auto",
        like: Sequence[str | Path] = (),
        unlike: Sequence[str | Path] = (),
        **filters: Any,
    ) -> list[Hit]:
        """The k best pieces for texts and media, which are one question together, or several (`each`).

        `like` and `unlike` are files (of the index or not) to be near to and far from. `words` also finds by the words
        of texts and names. `per_file` gives each file once. `form` is "auto", or how neighbours are found: "exact",
        "int8", "bits" or "graph". `filters` are fields of `Filter`: kinds, paths, after, before.
        """
        parts = [Text(part) if isinstance(part, str) else part for part in question]
        if not parts and not like:
            raise ValueError("nothing to search for: give a text, a picture, a sound, a video, or files to be like")
        if form not in ("auto", *FORMS):
            raise ValueError(f"form={form!r} is not one of auto, {', '.join(FORMS)}")
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        chosen = Filter(**filters)
        queries_Q2E, known = self._queries(parts, each, like, unlike)
        said = " ".join(part.text for part in parts if isinstance(part, Text)) if words else ""
        return self.found(queries_Q2E, said, chosen, k=k, per_file=per_file, form=form, known=known)

    def found(
        self,
        queries_Q2E: np.ndarray,
        said: str,
        chosen: Filter,
        *,
        k: int,
        per_file: bool = True,
        form: str = "auto",
        known: AbstractSet[int] = frozenset(),
    ) -> list[Hit]:
        """The k best pieces for vectors [Q, 2, E] (for texts, for media) and words; `known` contents are left out."""
        allowed = None if chosen.is_open else self.allowed(chosen)
        depth = max(DEPTH, 5 * k)
        meanings = [self._ranked(query_2E, depth, allowed, form) for query_2E in queries_Q2E]
        by = {"meaning": {piece for ranking in meanings for piece in ranking[:k]}}
        asked = telling_terms(self.store, said)
        found = by_words(self.store, asked, depth, None if allowed is None else allowed.tolist())
        by["words"] = set(found)
        ranked = hybrid(meanings, found, shares_of(self.store, asked, found))
        scores, by["name"] = self._with_names(ranked, by_name(self.store, asked, depth), allowed)
        hits = self._hits(best_first(scores), queries_Q2E, chosen)
        return _top([hit for hit in hits if hit.content not in known], k, per_file, by)

    def _queries(
        self, parts: list[Part], each: bool, like: Sequence[str | Path], unlike: Sequence[str | Path]
    ) -> tuple[np.ndarray, set[int]]:
        """Query vectors [Q, 2, E] (for texts, for media), and the contents of the files given, which are no answer."""
        from castor.index.examples import example_vector

        groups = [[part] for part in parts] if each else [parts] if parts else []
        asked = [self.embedder.question(group) for group in groups]
        if not like and not unlike:
            return np.stack(asked), set()
        good = [example_vector(self, path) for path in like]
        bad = [example_vector(self, path) for path in unlike]
        known = {content for _, content in (*good, *bad) if content is not None}
        centre_2E = np.mean([*asked, *(vector_E[None].repeat(2, 0) for vector_E, _ in good)], axis=0)
        if bad:
            centre_2E = centre_2E - AWAY * np.mean([vector_E for vector_E, _ in bad], axis=0)
        norms = np.maximum(np.linalg.norm(centre_2E, axis=1, keepdims=True), 1e-12)
        return (centre_2E / norms).astype(np.float32)[None], known

    def _ranked(self, query_2E: np.ndarray, count: int, allowed: np.ndarray | None, form: str) -> list[int]:
        """The nearest pieces, best first: texts and media each by the query that is for them, in one order."""
        if (query_2E[0] == query_2E[1]).all():
            ids, _ = self.nearest(query_2E[:1], count, allowed=allowed, form=form)
            return ids[0].tolist()
        now = self._current()
        rows, is_text_N = now.rows_of(allowed), self._is_text(now)
        found: list[tuple[float, int]] = []
        for side, query_E in zip((is_text_N, ~is_text_N), query_2E, strict=True):
            its = np.flatnonzero(side) if rows is None else rows[side[rows]]
            near, scores = self._nearest(now, query_E[None], count, its, form)
            found += zip((-scores[0]).tolist(), now.vectors.ids_N[near[0]].tolist(), strict=True)
        return [piece for _, piece in sorted(found)[:count]]

    def _with_names(
        self, scores: dict[int, float], contents: list[int], allowed: np.ndarray | None
    ) -> tuple[dict[int, float], set[int]]:
        """Scores of pieces raised where the file's name has the words: of its best piece so far, or of its first."""
        pieces_of: dict[int, list[int]] = {}
        for content in contents:
            pieces_of[content] = [
                piece for (piece,) in self.store.rows("SELECT id FROM pieces WHERE content = ? ORDER BY id", (content,))
            ]
        may = None if allowed is None else set(allowed.tolist())
        best = [
            max(able, key=lambda piece: (scores.get(piece, 0.0), -piece))
            for pieces in pieces_of.values()
            if (able := [piece for piece in pieces if may is None or piece in may])
        ]
        for piece, score in fused([(NAME_WEIGHT, best)]).items():
            scores[piece] = scores.get(piece, 0.0) + score
        return scores, set(best)

    def _hits(self, scores: dict[int, float], queries_Q2E: np.ndarray, chosen: Filter) -> list[Hit]:
        """Hits in the order of the scores, each with the cosine to the nearest of the questions."""
        now, pieces = self._current(), np.array(list(scores), np.int64)
        pieces = pieces[now.vectors.has(pieces)]  # another process may have dropped some since they were found
        rows = now.vectors.rows_of(pieces)
        cosines_NQ2 = np.einsum("ne,qse->nqs", now.vectors.take(rows), queries_Q2E)
        cosines_N2 = cosines_NQ2.max(axis=1)
        cosines = np.where(self._is_text(now)[rows], cosines_N2[:, 0], cosines_N2[:, 1])
        return hits_of(self.store, dict(zip(pieces.tolist(), cosines.tolist(), strict=True)), chosen)

    def allowed(self, chosen: Filter) -> np.ndarray:
        """The ids of pieces that pass a filter, rising: int64 [N]."""
        where, values = chosen.where()
        rows = self.store.rows(
            "SELECT DISTINCT pieces.id FROM pieces JOIN contents ON contents.id = pieces.content "
            f"JOIN files ON files.content = contents.id WHERE {where} ORDER BY pieces.id",
            values,
        )
        return np.array([piece for (piece,) in rows], np.int64)

    def vectors(self) -> Vectors:
        """All vectors as they are now."""
        return self._current().vectors

    def _is_text(self, now: _Current) -> np.ndarray:
        """Which rows are of texts and code: bool [N]. Pictures of pages are media."""
        if now.is_text_N is None:
            rows = self.store.rows(
                "SELECT pieces.id FROM pieces JOIN contents ON contents.id = pieces.content "
                "WHERE kind IN ('text', 'code')"
            )
            now.is_text_N = np.isin(now.vectors.ids_N, np.array([piece for (piece,) in rows], np.int64))
        return now.is_text_N

    def _current(self) -> _Current:
        changes = self.store.changes
        if self._cached is None or self._cached.changes != changes:
            vectors, there = vectors_of(self.store), self.store.piece_ids()
            is_there = np.isin(vectors.ids_N, there, assume_unique=True)
            rows = None if is_there.all() else np.flatnonzero(is_there)
            self._cached = _Current(changes=changes, vectors=vectors, rows=rows)
        return self._cached

    def nearest(
        self, queries_QE: np.ndarray, k: int, *, allowed: np.ndarray | None = None, form: str = "auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of pieces and cosines, [Q, at most k], best first; of `allowed` pieces alone where these are given."""
        now = self._current()
        found, scores = self._nearest(now, queries_QE, k, now.rows_of(allowed), form)
        return now.vectors.ids_N[found], scores

    def _nearest(
        self, now: _Current, queries_QE: np.ndarray, k: int, rows: np.ndarray | None, form: str
    ) -> tuple[np.ndarray, np.ndarray]:
        vectors = now.vectors
        num = len(vectors) if rows is None else len(rows)
        if form == "auto":
            form = "exact" if num < GRAPH_FROM else "graph" if Graph.is_kept(self.store) else "bits"
        if form not in now.candidates:
            now.candidates[form] = Graph.of(self.store, vectors) if form == "graph" else candidates_of(form, vectors)
        if not num:
            return np.zeros((len(queries_QE), 0), np.int64), np.zeros((len(queries_QE), 0), np.float32)
        candidates = now.candidates[form]
        if candidates is None:
            return exact(vectors, queries_QE, k, rows)
        found, scores = rescored(vectors, candidates, queries_QE, k, rows)
        is_there = (found >= 0).all(axis=0)
        return found[:, is_there], scores[:, is_there]


@dataclasses.dataclass(kw_only=True)
class _Current:
    """The vectors as they were at a count of changes, and what was computed from them.

    Whoever needs two things of it asks for it once: another process may change the store between two questions.
    """

    changes: int
    vectors: Vectors
    rows: np.ndarray | None  # those that are there; None for all: a kept copy may have some that are gone
    is_text_N: np.ndarray | None = None
    candidates: dict[str, Candidates | None] = dataclasses.field(default_factory=dict)

    def rows_of(self, allowed: np.ndarray | None) -> np.ndarray | None:
        """The rows that may be found: of these pieces, or all that are there (None: every row)."""
        return self.rows if allowed is None else self.vectors.rows_of(allowed[self.vectors.has(allowed)])


def _top(hits: Sequence[Hit], k: int, per_file: bool, by: dict[str, set[int]]) -> list[Hit]:
    """The first k, of each content one where asked, with the other places that were found in it."""
    grouped: dict[int, list[Hit]] = {}
    for hit in hits:
        grouped.setdefault(hit.content if per_file else hit.piece, []).append(hit)
    made = []
    for first, *rest in list(grouped.values())[:k]:
        told = tuple(name for name, pieces in by.items() if first.piece in pieces)
        more = tuple(hit.place for hit in rest[:3])
        made.append(dataclasses.replace(first, found_by=told, more=more))
    return made


def _summed(reports: list[Report]) -> Report:
    total = Report()
    for report in reports:
        for name in ("num_new", "num_changed", "num_same", "num_moved", "num_dropped", "num_pieces", "total_s"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        total.problems += report.problems
        total.seconds = {name: seconds + report.seconds[name] for name, seconds in total.seconds.items()}
        total.is_interrupted |= report.is_interrupted
    return total
