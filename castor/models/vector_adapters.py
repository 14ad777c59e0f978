"""Low-rank changes of a decoder's matrices that hold only while it makes vectors (Hu et al. 2021, LoRA).

One checkpoint then writes exactly as the model that it came from, and embeds with weights of its own kind: every matrix
W of its layers and of its ways in for media acts as W + SCALE * B A where vectors are made, and as W where it writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import functional_call

from castor.nn.conv import MatrixConv
from castor.tokens.batch import Batch

SCALE = 2.0  # of B A, as alpha is twice the rank elsewhere
_ONE_AT_A_TIME = threading.Lock()  # a twin has one set of tensors at a time


class VectorAdapters(nn.Module):
    """A [rank, D] and B [F, rank] for every matrix [F, D]; zeros until they are drawn or loaded."""

    def __init__(self, decoder: nn.Module, rank: int) -> None:
        super().__init__()
        matrices = {name: each for name, each in decoder.named_modules() if _is_adapted(name, each)}
        self.names = tuple(matrices)
        shapes = [each.weight.shape for each in matrices.values()]
        self.lora_A = nn.ParameterList(torch.zeros(rank, shape[1]) for shape in shapes)
        self.lora_B = nn.ParameterList(torch.zeros(shape[0], rank) for shape in shapes)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """A uniform as PyTorch draws a linear layer's weights, B zero: nothing is changed at first."""
        for down, up in zip(self.lora_A, self.lora_B, strict=True):
            bound = down.shape[1] ** -0.5
            down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
            up.zero_()

    def changed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The matrices among these as they act where vectors are made, by name."""
        found = {}
        with torch.autocast(self.lora_A[0].device.type, enabled=False):
            for name, down, up in zip(self.names, self.lora_A, self.lora_B, strict=True):
                weight_FD = tensors[f"{name}.weight"]
                change_FD = SCALE * (up.float() @ down.float())
                found[f"{name}.weight"] = (weight_FD.float() + change_FD).to(weight_FD.dtype)
        return found


def _is_adapted(name: str, module: nn.Module) -> bool:
    """Whether it is a matrix other than the head, which is for vectors alone anyway."""
    return isinstance(module, nn.Linear | MatrixConv) and name != "language_model.embedding_projection"


def tensors_like(twin: nn.Module, decoder: nn.Module) -> dict[str, torch.Tensor]:
    """What `decoder` has for each of the twin's tensors, by name; packed matrices are unpacked for the asking."""
    names = [name for name, _ in (*twin.named_parameters(), *twin.named_buffers())]
    places = ((name, *name.rpartition(".")[::2]) for name in names)
    return {name: getattr(decoder.get_submodule(path), leaf) for name, path, leaf in places}


class _SeesBothWays(nn.Module):
    """A decoder's hidden vectors as a module's forward, which is where tensors can be put in place."""

    def __init__(self, decoder: nn.Module, hidden: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.decoder, self.hidden = decoder, hidden

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.hidden(batch, bidirectional=True)


def hidden_with(
    tensors: Mapping[str, torch.Tensor], twin: nn.Module, hidden: Callable[..., torch.Tensor], batch: Batch
) -> torch.Tensor:
    """`hidden`, a method of `twin`, of a batch seen both ways with these tensors for its own: [B, T, D].

    The twin is a decoder without weights, so that one which writes in another thread meanwhile is not touched.
    """
    placed = {f"decoder.{name}": tensor for name, tensor in tensors.items()}
    with _ONE_AT_A_TIME:
        return functional_call(_SeesBothWays(twin, hidden), placed, (batch,), tie_weights=False)
