"""Media into the decoder's stream without a tower: picture patches and audio frames, projected straight in.

The two modules keep the names and the split of published Gemma 4 unified checkpoints: `PatchEmbedder` ends
before the final projection, which `MediaProjection` does for pictures and sound alike.
"""

from __future__ import annotations

import torch
from torch import nn

from castor.nn.norm import rms_norm


class MediaProjection(nn.Module):
    """Media vectors [S, F] -> RMS norm -> linear -> [S, D]."""

    def __init__(self, media_dim: int, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.embedding_projection = nn.Linear(media_dim, dim, bias=False)

    def forward(self, media_SF: torch.Tensor) -> torch.Tensor:
        media_SF = media_SF.to(self.embedding_projection.weight.dtype)
        return self.embedding_projection(rms_norm(media_SF, None, self.eps))


class PatchEmbedder(nn.Module):
    """Merged patches [P, C] in [0, 1] and (x, y) -> [P, F]: norm, linear, norm, + learned x and y, norm."""

    def __init__(self, patch_dim: int, media_dim: int, num_places: int) -> None:
        super().__init__()
        self.patch_ln1 = nn.LayerNorm(patch_dim)
        self.patch_dense = nn.Linear(patch_dim, media_dim)
        self.patch_ln2 = nn.LayerNorm(media_dim)
        self.pos_embedding = nn.Parameter(torch.zeros(num_places, 2, media_dim))
        self.pos_norm = nn.LayerNorm(media_dim)

    def forward(self, patches_PC: torch.Tensor, xy_P2: torch.Tensor) -> torch.Tensor:
        patches_PC = patches_PC.to(self.patch_dense.weight.dtype)
        x_PF = self.patch_ln2(self.patch_dense(self.patch_ln1(patches_PC)))
        place_PF = self.pos_embedding[xy_P2[:, 0], 0] + self.pos_embedding[xy_P2[:, 1], 1]
        return self.pos_norm(x_PF + place_PF)
