"""Pack: sequences -> Batch. Rows are filled end to end; only a row's tail is ever unused."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch

from castor.tokens.batch import Batch
from castor.tokens.sequence import Sequence

IGNORE = -100


def plan(lengths: Seq[int], num_rows: int, row_tokens: int) -> list[list[int]]:
    """Indices of the sequences of each row: longest first, each into the fullest row that still holds it.

    An index that fits nowhere is in no row; the caller sees to it. Deterministic.
    """
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [row_tokens] * num_rows
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [row for row in range(num_rows) if room[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda r: (room[r], r))
            rows[row].append(index)
            room[row] -= lengths[index]
    return rows


def pack(sequences: Seq[Sequence], *, num_rows: int, row_tokens: int) -> tuple[Batch, list[int]]:
    """A batch of `num_rows` rows, and the indices of the sequences that found no room."""
    rows = plan([len(s) for s in sequences], num_rows, row_tokens)
    placed = {index for row in rows for index in row}
    batch = collate([[sequences[index] for index in row] for row in rows], row_tokens)
    return batch, [index for index in range(len(sequences)) if index not in placed]


def collate(rows: Seq[Seq[Sequence]], row_tokens: int) -> Batch:
    """Lay out rows that were planned; `row_tokens` is at least the longest row."""
    ids, position, doc, block, target = (
        np.full((len(rows), row_tokens), fill, dtype=np.int64) for fill in (0, 0, -1, -1, IGNORE)
    )
    patches, patch_xy, patch_at, frames, frame_at, clip = [], [], [], [], [], []
    num_clips = 0
    for b, row in enumerate(rows):
        start, num_blocks = 0, 0
        for d, sequence in enumerate(row):
            span = slice(start, start + len(sequence))
            ids[b, span] = sequence.ids_T
            position[b, span] = np.arange(len(sequence))
            doc[b, span] = d
            block[b, span] = np.where(sequence.block_T >= 0, sequence.block_T + num_blocks, -1)
            following = np.where(sequence.is_target_T[1:], sequence.ids_T[1:], IGNORE)
            target[b, start : start + len(sequence) - 1] = following
            patches.append(sequence.patches_PC)
            patch_xy.append(sequence.patch_xy_P2)
            patch_at.append(sequence.patch_at_P + (b * row_tokens + start))
            frames.append(sequence.frames_SF)
            frame_at.append(sequence.frame_at_S + (b * row_tokens + start))
            clip.append(sequence.clip_S + num_clips)
            num_clips += int(sequence.clip_S.max(initial=-1)) + 1
            start += len(sequence)
            num_blocks += int(sequence.block_T.max(initial=-1)) + 1
        assert start <= row_tokens, "a row was planned longer than it is"
    return Batch(
        ids_BT=torch.from_numpy(ids),
        position_BT=torch.from_numpy(position),
        doc_BT=torch.from_numpy(doc),
        block_BT=torch.from_numpy(block),
        target_BT=torch.from_numpy(target),
        patches_PC=_joined(patches, (0, 0), torch.uint8),
        patch_xy_P2=_joined(patch_xy, (0, 2), torch.int64),
        patch_at_P=_joined(patch_at, (0,), torch.int64),
        frames_SF=_joined(frames, (0, 0), torch.float32),
        frame_at_S=_joined(frame_at, (0,), torch.int64),
        clip_S=_joined(clip, (0,), torch.int64),
    )


def _joined(arrays: list[np.ndarray], empty: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The non-empty arrays end to end; they agree on their width because one renderer made them."""
    present = [array for array in arrays if len(array)]
    return torch.from_numpy(np.concatenate(present)).to(dtype) if present else torch.zeros(empty, dtype=dtype)
