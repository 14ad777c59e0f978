"""Which matrices of a decoder are kept in 4 or 8 bits, and how a saved one says so.

Linear layers, tables of embeddings and experts of the language model are packed; norms, routers, and what pictures and
sound enter by stay as they are. `config.json` states it under `quantization_config`, where other programs look, too,
and refuse a method they do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from castor.nn.experts import Experts, Router
from castor.nn.kernels import kernels
from castor.nn.packed import BITS, GROUP, ROWS, Packed, PackedEmbedding, PackedLinear, pack
from castor.nn.pages import LargePages

METHOD, FIELD = "castor", "quantization_config"
FORMATS = {"int4": 4, "int8": 8}
EXPERTS = ("gate_up_proj", "down_proj")
LARGE = 1 << 26  # bytes of packed weights from which on large pages are worth a copy
Packer = Callable[[str, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How many bits the matrices have."""

    bits: int = 4
    table_bits: int = 4  # of embedding tables, which are output projections as well

    def __post_init__(self) -> None:
        for name in ("bits", "table_bits"):
            if getattr(self, name) not in BITS:
                raise ValueError(f"{name}={getattr(self, name)} is not one of {BITS}")

    @classmethod
    def of_name(cls, name: str) -> PackConfig:
        """ "int4" or "int8"; ValueError for anything else."""
        if name not in FORMATS:
            raise ValueError(f"quantize={name!r} is not one of {', '.join(FORMATS)}")
        return cls(bits=FORMATS[name], table_bits=FORMATS[name])

    @classmethod
    def of_config(cls, values: Mapping[str, Any]) -> PackConfig | None:
        """What a config.json states; None where nothing is packed, ValueError for a method of other programs."""
        stated = values.get(FIELD)
        if stated is None:
            return None
        method = stated.get("quant_method") if isinstance(stated, Mapping) else stated
        if method != METHOD:
            raise ValueError(f"{FIELD}: weights of the method {method!r} are not read; start from the whole ones")
        if (stated.get("group_size"), stated.get("tile_rows")) != (GROUP, ROWS):
            raise ValueError(f"{FIELD}: tiles of {stated.get('tile_rows')} rows by {stated.get('group_size')} inputs")
        return cls(bits=stated.get("bits"), table_bits=stated.get("table_bits"))

    def stated(self) -> dict[str, Any]:
        """The field's value in config.json."""
        sizes = {"bits": self.bits, "table_bits": self.table_bits, "group_size": GROUP, "tile_rows": ROWS}
        return {"quant_method": METHOD, **sizes}


def packing_of(model: nn.Module) -> PackConfig | None:
    """How a decoder is packed; None where it is not."""
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    if not packed:
        return None
    tables = [module.bits for module in packed if isinstance(module, PackedEmbedding)]
    others = [module.bits for module in packed if not isinstance(module, PackedEmbedding)]
    return PackConfig(bits=others[0], table_bits=tables[0])


def packable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The names of parameters that are packed, and the modules they belong to."""
    routers = {id(module.proj) for module in model.modules() if isinstance(module, Router)}
    for name, module in model.named_modules():
        if not name.startswith("language_model.") or id(module) in routers:
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            yield f"{name}.weight", module
        elif isinstance(module, Experts):
            yield from ((f"{name}.{part}", module) for part in EXPERTS)


def put_packed(model: nn.Module, config: PackConfig, chosen: Set[str] | None = None) -> dict[str, int]:
    """Put empty packed modules in place of what is packed; gives the bits of each parameter that is gone.

    `chosen`: only of these parameters.
    """
    bits_of: dict[str, int] = {}
    for name, module in list(packable(model)):
        if chosen is not None and name not in chosen:
            continue
        bits = config.table_bits if isinstance(module, nn.Embedding) else config.bits
        stem = name.removesuffix(".weight")
        if isinstance(module, nn.Linear):
            model.set_submodule(stem, PackedLinear(module.in_features, module.out_features, bits, module.bias))
        elif isinstance(module, nn.Embedding):
            model.set_submodule(stem, PackedEmbedding(module.num_embeddings, module.embedding_dim, bits))
        else:
            part = stem.rpartition(".")[2]
            num_experts, num_rows, num_inputs = getattr(module, part).shape
            if num_rows % ROWS:
                raise ValueError(f"{stem}: {num_rows} rows an expert are not whole tiles of {ROWS}")
            delattr(module, part)
            setattr(module, part, Packed(num_experts * num_rows, num_inputs, bits))
        bits_of[name] = bits
    return bits_of


def nearest(name: str, weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A parameter of any number of axes as codes and scales, each weight rounded to the nearest."""
    try:
        return pack(weight.flatten(0, -2), bits)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@torch.no_grad()
def pack_decoder(
    model: nn.Module, config: PackConfig, packer: Packer = nearest, chosen: Set[str] | None = None
) -> None:
    """Pack a decoder in place, one matrix after the other; `chosen`: only these parameters, and others later."""
    if chosen is None and packing_of(model) is not None:
        raise ValueError("this model's weights are packed already; start from the whole ones")
    weights = dict(model.named_parameters())
    whole = {name: weights[name].detach() for name, _ in packable(model) if chosen is None or name in chosen}
    del weights
    for name, bits in put_packed(model, config, chosen).items():
        module = model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(module, Packed)
        module.fill(*packer(name, whole.pop(name), bits))
    model.requires_grad_(False)


def into_large_pages(model: nn.Module) -> None:
    """Move packed weights of a model on the CPU to where the compiled products read them fastest."""
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    if kernels() is None or sum(module.num_bytes for module in packed) < LARGE:
        return
    pages = LargePages(tensor.nbytes for module in packed for tensor in module.packed)
    for module in packed:
        module.fill(*(pages.copied(tensor) for tensor in module.packed))
