"""Several rankings as one: reciprocal rank fusion (Cormack, Clarke, Büttcher 2009).

Ranks are added, not scores, so that a cosine and a BM25 need no common scale:

    score of a piece = sum over rankings of weight / (60 + rank), ranks from 1
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

RANK_OFFSET = 60


def fused(rankings: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """The score of everything in any ranking, from (weight, ranking best first) pairs; best first."""
    scores: dict[int, float] = {}
    for weight, ranking in rankings:
        for rank, thing in enumerate(dict.fromkeys(ranking), start=1):
            scores[thing] = scores.get(thing, 0.0) + weight / (RANK_OFFSET + rank)
    return best_first(scores)


def best_first(scores: Mapping[int, float]) -> dict[int, float]:
    """The same in falling order; of equals the smaller number first."""
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
