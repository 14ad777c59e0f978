"""Sequence: one rendered example, still unpacked. Arrays are numpy, so that loader processes need no torch."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Ids and media of one example.

    ids_T int32; is_target_T bool (true where the id is something the model should say); block_T int32 (number of
    the image block a token belongs to, -1 elsewhere); patches_PC uint8 merged image patches, patch_xy_P2 int32 their
    column and row, patch_at_P int32 the token each one fills; frames_SF float32 audio frames, frame_at_S int32, clip_S
    int32 the number of the clip that each is a part of (the stretches of one video's sound track may be one clip).
    """

    ids_T: np.ndarray
    is_target_T: np.ndarray
    block_T: np.ndarray
    patches_PC: np.ndarray
    patch_xy_P2: np.ndarray
    patch_at_P: np.ndarray
    frames_SF: np.ndarray
    frame_at_S: np.ndarray
    clip_S: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_T)

    def __post_init__(self) -> None:
        assert len(self.is_target_T) == len(self.block_T) == len(self.ids_T)
        assert len(self.patches_PC) == len(self.patch_xy_P2) == len(self.patch_at_P)
        assert len(self.frames_SF) == len(self.frame_at_S) == len(self.clip_S)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in vars(self).values())

    def taken(self, at_N: np.ndarray) -> Sequence:
        """The tokens at these rising places, with their patches and frames."""
        new_T = np.full(len(self), -1, dtype=np.int32)
        new_T[at_N] = np.arange(len(at_N))
        patches, frames = new_T[self.patch_at_P] >= 0, new_T[self.frame_at_S] >= 0
        return Sequence(
            ids_T=self.ids_T[at_N],
            is_target_T=self.is_target_T[at_N],
            block_T=self.block_T[at_N],
            patches_PC=self.patches_PC[patches],
            patch_xy_P2=self.patch_xy_P2[patches],
            patch_at_P=new_T[self.patch_at_P[patches]],
            frames_SF=self.frames_SF[frames],
            frame_at_S=new_T[self.frame_at_S[frames]],
            clip_S=self.clip_S[frames],
        )

    def followed_by(self, ids: Seq[int]) -> Sequence:
        """The same with these ids of text or codes behind it, none of them a target."""
        more = np.asarray(ids, dtype=np.int32)
        return replace(
            self,
            ids_T=np.concatenate([self.ids_T, more]),
            is_target_T=np.concatenate([self.is_target_T, np.zeros(len(more), dtype=bool)]),
            block_T=np.concatenate([self.block_T, np.full(len(more), -1, dtype=np.int32)]),
        )
