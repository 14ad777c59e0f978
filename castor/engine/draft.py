"""Guesses at what a reply says next, looked up in what was read and said (prompt lookup, Saxena 2023).

A guess is computed beside the id before it, in the same step; it is said where it is what would have been chosen, so an
answer has the same ids with or without guesses, drawn ones too. What a wrong one left in the cache is written over.
"""

from __future__ import annotations

MOST_SPEAKING = 2  # requests that speak; with more of them a row of a step costs as much as it gains
FEW, SHARE = 6, 0.4  # after so many tries, at least this share of guesses must have been right


class Lookup:
    """Where each pair of ids of one request last stood, and how often what followed it came again."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, int], int] = {}
        self._num_known = 0  # ids whose pairs have been entered
        self.num_tried = self.num_right = 0

    @property
    def is_useful(self) -> bool:
        """Whether guesses have been right often enough to go on with them."""
        return self.num_tried < FEW or self.num_right >= SHARE * self.num_tried

    def guess(self, ids: list[int], most: int) -> list[int]:
        """`most` ids, those that followed the last two of `ids` when these last stood beside each other before.

        Where these run into the end they go round; none where the pair is new.
        """
        for at in range(max(self._num_known, 2), len(ids)):  # the pair before `at`; the last pair of all not yet
            self._after[ids[at - 2], ids[at - 1]] = at
        self._num_known = max(self._num_known, len(ids))
        if most < 1 or not self.is_useful or len(ids) < 2:
            return []
        found = self._after.get((ids[-2], ids[-1]))
        guessed: list[int] = []
        for at in range(found, found + most) if found is not None else ():
            guessed.append(ids[at] if at < len(ids) else guessed[at - len(ids)])
        return guessed

    def count(self, *, is_right: bool) -> None:
        """What became of a guess that was reached."""
        self.num_tried += 1
        self.num_right += is_right
