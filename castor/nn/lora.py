"""Low-rank adapters (Hu et al. 2021, LoRA): frozen weights W act as W + scale * B A, and only A and B are trained.

B begins at zero, so that an adapted model begins as the model it adapts. How adapters stand on disk is said in
`models/adapter.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.lowbit import LowBitLinear

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What is adapted, and by how much. `targets` are the last parts of layers' names, or whole names."""

    rank: int = 16
    alpha: float = 32.0  # an adapter's product counts alpha / rank
    dropout: float = 0.0  # of the adapter's input, in training
    targets: tuple[str, ...] = ATTENTION + FEED_FORWARD  # "embed_tokens" adapts the embedding, hence the output too
    rank_stable: bool = False  # alpha / sqrt(rank) instead (Kalajdzievski 2023)

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ValueError(f"rank={self.rank} must be at least 1 and alpha={self.alpha} positive and finite")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if not self.targets:
            raise ValueError("targets must name at least one layer")

    @property
    def scale(self) -> float:
        """The factor on B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stable else self.rank)


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter: A [rank, D], B [F, rank], both float32."""

    def __init__(self, base: nn.Linear | LowBitLinear, config: LoraConfig) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, config.scale, config.dropout
        device = next(tensor.device for tensor in (*base.parameters(), *base.buffers()))
        self.lora_A = nn.Parameter(torch.zeros(config.rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, config.rank, device=device))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """A uniform as PyTorch draws a linear layer's weights, B zero."""
        bound = self.lora_A.shape[1] ** -0.5
        self.lora_A.copy_(torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator))
        self.lora_B.zero_()

    @property
    def weight(self) -> torch.Tensor:
        """The weights [F, D] that the layer acts with, in the base's type."""
        base_FD = self.base.weight
        return (base_FD.float() + self.scale * (self.lora_B @ self.lora_A)).to(base_FD.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        shown = F.dropout(x, self.dropout, self.training).to(self.lora_A.dtype)
        return y + (self.scale * F.linear(F.linear(shown, self.lora_A), self.lora_B)).to(y.dtype)

    def merged(self) -> nn.Linear:
        """One plain layer that does the same; four-bit weights come back whole."""
        return _plain(self.weight.detach(), self.base.bias)


class LoraEmbedding(nn.Module):
    """A frozen embedding table and its adapter; the output projection is tied to it, so it is adapted as well.

    In PEFT's layout: A [rank, V] begins at zero, B [D, rank] is drawn.
    """

    def __init__(self, base: nn.Embedding, config: LoraConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.scale
        device = base.weight.device
        self.lora_embedding_A = nn.Parameter(torch.zeros(config.rank, base.num_embeddings, device=device))
        self.lora_embedding_B = nn.Parameter(torch.zeros(base.embedding_dim, config.rank, device=device))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """A zero, B normal."""
        self.lora_embedding_A.zero_()
        self.lora_embedding_B.copy_(torch.randn(self.lora_embedding_B.shape, generator=generator))

    @property
    def weight(self) -> torch.Tensor:
        """The table [V, D] that the model acts with, in the base's type."""
        base_VD = self.base.weight
        return (base_VD.float() + self.scale * (self.lora_embedding_B @ self.lora_embedding_A).T).to(base_VD.dtype)

    def merged(self) -> nn.Embedding:
        """A plain table that does the same."""
        weight_VD = self.weight
        plain = nn.Embedding(weight_VD.shape[0], weight_VD.shape[1], device="meta")
        plain.weight = nn.Parameter(weight_VD.detach())
        return plain


Adapter = LoraLinear | LoraEmbedding


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that an adapter fits, by name; those that have one already are not among them."""
    taken = {f"{name}.base" for name, _ in adapters(model)}
    kinds = nn.Linear | LowBitLinear | nn.Embedding
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds) and name not in taken}


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """A model's adapters with the names of the layers that they adapt."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name, module


def add_adapters(model: nn.Module, config: LoraConfig, seed: int = 0) -> list[str]:
    """Adapt the chosen layers of `model` and freeze everything else; gives their names.

    The same seed draws the same adapters. ValueError where the model is adapted already, and for a target that no
    layer has.
    """
    if any(adapters(model)):
        raise ValueError("this model has adapters already; merge them first")
    layers = adaptable(model)
    chosen = [name for name in layers if any(is_target(name, target) for target in config.targets)]
    for target in config.targets:
        if not any(is_target(name, target) for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(f"targets: no layer {target!r} in this model; there are: {', '.join(known)}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in chosen:
        adapter = adapter_for(layers[name], config)
        adapter.reset_parameters(generator)
        model.set_submodule(name, adapter)
    return chosen


def adapter_for(layer: nn.Module, config: LoraConfig) -> Adapter:
    """The adapter of a layer, all zeros."""
    if isinstance(layer, nn.Embedding):
        return LoraEmbedding(layer, config)
    assert isinstance(layer, nn.Linear | LowBitLinear)
    return LoraLinear(layer, config)


def is_target(name: str, target: str) -> bool:
    """Whether a layer's name is `target` or ends in it."""
    return name == target or name.endswith(f".{target}")


@torch.no_grad()
def merge_adapters(model: nn.Module) -> nn.Module:
    """Put plain layers in place of adapted and of four-bit ones; gives the model, all of it trainable again."""
    for name, adapter in list(adapters(model)):
        model.set_submodule(name, adapter.merged())
    for name, module in list(model.named_modules()):
        if isinstance(module, LowBitLinear):
            model.set_submodule(name, _plain(module.weight, module.bias))
    return model.requires_grad_(True)


def _plain(weight_FD: torch.Tensor, bias_F: nn.Parameter | None) -> nn.Linear:
    plain = nn.Linear(weight_FD.shape[1], weight_FD.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight_FD)
    plain.register_parameter("bias", bias_F)
    return plain
