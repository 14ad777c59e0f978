"""A vision transformer in front of the decoder: pictures of any proportions to soft tokens.

The tower of published Gemma 4 and EmbeddingGemma 2, parameter names included. A batch looks the same with and without
it: one square of pixels a token. Inside, a square is `pooling_kernel_size`**2 patches. Nothing is padded: linear maps
run over all patches, attention over pictures with equally many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from castor.config import from_foreign, to_dict
from castor.models.spans import pictures_by_size
from castor.nn.clipped import ClippedLinear
from castor.nn.norm import RMSNorm
from castor.nn.rope import inverse_frequencies, rope_table, rotate

# Fields of Hugging Face's config that must have one of these values.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False, None),
    "attention_dropout": (0.0, None),
}


@dataclass(frozen=True, kw_only=True)
class VisionTowerConfig:
    """The tower, in the field names of Hugging Face's `gemma4_vision`."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 16
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    head_dim: int = 64
    patch_size: int = 16  # pixels
    pooling_kernel_size: int = 3  # patches a side that make one soft token
    position_embedding_size: int = 10_240  # largest x or y of a patch, plus one
    rope_parameters: dict[str, Any] = field(default_factory=lambda: {"rope_type": "axial", "rope_theta": 100.0})
    use_clipped_linears: bool = False
    standardize: bool = False  # shift and scale each feature of a soft token by what the checkpoint says
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads cannot share {self.num_key_value_heads} key heads evenly"
            )
        if self.head_dim % 4:
            raise ValueError(f"head_dim={self.head_dim} must be a multiple of 4: pairs for x and pairs for y")
        if self.rope_parameters.get("rope_type", "axial") not in ("axial", "default"):  # both names mean axial here
            raise ValueError(f"rope_type={self.rope_parameters['rope_type']!r} is not supported (only 'axial')")

    @property
    def model_patch_size(self) -> int:
        """Side of one token's square, pixels."""
        return self.patch_size * self.pooling_kernel_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one token's square."""
        return self.model_patch_size**2 * 3

    @property
    def output_dim(self) -> int:
        """Numbers in a soft token."""
        return self.hidden_size

    @staticmethod
    def from_hf(values: Mapping[str, Any]) -> VisionTowerConfig:
        """The `vision_config` of a `config.json`; ValueError names a field that asks for what is not implemented."""
        given = {key: value for key, value in values.items() if key != "rope_parameters" or value is not None}
        return from_foreign(VisionTowerConfig, given, ONLY, "vision_config.")

    def to_hf(self) -> dict[str, Any]:
        """The `vision_config` of a `config.json`."""
        return {"model_type": "gemma4_vision", "hidden_activation": "gelu_pytorch_tanh"} | to_dict(self)


class VisionTower(nn.Module):
    """Squares [P, C] in [0, 1] and their (x, y) -> soft tokens [P, F], every picture seen whole and alone."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedder = _PatchEmbedder(config)
        self.encoder = _Encoder(config)
        if config.standardize:
            self.register_buffer("std_bias", torch.zeros(config.hidden_size))
            self.register_buffer("std_scale", torch.ones(config.hidden_size))

    def forward(self, squares_PC: torch.Tensor, xy_P2: torch.Tensor) -> torch.Tensor:
        config, pooled = self.config, self.config.pooling_kernel_size**2
        if squares_PC.shape != (len(xy_P2), config.patch_dim):
            raise ValueError(f"squares of shape {list(squares_PC.shape)}, not [{len(xy_P2)}, {config.patch_dim}]")
        order_P, groups = self._groups(xy_P2)
        patches_XC, xy_X2 = _split(squares_PC[order_P], xy_P2[order_P], config)
        shapes = [(num_pictures, num_squares * pooled) for num_pictures, num_squares in groups]
        x_XD = self.encoder(self.patch_embedder(patches_XC, xy_X2), xy_X2, shapes)
        soft_PD = x_XD.view(-1, pooled, config.hidden_size).float().mean(1) * config.hidden_size**0.5
        if config.standardize:
            soft_PD = (soft_PD - self.get_buffer("std_bias").float()) * self.get_buffer("std_scale").float()
        return soft_PD.to(x_XD.dtype)[order_P.argsort()]

    def _groups(self, xy_P2: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """(squares ordered so that pictures with equally many lie together [P], (pictures, squares) of each group)."""
        most = self.config.position_embedding_size // self.config.pooling_kernel_size
        groups: dict[int, list[torch.Tensor]] = {}
        for (height, width), starts_N in pictures_by_size(xy_P2).items():
            if max(height, width) > most:
                raise ValueError(f"a picture of {height} x {width} squares; the tower knows places of up to {most}")
            at_NX = starts_N[:, None] + torch.arange(height * width, device=starts_N.device)
            groups.setdefault(height * width, []).append(at_NX)
        parts = {num_squares: torch.cat(found) for num_squares, found in groups.items()}
        order_P = torch.cat([at_NX.flatten() for at_NX in parts.values()])
        assert len(order_P) == len(xy_P2), "pictures fill the batch's squares"
        return order_P, [(len(at_NX), num_squares) for num_squares, at_NX in parts.items()]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights to train from."""
        for module in self.modules():
            if isinstance(module, ClippedLinear):
                module.reset_parameters(generator)
            elif isinstance(module, RMSNorm) and module.weight is not None:
                module.weight.fill_(1.0)
            elif isinstance(module, _PatchEmbedder):
                projection = module.input_proj
                projection.weight.normal_(0.0, projection.in_features**-0.5, generator=generator)
                module.position_embedding_table.normal_(0.0, 0.3, generator=generator)  # beside patches of about 1
        for module in self.modules():
            if isinstance(module, _Attention):  # after the norms: dot products, which nothing divides, of size 1
                for norm in (module.q_norm, module.k_norm):
                    assert norm.weight is not None
                    norm.weight.fill_(self.config.head_dim**-0.25)
        if self.config.standardize:
            self.get_buffer("std_bias").zero_()
            self.get_buffer("std_scale").fill_(1.0)


