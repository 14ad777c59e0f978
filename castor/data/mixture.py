"""What training sees when: the share of each source as a piecewise-linear function of progress."""

import difflib
import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from castor.example import Example

Weight = float | Sequence[tuple[float, float]]  # constant, or (progress in 0..1, weight) points


class Drawable(Protocol):
    """Anything that gives training examples."""

    def example(self, rng: random.Random) -> Example:
        """One example, chosen by `rng` alone."""
        ...


class Mixture:
    """Named sources with weights that may change over training.

    A weight counts examples, not tokens. Points are joined by straight lines and held flat outside them; only
    the proportions matter at any moment. General sources first, what matters for the task up to the end:

    >>> Mixture({"captions": a, "charts": b}, {"captions": 1.0, "charts": [(0.0, 0.2), (1.0, 2.0)]})
    """

    def __init__(self, sources: Mapping[str, Drawable], weights: Mapping[str, Weight]) -> None:
        for name in weights:
            if name not in sources:
                near = difflib.get_close_matches(name, sources, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; sources are {', '.join(sources)}"
                raise ValueError(f"weight for unknown source {name!r}{hint}")
        if missing := [name for name in sources if name not in weights]:
            raise ValueError(f"source {missing[0]!r} has no weight; give 0 to leave it out")
        self.sources = dict(sources)
        self.points = {name: _points(name, weights[name]) for name in sources}
        turns = sorted({0.0, 1.0} | {at for points in self.points.values() for at, _ in points})
        for at in turns:
            if sum(_value(points, at) for points in self.points.values()) <= 0:
                raise ValueError(f"all weights are zero at progress {at}")

    def shares(self, progress: float) -> dict[str, float]:
        """Probability of each source at `progress` in 0..1; they sum to 1."""
        values = {name: _value(points, progress) for name, points in self.points.items()}
        total = sum(values.values())
        return {name: value / total for name, value in values.items()}

    def pick(self, rng: random.Random, progress: float) -> str:
        """The name of a source, drawn by its share."""
        shares = {name: share for name, share in self.shares(progress).items() if share > 0}
        names, bounds = list(shares), list(accumulate(shares.values()))
        return names[min(bisect_right(bounds, rng.random() * bounds[-1]), len(names) - 1)]

    def draw(self, rng: random.Random, progress: float) -> Example:
        """One example of a drawn source."""
        return self.sources[self.pick(rng, progress)].example(rng)


def _points(name: str, weight: Weight) -> list[tuple[float, float]]:
    pairs = [(0.0, weight)] if isinstance(weight, int | float) else weight
    points = [(float(at), float(value)) for at, value in pairs]
    if not points:
        raise ValueError(f"weight of {name!r} has no points")
    for at, value in points:
        if not 0 <= at <= 1:
            raise ValueError(f"weight of {name!r}: progress must be in 0..1, got {at}")
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"weight of {name!r} must be finite and not negative, got {value}")
    if any(later <= earlier for (earlier, _), (later, _) in zip(points, points[1:], strict=False)):
        raise ValueError(f"weight of {name!r}: progress must increase from point to point, got {points}")
    return points


def _value(points: list[tuple[float, float]], progress: float) -> float:
    after = bisect_right([at for at, _ in points], progress)
    if after == 0 or after == len(points):
        return points[min(after, len(points) - 1)][1]
    (at_0, value_0), (at_1, value_1) = points[after - 1], points[after]
    return value_0 + (value_1 - value_0) * (progress - at_0) / (at_1 - at_0)
