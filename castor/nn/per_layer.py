"""Per-layer inputs: a narrow vector for every token and every layer, gated into the stream behind the feed-forward.

Introduced with Gemma 3n. Gemma 4's small models make it from a table of its own and from the stream as it enters;
EmbeddingGemma 2 from the stream alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.norm import RMSNorm


class PerLayerInputs(nn.Module):
    """The entering stream [B, T, D] and ids [B, T] -> [B, T, L, F]; `vocab_size` None: without the table of ids."""

    def __init__(self, dim: int, num_layers: int, width: int, vocab_size: int | None, eps: float) -> None:
        super().__init__()
        self.width = width
        self.embed_tokens_per_layer = None if vocab_size is None else nn.Embedding(vocab_size, num_layers * width)
        self.per_layer_model_projection = nn.Linear(dim, num_layers * width, bias=False)
        self.per_layer_projection_norm = RMSNorm(width, eps)

    def forward(self, x_BTD: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        split = (*x_BTD.shape[:2], -1, self.width)
        seen_BTLF = (self.per_layer_model_projection(x_BTD) * x_BTD.shape[-1] ** -0.5).view(split)
        seen_BTLF = self.per_layer_projection_norm(seen_BTLF)
        if self.embed_tokens_per_layer is None:
            return seen_BTLF
        known_BTLF = (self.embed_tokens_per_layer(ids_BT) * self.width**0.5).view(split)
        return (seen_BTLF + known_BTLF.to(seen_BTLF.dtype)) * 2**-0.5


class PerLayerGate(nn.Module):
    """x -> x + norm(out(gelu(in(x)) * this layer's input)), with in: D -> F and out: F -> D."""

    def __init__(self, dim: int, width: int, eps: float) -> None:
        super().__init__()
        self.per_layer_input_gate = nn.Linear(dim, width, bias=False)
        self.per_layer_projection = nn.Linear(width, dim, bias=False)
        self.post_per_layer_input_norm = RMSNorm(dim, eps)

    def forward(self, x_BTD: torch.Tensor, input_BTF: torch.Tensor) -> torch.Tensor:
        gate_BTF = F.gelu(self.per_layer_input_gate(x_BTD), approximate="tanh")
        return x_BTD + self.post_per_layer_input_norm(self.per_layer_projection(gate_BTF * input_BTF))
