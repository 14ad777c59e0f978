"""What makes the beginnings of two prompts the same: digests of their media, and keys of their blocks."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from castor.tokens.sequence import Sequence


class Medium(NamedTuple):
    """Tokens of a picture or clip of sound that follow each other, from `start` up to `stop`.

    A clip may lie in several stretches (between a film's frames) and is yet heard as one: `digest` and `runs`, the
    stretches of all its tokens, are those of the whole, and `first` of its tokens come before this stretch.
    """

    start: int
    stop: int
    digest: bytes
    first: int
    runs: tuple[tuple[int, int], ...]


def media_of(sequence: Sequence) -> list[Medium]:
    """Every picture and clip of sound, in the order of tokens."""
    media: list[Medium] = []
    for run in _runs(sequence.patch_at_P):
        digest = _digest(sequence.patches_PC[run], sequence.patch_xy_P2[run])
        span = int(sequence.patch_at_P[run[0]]), int(sequence.patch_at_P[run[-1]]) + 1
        media.append(Medium(*span, digest, 0, (span,)))
    for clip in np.unique(sequence.clip_S):
        own = np.flatnonzero(sequence.clip_S == clip)
        at_S = sequence.frame_at_S[own]
        runs = tuple((int(at_S[run[0]]), int(at_S[run[-1]]) + 1) for run in _runs(at_S))
        digest, first = _digest(sequence.frames_SF[own], np.array(runs) - runs[0][0]), 0
        for start, stop in runs:
            media.append(Medium(start, stop, digest, first, runs))
            first += stop - start
    return sorted(media)


def _runs(at_N: np.ndarray) -> list[np.ndarray]:
    """Indices of the stretches in which places follow each other without a gap."""
    return np.split(np.arange(len(at_N)), np.flatnonzero(np.diff(at_N) != 1) + 1) if len(at_N) else []


def _digest(*contents: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(np.ascontiguousarray(content).data)
    return digest.digest()


class Prefix:
    """The keys of a growing sequence's full blocks, and the places where its computing may be split.

    A key covers the block's ids, all before it, and every medium that a token of the block belongs to, as a whole: in
    a picture earlier tokens see later ones.
    """

    def __init__(self, sequence: Sequence, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.media = media_of(sequence)
        block_T = sequence.block_T
        self._in_picture = np.zeros(len(sequence) + 1, dtype=bool)
        self._in_picture[1:-1] = (block_T[1:] >= 0) & (block_T[1:] == block_T[:-1])
        self.longest_picture = int(np.bincount(block_T[block_T >= 0], minlength=1).max())
        self._keys: list[bytes] = []

    def may_split(self, position: int) -> bool:
        """Whether tokens before and from `position` on can be computed in two steps: no picture lies on both sides."""
        return position >= len(self._in_picture) or not self._in_picture[position]

    def keys(self, ids: list[int], num_tokens: int) -> list[bytes]:
        """The keys of the blocks that are full with `num_tokens` of the sequence's `ids`."""
        for index in range(len(self._keys), num_tokens // self.block_tokens):
            start, stop = index * self.block_tokens, (index + 1) * self.block_tokens
            digest = hashlib.blake2b(self._keys[-1] if self._keys else b"", digest_size=16)
            digest.update(np.array(ids[start:stop], dtype=np.int32).data)
            for medium in self.media:
                if medium.start < stop and medium.stop > start:
                    digest.update(medium.digest)
            self._keys.append(digest.digest())
        return self._keys[: num_tokens // self.block_tokens]
