"""Optimizers: Muon for the hidden matrices, AdamW for everything else, behind one step and one state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from castor.train.muon import Muon


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer settings; rates are peaks that the schedule scales."""

    name: str = "muon"  # "muon" or "adamw"
    learning_rate: float = 6e-3  # matrices
    other_learning_rate: float = 3e-3  # embeddings, norms, biases
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.97
    momentum: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("muon", "adamw"):
            raise ValueError(f"optim.name={self.name!r} is not one of ['muon', 'adamw']")


class Optimizer:
    """The optimizers of a model as one: `step(scale)`, and a flat tensor state that saves as safetensors."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.config = config
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {name for name, p in self.parameters.items() if config.name == "muon" and _is_hidden(name, p)}
        rest = [p for name, p in self.parameters.items() if name not in matrices and p.ndim >= 2]
        small = [p for name, p in self.parameters.items() if name not in matrices and p.ndim < 2]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters.values())
        adamw = torch.optim.AdamW(
            [{"params": rest, "weight_decay": config.weight_decay}, {"params": small, "weight_decay": 0.0}],
            lr=config.other_learning_rate,
            betas=(config.beta1, config.beta2),
            fused=fused,
        )
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [(adamw, config.other_learning_rate)]
        if matrices:
            muon = Muon(
                [self.parameters[name] for name in sorted(matrices)],
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
            self._parts.append((muon, config.learning_rate))

    def step(self, scale: float) -> float:
        """Clip, update with the rates times `scale`, clear the gradients; gives the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)
        for optimizer, rate in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
        self.clear()
        return float(norm)

    def clear(self) -> None:
        """Forget the gradients."""
        for optimizer, _ in self._parts:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Every state tensor under "parameter name|state name"."""
        tensors = {}
        for name, parameter in self.parameters.items():
            for optimizer, _ in self._parts:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"{name}|{key}"] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave; ValueError where a parameter is unknown."""
        for full, value in tensors.items():
            name, _, key = full.partition("|")
            if name not in self.parameters:
                raise ValueError(f"optimizer state for {name!r}, which the model does not have")
            for optimizer, _ in self._parts:
                if any(self.parameters[name] is p for group in optimizer.param_groups for p in group["params"]):
                    stored = value if key == "step" else value.to(self.parameters[name].device)
                    optimizer.state[self.parameters[name]][key] = stored


def _is_hidden(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is a matrix that maps vectors to vectors; a table that is looked up is not."""
    return parameter.ndim == 2 and not name.endswith(("embed_tokens.weight", "embed_tokens_per_layer.weight"))


def count_parameters(parameters: Iterable[torch.Tensor]) -> int:
    """Numbers in the parameters."""
    return sum(p.numel() for p in parameters)
