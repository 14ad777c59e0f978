"""Several rankings as one: reciprocal rank fusion (Cormack, Clarke, Büttcher 2009), in which words count by evidence.

Ranks are added, not scores, so that a cosine and a BM25 need no common scale:

    score of a piece = sum over rankings of weight / (60 + rank), ranks from 1

A ranking by words cannot name a picture, so that adding it to one by meaning would put every text with a single word of
the question before the best of pictures. It is therefore no further voter: of a text that has the share e of the
question's words, weighed by how rare they are, e of the score may come from its rank by words instead. Texts with most
of the words stand beside the nearest of all; without words, meaning alone counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

RANK_OFFSET = 60
ENOUGH = (
    2 / 3
)  # of the question's words, to count as all of them: an ending may differ, and not each is meant to be there
TIE = 1e-6  # of the plain sum, which decides between equals


def fused(rankings: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """The score of everything in any ranking, from (weight, ranking best first) pairs; best first."""
    scores: dict[int, float] = {}
    for weight, ranking in rankings:
        for rank, thing in enumerate(dict.fromkeys(ranking), start=1):
            scores[thing] = scores.get(thing, 0.0) + weight / (RANK_OFFSET + rank)
    return best_first(scores)


def hybrid(meanings: Sequence[Sequence[int]], words: Sequence[int], evidence: Mapping[int, float]) -> dict[int, float]:
    """Rankings by meaning, one a question, and one by words, whose `evidence` for a piece is from 0 to 1; best first.

    How far up a text comes among all pieces, its evidence decides as far as it goes. Which of the texts with words of
    the question takes which of their places is another matter, as words could find all of them: there evidence counts
    twice, and a text with all the words stands where words put it.
    """
    scores = fused((1.0, ranking) for ranking in meanings)
    among_texts = {}
    for piece, said in fused([(float(max(1, len(meanings))), words)]).items():
        meant, share = scores.get(piece, 0.0), min(1.0, evidence.get(piece, 0.0) / ENOUGH)
        scores[piece] = (1.0 - share) * meant + share * max(meant, said) + TIE * said
        among_texts[piece] = (1.0 - share) * meant + 2.0 * share * said
    places = sorted((scores[piece] for piece in among_texts), reverse=True)
    return best_first(scores | dict(zip(best_first(among_texts), places, strict=True)))


def best_first(scores: Mapping[int, float]) -> dict[int, float]:
    """The same in falling order; of equals the smaller number first."""
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
