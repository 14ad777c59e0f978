"""Sequence: one rendered example, still unpacked. Arrays are numpy, so that loader processes need no torch."""

from __future__ import annotations

from dataclasses import dataclass

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
