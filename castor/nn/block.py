"""One decoder layer: attention and a gated feed-forward, each normalised before and after ("sandwich")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.attention import Attention, LayerContext
from castor.nn.norm import RMSNorm

if TYPE_CHECKING:
    from castor.nn.cache import KVCache


class FeedForward(nn.Module):
    """GeGLU with the tanh approximation: down(gelu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, inner_dim, bias=False)
        self.up_proj = nn.Linear(dim, inner_dim, bias=False)
        self.down_proj = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x_BTD), approximate="tanh") * self.up_proj(x_BTD))


class Block(nn.Module):
    """x -> (x + norm(attention(norm(x))), then + norm(feed_forward(norm(x)))) * layer_scalar."""

    def __init__(self, attention: Attention, feed_forward: FeedForward, dim: int, eps: float) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = feed_forward
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)
        self.pre_feedforward_layernorm = RMSNorm(dim, eps)
        self.post_feedforward_layernorm = RMSNorm(dim, eps)
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(
        self, x_BTD: torch.Tensor, context: LayerContext, layer: int, cache: KVCache | None = None
    ) -> torch.Tensor:
        mixed_BTD = self.self_attn(self.input_layernorm(x_BTD), context, layer, cache)
        x_BTD = x_BTD + self.post_attention_layernorm(mixed_BTD)
        moved_BTD = self.mlp(self.pre_feedforward_layernorm(x_BTD))
        return (x_BTD + self.post_feedforward_layernorm(moved_BTD)) * self.layer_scalar
