"""PairBatch: queries and what they should find, packed into chunks of one shape; what contrastive training takes."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import torch

from castor.tokens.batch import Batch
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence


@dataclass(frozen=True)
class Rendered:
    """One pair as sequences; equal keys say that two queries, or two targets, mean the same."""

    query: Sequence
    target: Sequence
    negative: Sequence | None
    query_key: int
    target_key: int

    @property
    def sequences(self) -> list[Sequence]:
        """All of it that becomes vectors."""
        return [self.query, self.target] + ([] if self.negative is None else [self.negative])

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(sequence.num_bytes for sequence in self.sequences)

    def __len__(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """N pairs as chunks, batches of the same number of rows and tokens.

    Documents come chunk by chunk, row by row, and in a row by their number; slot_Y int64 says of each which vector it
    is: query i at i, its target at N + i, its negative at 2N + i. has_negative_N bool; keys_N2 int64, of query and
    target. `rank` is the number of this part among those whose vectors are compared with each other.
    """

    chunks: list[Batch]
    slot_Y: torch.Tensor
    has_negative_N: torch.Tensor
    keys_N2: torch.Tensor
    rank: int = 0

    def __len__(self) -> int:
        return len(self.keys_N2)

    @property
    def num_tokens(self) -> int:
        """Tokens that belong to a document."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_places(self) -> int:
        """Tokens that there is room for."""
        return sum(chunk.num_places for chunk in self.chunks)

    def to(self, device: torch.device | str) -> PairBatch:
        """The same on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("slot_Y", "has_negative_N", "keys_N2")}
        return replace(self, chunks=[chunk.to(device) for chunk in self.chunks], **moved)


def pack_pairs(pairs: Seq[Rendered], *, num_rows: int, row_tokens: int, rank: int = 0) -> PairBatch:
    """All of the pairs, in as few chunks as first fit makes of them; each sequence is at most a row."""
    num = len(pairs)
    sequences: list[tuple[int, Sequence]] = []
    for i, pair in enumerate(pairs):
        sequences += [(side * num + i, sequence) for side, sequence in enumerate(pair.sequences)]
    rows: list[list[int]] = []
    room: list[int] = []
    for at in sorted(range(len(sequences)), key=lambda at: (-len(sequences[at][1]), at)):
        length = len(sequences[at][1])
        assert length <= row_tokens, "longer than a row"
        row = next((row for row, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(at)
        room[row] -= length
    rows += [[] for _ in range(-len(rows) % num_rows)]
    chunks = [
        collate([[sequences[at][1] for at in row] for row in rows[first : first + num_rows]], row_tokens)
        for first in range(0, len(rows), num_rows)
    ]
    return PairBatch(
        chunks=chunks,
        slot_Y=torch.tensor([sequences[at][0] for row in rows for at in row]),
        has_negative_N=torch.tensor([pair.negative is not None for pair in pairs]),
        keys_N2=torch.tensor([[pair.query_key, pair.target_key] for pair in pairs]),
        rank=rank,
    )
