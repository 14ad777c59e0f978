"""Convolutional ways into the decoder's stream, for small models: neighbouring pixels and sounds are put together here.

A model of a few million parameters and few examples learns shapes and syllables sooner through convolutions than from
raw patches, and each of its tokens can then cover more: 32 pixels square, 80 ms. The large sizes have none of this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from castor.models.config import AudioConfig, VisionConfig
from castor.models.spans import clip_numbers, pictures_by_size
from castor.nn.conv import MatrixConv

GAIN = 1.3  # makes up for what GELU takes away


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.norm(x_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """x + convolution(gelu(convolution(norm(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _ChannelNorm(channels)
        self.inner = MatrixConv(channels, channels, 3, gain=GAIN)
        self.outer = MatrixConv(channels, channels, 3)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return x_NCHW + self.outer(F.gelu(self.inner(self.norm(x_NCHW)), approximate="tanh"))


class ConvPatchEmbedder(nn.Module):
    """Patches [P, C] in [0, 1] and (x, y) -> [P, D], every picture seen whole.

    Convolutions that each halve the resolution, residual blocks, one vector a patch, + learned x and y.
    """

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__()
        self.patch_px = config.model_patch_size
        channels = (3, *config.stem_channels)
        pairs = list(zip(channels, channels[1:], strict=False))
        left = self.patch_px // 2 ** len(pairs)
        if left * 2 ** len(pairs) != self.patch_px:
            raise ValueError(f"{len(pairs)} halvings do not divide a patch of {self.patch_px} pixels")
        self.halvings = nn.ModuleList(MatrixConv(a, b, 3, stride=2, gain=GAIN) for a, b in pairs)
        self.norms = nn.ModuleList(_ChannelNorm(b) for _, b in pairs)
        self.blocks = nn.ModuleList(_Residual(channels[-1]) for _ in range(config.stem_blocks))
        self.last_norm = _ChannelNorm(channels[-1])
        self.merge = MatrixConv(channels[-1], dim, left, stride=left, gain=GAIN)
        self.norm = nn.LayerNorm(dim)
        self.pos_embedding = nn.Parameter(torch.zeros(config.mm_posemb_size, 2, dim))

    def forward(self, patches_PC: torch.Tensor, xy_P2: torch.Tensor) -> torch.Tensor:
        patches_PC = patches_PC.to(self.merge.weight.dtype) * 2 - 1
        vectors, places = [], []
        for (height, width), starts in pictures_by_size(xy_P2).items():
            at_NX = starts[:, None] + torch.arange(height * width, device=starts.device)
            padded_NX = at_NX[torch.arange(_round_up(len(starts), 8), device=starts.device).clamp(max=len(starts) - 1)]
            vectors.append(self._see(patches_PC[padded_NX], height, width)[: at_NX.numel()])
            places.append(at_NX.flatten())
        order_P = torch.cat(places).argsort()
        seen_PD = self.norm(torch.cat(vectors)[order_P])
        return seen_PD + self.pos_embedding[xy_P2[:, 0], 0] + self.pos_embedding[xy_P2[:, 1], 1]

    def _see(self, patches_NXC: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Pictures of `height` x `width` patches, row by row -> [N * X, D]."""
        px = self.patch_px
        grid = patches_NXC.view(-1, height, width, px, px, 3).permute(0, 5, 1, 3, 2, 4)
        x_NCHW = grid.reshape(-1, 3, height * px, width * px).contiguous(memory_format=torch.channels_last)
        for halve, norm in zip(self.halvings, self.norms, strict=True):
            x_NCHW = F.gelu(norm(halve(x_NCHW)), approximate="tanh")
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
        return self.merge(self.last_norm(x_NCHW)).permute(0, 2, 3, 1).flatten(0, 2)


def _round_up(number: int, step: int) -> int:
    """The next multiple of `step`: every new shape costs a CPU's convolutions a plan of their own."""
    return -(-number // step) * step


class ConvFrameEmbedder(nn.Module):
    """Log-mel frames [S, F] of tokens and their places [S] in the stream -> [S, D], every clip heard whole.

    Convolutions over the 10 ms frames, each halving their rate, until one vector a token is left.
    """

    def __init__(self, config: AudioConfig, dim: int) -> None:
        super().__init__()
        self.frames_per_token = 2 ** len(config.stem_channels)
        self.num_mels = config.audio_embed_dim // self.frames_per_token
        if self.num_mels * self.frames_per_token != config.audio_embed_dim:
            raise ValueError(f"{config.audio_embed_dim} numbers do not make {self.frames_per_token} frames")
        channels = (self.num_mels, *config.stem_channels)
        self.halvings = nn.ModuleList(
            MatrixConv(a, b, 3 if index else 5, stride=2, dims=1, gain=GAIN)
            for index, (a, b) in enumerate(zip(channels, channels[1:], strict=False))
        )
        self.project = nn.Linear(channels[-1], dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames_SF: torch.Tensor, at_S: torch.Tensor) -> torch.Tensor:
        clip_S = clip_numbers(at_S) + 1
        place_S = torch.arange(len(at_S), device=at_S.device) + clip_S  # an empty token before each clip
        num_places = _round_up(len(at_S) + int(clip_S[-1]), 64)
        line_XF = frames_SF.new_zeros(num_places, frames_SF.shape[1]).index_copy(0, place_S, frames_SF)
        is_sound_X1 = frames_SF.new_zeros(num_places, 1).index_fill(0, place_S, 1.0)
        x_1CX = line_XF.to(self.project.weight.dtype).view(1, -1, self.num_mels).transpose(1, 2)
        for halve in self.halvings:
            x_1CX = F.gelu(halve(x_1CX), approximate="tanh")
            here_1X = is_sound_X1.expand(-1, x_1CX.shape[2] // num_places).reshape(1, 1, -1)
            x_1CX = x_1CX * here_1X  # the gaps stay empty, as the ends of a clip that is alone
        return self.norm(self.project(x_1CX[0].T[place_S]))
