"""What makes the beginnings of two prompts the same: keys of their blocks, and where a prompt may be cut."""

from __future__ import annotations

import hashlib

import numpy as np

from castor.tokens.sequence import Sequence


def media_spans(sequence: Sequence) -> list[tuple[int, int, bytes]]:
    """(first token, one past the last, digest) of every picture and clip of sound, in the order of tokens."""
    spans = []
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
                spans.append((int(at_P[run[0]]), int(at_P[run[-1]]) + 1, digest.digest()))
    return sorted(spans)


class Prefix:
    """The keys of a growing sequence's full blocks, and the places where it may be cut.

    A key covers the block's ids, all before it, and every medium that a token of the block belongs to, as a whole: in
    a picture earlier tokens see later ones.
    """

    def __init__(self, sequence: Sequence, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.media = media_spans(sequence)
        self._inside = np.zeros(len(sequence) + 1, dtype=bool)
        for start, stop, _ in self.media:
            self._inside[start + 1 : stop] = True
        self._keys: list[bytes] = []
        block_T = sequence.block_T
        self._in_picture = np.zeros(len(sequence) + 1, dtype=bool)
        self._in_picture[1:-1] = (block_T[1:] >= 0) & (block_T[1:] == block_T[:-1])
        num_patches = np.bincount(block_T[block_T >= 0]) if (block_T >= 0).any() else np.zeros(1, dtype=int)
        self.longest_picture = int(num_patches.max())

    def may_cut(self, position: int) -> bool:
        """Whether a known beginning may end before token `position`: what lies on both sides would enter in half."""
        return position >= len(self._inside) or not self._inside[position]

    def may_split(self, position: int) -> bool:
        """Whether tokens before and from `position` on can be computed in two steps: no picture lies on both sides."""
        return position >= len(self._in_picture) or not self._in_picture[position]

    def keys(self, ids: list[int], num_tokens: int) -> list[bytes]:
        """The keys of the blocks that are full with `num_tokens` of the sequence's `ids`."""
        for index in range(len(self._keys), num_tokens // self.block_tokens):
            start, stop = index * self.block_tokens, (index + 1) * self.block_tokens
            digest = hashlib.blake2b(self._keys[-1] if self._keys else b"", digest_size=16)
            digest.update(np.array(ids[start:stop], dtype=np.int32).data)
            for first, end, content in self.media:
                if first < stop and end > start:
                    digest.update(content)
            self._keys.append(digest.digest())
        return self._keys[: num_tokens // self.block_tokens]
