"""What makes the beginnings of two prompts the same: digests of their media, and keys of their blocks."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from castor.tokens.sequence import Sequence


class Medium(NamedTuple):
    """A picture or clip of sound: its first token, one past its last, and a digest of what it shows."""

    start: int
    stop: int
    digest: bytes


def media_of(sequence: Sequence) -> list[Medium]:
    """Every picture and clip of sound, in the order of tokens."""
    media = []
    for at_P, contents in (
        (sequence.patch_at_P, (sequence.patches_PC, sequence.patch_xy_P2)),
        (sequence.frame_at_S, (sequence.frames_SF,)),
    ):
        breaks = np.flatnonzero(np.diff(at_P) != 1) + 1
        for run in np.split(np.arange(len(at_P)), breaks):
            if len(run):
                digest = hashlib.blake2b(digest_size=16)
                for content in contents:
                    digest.update(np.ascontiguousarray(content[run]).data)
                media.append(Medium(int(at_P[run[0]]), int(at_P[run[-1]]) + 1, digest.digest()))
    return sorted(media)


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
