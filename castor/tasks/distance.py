"""Distances between texts: edits, error rates and character n-gram F-score."""

from collections import Counter
from collections.abc import Sequence

from castor.tasks.normalise import units


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions from one sequence to the other (Levenshtein)."""
    if len(left) < len(right):
        left, right = right, left
    row = list(range(len(right) + 1))
    for at, item in enumerate(left, start=1):
        diagonal, row[0] = row[0], at
        for to, other in enumerate(right, start=1):
            substituted = diagonal + (item != other)
            diagonal = row[to]
            row[to] = min(substituted, row[to] + 1, row[to - 1] + 1)
    return row[-1]


def error_rate(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Edits per reference unit: 0 is perfect, 1 is as bad as silence, more is possible.  Lower is better."""
    if not reference:
        return float(bool(answer))
    return edit_distance(reference, answer) / len(reference)


def word_error_rate(reference: str, answer: str, language: str = "en") -> float:
    """Word error rate of one answer; counted in characters for languages written without spaces."""
    return error_rate(units(reference, language), units(answer, language))


def character_error_rate(reference: str, answer: str, language: str = "en") -> float:
    """Character error rate of one answer after folding; spaces between words count as characters."""
    joint = "" if language in ("zh", "ja") else " "
    return error_rate(joint.join(units(reference, language)), joint.join(units(answer, language)))


def chrf(reference: str, answer: str, *, max_order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score in [0, 1] (Popovic 2015, chrF2): precision and recall averaged over 1..6.

    Spaces are left out; an order neither text is long enough for is left out of the average.
    """
    left, right = "".join(reference.split()), "".join(answer.split())
    precisions, recalls = [], []
    for order in range(1, max_order + 1):
        wanted = Counter(left[at : at + order] for at in range(len(left) - order + 1))
        given = Counter(right[at : at + order] for at in range(len(right) - order + 1))
        if not wanted and not given:
            continue
        shared = (wanted & given).total()
        precisions.append(shared / given.total() if given else 0.0)
        recalls.append(shared / wanted.total() if wanted else 0.0)
    if not precisions:
        return float(left == right)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