def _split(
    squares_PC: torch.Tensor, xy_P2: torch.Tensor, config: VisionTowerConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares as patches, those of one square together, [P * pooling**2, 3 * patch_size**2], and their (x, y)."""
    pooling, px = config.pooling_kernel_size, config.patch_size
    grid = squares_PC.view(-1, pooling, px, pooling, px, 3).transpose(2, 3)
    step = torch.arange(pooling, device=xy_P2.device)
    within_X2 = torch.stack([step.repeat(pooling), step.repeat_interleave(pooling)], dim=1)
    xy_X2 = (xy_P2[:, None] * pooling + within_X2).flatten(0, 1)
    return grid.reshape(-1, px * px * 3), xy_X2


class _PatchEmbedder(nn.Module):
    """Patches [X, C] in [0, 1] -> [X, D]: scaled to [-1, 1], projected, + learned x and y."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.input_proj = nn.Linear(3 * config.patch_size**2, config.hidden_size, bias=False)
        self.position_embedding_table = nn.Parameter(torch.ones(2, config.position_embedding_size, config.hidden_size))

    def forward(self, patches_XC: torch.Tensor, xy_X2: torch.Tensor) -> torch.Tensor:
        table_2ED = self.position_embedding_table
        place_XD = F.embedding(xy_X2[:, 0], table_2ED[0]) + F.embedding(xy_X2[:, 1], table_2ED[1])
        return self.input_proj((2 * (patches_XC - 0.5)).to(self.input_proj.weight.dtype)) + place_XD


class _Encoder(nn.Module):
    """All layers; no final norm. `shapes`: (pictures, patches of each) in the order of the patches."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_XD: torch.Tensor, xy_X2: torch.Tensor, shapes: Sequence[tuple[int, int]]) -> torch.Tensor:
        frequencies = inverse_frequencies(self.config.head_dim // 2, self.config.rope_parameters["rope_theta"])
        cos, sin = (table.transpose(1, 2) for table in rope_table(xy_X2, frequencies))  # [X, 1, 2, H/4]
        for layer in self.layers:
            x_XD = layer(x_XD, cos, sin, shapes)
        return x_XD


class _Layer(nn.Module):
    """x + norm(attention(norm(x))), then + norm(feed_forward(norm(x)))."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = _Attention(config)
        self.mlp = _FeedForward(config)
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)
        self.pre_feedforward_layernorm = RMSNorm(dim, eps)
        self.post_feedforward_layernorm = RMSNorm(dim, eps)

    def forward(
        self, x_XD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, shapes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        mixed_XD = self.self_attn(self.input_layernorm(x_XD), cos, sin, shapes)
        x_XD = x_XD + self.post_attention_layernorm(mixed_XD)
        return x_XD + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_XD)))


class _FeedForward(nn.Module):
    """down(gelu(gate(x)) * up(x))."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        dim, inner, clipped = config.hidden_size, config.intermediate_size, config.use_clipped_linears
        self.gate_proj = ClippedLinear(dim, inner, clipped=clipped)
        self.up_proj = ClippedLinear(dim, inner, clipped=clipped)
        self.down_proj = ClippedLinear(inner, dim, clipped=clipped)

    def forward(self, x_XD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x_XD), approximate="tanh") * self.up_proj(x_XD))


class _Attention(nn.Module):
    """Every patch of a picture sees all of it; half of each head turns with x, the other half with y."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        dim, self.head_dim, clipped = config.hidden_size, config.head_dim, config.use_clipped_linears
        num_wide, num_narrow = (
            heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.grouped = num_wide != num_narrow
        self.q_proj = ClippedLinear(dim, num_wide, clipped=clipped)
        self.k_proj = ClippedLinear(dim, num_narrow, clipped=clipped)
        self.v_proj = ClippedLinear(dim, num_narrow, clipped=clipped)
        self.o_proj = ClippedLinear(num_wide, dim, clipped=clipped)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.v_norm = RMSNorm(self.head_dim, config.rms_norm_eps, scaled=False)

    def forward(
        self, x_XD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, shapes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        heads = (len(x_XD), -1, self.head_dim)
        query_XNH = _turn(self.q_norm(self.q_proj(x_XD).view(heads)), cos, sin)
        key_XKH = _turn(self.k_norm(self.k_proj(x_XD).view(heads)), cos, sin)
        value_XKH = self.v_norm(self.v_proj(x_XD).view(heads))
        sizes = [num_pictures * num_patches for num_pictures, num_patches in shapes]
        groups = zip(shapes, *(part.split(sizes) for part in (query_XNH, key_XKH, value_XKH)), strict=True)
        seen = []
        for shape, *parts in groups:
            query, key, value = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
            out = F.scaled_dot_product_attention(query, key, value, scale=1.0, enable_gqa=self.grouped)
            seen.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.o_proj(torch.cat(seen))


def _turn(x_XNH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary x on the first half of each head, y on the second."""
    return rotate(x_XNH.unflatten(-1, (2, -1)), cos, sin).flatten(-2)
