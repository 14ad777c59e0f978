"""Files by likeness: near duplicates, the nearest of some labels, clusters with a name each, and places on a map."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from castor.index.filters import Filter
from castor.index.hits import Hit, hits_of
from castor.index.neighbours import CHUNK_ROWS
from castor.index.textual import EMPTY
from castor.index.words import terms

if TYPE_CHECKING:
    from castor.index.index import Index

ROUNDS = 50  # of k-means at most
PAIR_ROWS = 2_048  # compared with all others at a time
NAMELESS = EMPTY | set(terms("not no as but if so than then also only each all any can may will into one two"))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that belong together, the most typical first. Of duplicates, `score` is the lowest likeness that joined."""

    name: str
    hits: tuple[Hit, ...]
    score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A file with the label nearest to it, its cosine, and how far the next one is behind."""

    hit: Hit
    label: str
    margin: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Clusters, and where each file stands on a plane: x and y in [-1, 1] by content."""

    groups: tuple[Group, ...]
    places: dict[int, tuple[float, float]]
    share: float  # of the vectors' variance that the two axes hold


def file_vectors(index: Index, **filters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A vector of length 1 for each content: ids of contents, of their first pieces, and float32 [N, E].

    A long file's vector is the mean of its pieces'.
    """
    where, values = Filter(**filters).where()
    rows = index.store.rows(
        "SELECT DISTINCT pieces.content, pieces.id FROM pieces JOIN contents ON contents.id = pieces.content "
        f"JOIN files ON files.content = contents.id WHERE {where} ORDER BY pieces.content, pieces.id",
        values,
    )
    if not rows:
        raise ValueError(f"{index.folder}: no file in this index is asked for")
    contents, pieces = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    vectors = index.vectors()
    if not vectors.has(pieces).all():
        raise ValueError(f"{index.folder}: another process changed this index meanwhile; ask again")
    ids, first, which = np.unique(contents, return_index=True, return_inverse=True)
    sums_NE = np.zeros((len(ids), vectors.dimensions), np.float32)
    for at in range(0, len(pieces), CHUNK_ROWS):
        some = slice(at, at + CHUNK_ROWS)
        np.add.at(sums_NE, which[some], vectors.take(vectors.rows_of(pieces[some])))
    sums_NE /= np.maximum(np.linalg.norm(sums_NE, axis=1, keepdims=True), 1e-12)
    return ids, pieces[first], sums_NE


def duplicates(index: Index, likeness: float = 0.98, **filters: Any) -> list[Group]:
    """Groups of files that are copies (likeness 1) or nearly so: each has another of its kind at that cosine or above.

    Files of one content are one thing here, and stand in their hit's `also`.
    """
    if not 0 < likeness <= 1:
        raise ValueError(f"likeness={likeness!r} must lie above 0 and up to 1")
    _, pieces, vectors_NE = file_vectors(index, **filters)
    hits = _hits(index, pieces, filters)
    kinds = np.array([hit.kind for hit in hits])
    leader, lowest = list(range(len(hits))), dict.fromkeys(range(len(hits)), 1.0)
    for start in range(0, len(hits), PAIR_ROWS):
        cosines = vectors_NE[start : start + PAIR_ROWS] @ vectors_NE[start:].T
        for i, j in np.argwhere(cosines >= likeness):
            a, b = start + int(i), start + int(j)
            if a < b and kinds[a] == kinds[b]:
                low, high = sorted((_leader(leader, a), _leader(leader, b)))
                lowest[low] = min(lowest[low], lowest[high], float(cosines[i, j]))
                leader[high] = low
    members: dict[int, list[Hit]] = {}
    for at, hit in enumerate(hits):
        members.setdefault(_leader(leader, at), []).append(hit)
    groups = [
        Group(name=each[0].path, hits=tuple(each), score=round(lowest[at], 4))
        for at, each in members.items()
        if len(each) > 1 or each[0].also
    ]
    return sorted(groups, key=lambda group: (-group.score, group.name))


def _leader(leader: list[int], at: int) -> int:
    while leader[at] != at:
        leader[at] = leader[leader[at]]
        at = leader[at]
    return at


def _hits(index: Index, pieces: np.ndarray, filters: dict[str, Any], scores: np.ndarray | None = None) -> list[Hit]:
    values = np.ones(len(pieces)) if scores is None else scores
    hits = hits_of(index.store, dict(zip(pieces.tolist(), values.tolist(), strict=True)), Filter(**filters))
    if len(hits) != len(pieces):
        raise ValueError(f"{index.folder}: another process changed this index meanwhile; ask again")
    return hits


def classify(index: Index, labels: Sequence[str], **filters: Any) -> list[Labelled]:
    """Each file with the nearest of the labels, none of which was ever trained on; the surest first."""
    labels = list(dict.fromkeys(label.strip() for label in labels if label.strip()))
    if len(labels) < 2:
        raise ValueError(f"labels={labels!r}: to choose among, there must be at least two")
    _, pieces, vectors_NE = file_vectors(index, **filters)
    for_texts_LE, for_media_LE = index.embedder.labels(labels)
    is_text_N = np.array([hit.kind in ("text", "code") for hit in _hits(index, pieces, filters)])
    cosines_NL = np.where(is_text_N[:, None], vectors_NE @ for_texts_LE.T, vectors_NE @ for_media_LE.T)
    order_NL = np.argsort(-cosines_NL, axis=1, kind="stable")
    sorted_NL = np.take_along_axis(cosines_NL, order_NL, axis=1)
    hits = _hits(index, pieces, filters, sorted_NL[:, 0])
    found = [
        Labelled(hit=hit, label=labels[best], margin=float(first - second))
        for hit, best, (first, second) in zip(hits, order_NL[:, 0], sorted_NL[:, :2], strict=True)
    ]
    return sorted(found, key=lambda each: (-each.margin, each.hit.path))


def clusters(index: Index, count: int | None = None, seed: int = 0, **filters: Any) -> Chart:
    """Files in `count` groups by k-means on the sphere, and all of them on a plane (the two main axes, PCA).

    Without a count: the root of half their number, from 2 to 12. A group is named by words that are in its texts and
    names and seldom in others'.
    """
    contents, pieces, vectors_NE = file_vectors(index, **filters)
    if count is not None and not 1 <= count <= len(contents):
        raise ValueError(f"clusters={count} must be from 1 to {len(contents)}, the number of files")
    count = count or min(len(contents), max(2, min(12, round((len(contents) / 2) ** 0.5))))
    which, centres_KE = k_means(vectors_NE, count, seed)
    typical = (vectors_NE * centres_KE[which]).sum(axis=1)
    hits = _hits(index, pieces, filters, typical)
    names = _names(index, hits, which, count)
    groups = []
    for at in range(count):
        members = sorted((hit for hit, each in zip(hits, which, strict=True) if each == at), key=lambda hit: -hit.score)
        if members:
            groups.append(Group(name=names[at], hits=tuple(members), score=float(np.mean([m.score for m in members]))))
    xy_N2, share = plane(vectors_NE)
    places = {int(content): (float(x), float(y)) for content, (x, y) in zip(contents, xy_N2, strict=True)}
    groups.sort(key=lambda group: (-len(group.hits), group.name))
    return Chart(groups=tuple(groups), places=places, share=share)


def k_means(vectors_NE: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Spherical k-means (Dhillon and Modha 2001), begun as k-means++: the cluster of each row, and the centres."""
    rng = np.random.default_rng(seed)
    centres = [vectors_NE[rng.integers(len(vectors_NE))]]
    distance_N = 1 - vectors_NE @ centres[0]
    while len(centres) < count:
        weight_N = np.maximum(distance_N, 0)
        total = float(weight_N.sum())
        chosen = rng.choice(len(vectors_NE), p=weight_N / total) if total > 1e-6 else rng.integers(len(vectors_NE))
        centres.append(vectors_NE[chosen])
        distance_N = np.minimum(distance_N, 1 - vectors_NE @ centres[-1])
    centres_KE, which = np.stack(centres), np.full(len(vectors_NE), -1)
    for _ in range(ROUNDS):
        nearest = (vectors_NE @ centres_KE.T).argmax(axis=1)
        if (nearest == which).all():
            break
        which = nearest
        for at in range(count):
            if (which == at).any():
                mean_E = vectors_NE[which == at].mean(axis=0)
                centres_KE[at] = mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)
    return which, centres_KE


