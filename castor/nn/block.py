"""One decoder layer: attention and a gated feed-forward, each normalised before and after ("sandwich").

Beside the feed-forward there may be routed experts, and behind it an input of the layer's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.attention import Attention, KeysValues, LayerContext
from castor.nn.experts import Experts, Router
from castor.nn.linear import Linear
from castor.nn.norm import RMSNorm
from castor.nn.passes import compiled_work
from castor.nn.per_layer import PerLayerGate

if TYPE_CHECKING:
    from castor.nn.cache import KVCache


class FeedForward(nn.Module):
    """GeGLU with the tanh approximation: down(gelu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, inner_dim, bias=False)
        self.up_proj = Linear(dim, inner_dim, bias=False)
        self.down_proj = Linear(inner_dim, dim, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        gate_BTF, up_BTF = self.gate_proj(x_BTD), self.up_proj(x_BTD)
        if (work := compiled_work("gate", gate_BTF, up_BTF)) is not None:
            work(gate_BTF.data_ptr(), up_BTF.data_ptr(), gate_BTF.numel(), torch.get_num_threads())
            return self.down_proj(gate_BTF)
        return self.down_proj(F.gelu(gate_BTF, approximate="tanh") * up_BTF)


class Block(nn.Module):
    """x -> (x + norm(attention(norm(x))), then + norm(feed_forward(norm(x))), then the per-layer input) * layer_scalar.

    With experts, the feed-forward's output is norm(feed_forward(norm(x))) + norm(experts(norm(x))); the router reads x.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        dim: int,
        eps: float,
        *,
        router: Router | None = None,
        experts: Experts | None = None,
        per_layer: PerLayerGate | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = feed_forward
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)
        self.pre_feedforward_layernorm = RMSNorm(dim, eps)
        self.post_feedforward_layernorm = RMSNorm(dim, eps)
        self.router, self.experts, self.ple_block = router, experts, per_layer
        if experts is not None:
            self.post_feedforward_layernorm_1 = RMSNorm(dim, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(dim, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(dim, eps)
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(
        self,
        x_BTD: torch.Tensor,
        context: LayerContext,
        layer: int,
        cache: KVCache | None = None,
        *,
        shared: KeysValues | None = None,
        per_layer_BTF: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeysValues]:
        """The stream behind this layer, and the keys and values it looked at."""
        mixed_BTD, seen = self.self_attn(self.input_layernorm(x_BTD), context, layer, cache, shared)
        x_BTD = x_BTD + self.post_attention_layernorm(mixed_BTD)
        moved_BTD = self.mlp(self.pre_feedforward_layernorm(x_BTD))
        if self.experts is not None:
            moved_BTD = self.post_feedforward_layernorm_1(moved_BTD) + self._through_experts(x_BTD)
        x_BTD = x_BTD + self.post_feedforward_layernorm(moved_BTD)
        if self.ple_block is not None:
            x_BTD = self.ple_block(x_BTD, per_layer_BTF)
        return x_BTD * self.layer_scalar, seen

    def _through_experts(self, x_BTD: torch.Tensor) -> torch.Tensor:
        assert self.router is not None and self.experts is not None
        x_XD = x_BTD.flatten(0, 1)
        moved_XD = self.experts(self.pre_feedforward_layernorm_2(x_XD), *self.router(x_XD))
        return self.post_feedforward_layernorm_2(moved_XD).view_as(x_BTD)