def plane(vectors_NE: np.ndarray) -> tuple[np.ndarray, float]:
    """Where each row lies on the two axes of greatest variance, within [-1, 1], and the share of variance they hold."""
    centred_NE = vectors_NE.astype(np.float64) - vectors_NE.mean(axis=0)
    variance_E, axes_EE = np.linalg.eigh(centred_NE.T @ centred_NE)
    axes_E2 = axes_EE[:, ::-1][:, :2]
    axes_E2 = axes_E2 * np.where(axes_E2[np.abs(axes_E2).argmax(axis=0), [0, 1][: axes_E2.shape[1]]] < 0, -1, 1)
    xy_N2 = centred_NE @ axes_E2
    share = float(variance_E[::-1][:2].sum() / max(variance_E.sum(), 1e-12))
    return xy_N2 / max(float(np.abs(xy_N2).max()), 1e-12), share


def _names_a_thing(word: str) -> bool:
    return word not in NAMELESS and not word.isdecimal() and (len(word) > 2 or word > "\u2e80")


def _names(index: Index, hits: Sequence[Hit], which: np.ndarray, count: int, most: int = 3) -> list[str]:
    """Up to three words for each cluster: in many of its files, in few of the others'."""
    texts: dict[int, list[str]] = {}
    wanted = json.dumps(sorted({hit.content for hit in hits}))
    query = "SELECT content, substr(text, 1, 2000) FROM pieces WHERE content IN (SELECT value FROM json_each(?))"
    for content, text in index.store.rows(query, (wanted,)):
        texts.setdefault(content, []).append(text)
    with_word: list[Counter[str]] = [Counter() for _ in range(count)]
    for hit, at in zip(hits, which, strict=True):
        stem = hit.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        words = terms(" ".join([stem, *texts.get(hit.content, [])]))
        with_word[at].update(filter(_names_a_thing, words))
    everywhere = sum(with_word, Counter())
    names = []
    for at, counted in enumerate(with_word):
        size = int((which == at).sum())
        score = {word: n / size * (n / everywhere[word]) ** 2 for word, n in counted.items() if n > 1 or size == 1}
        best = sorted(score, key=lambda word: (-score[word], word))[:most]
        names.append(", ".join(best) or f"group {at + 1}")
    return names
