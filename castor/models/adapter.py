"""Adapters on disk in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

PEFT loads what `save_adapter` writes onto the transformers model of the same checkpoint, and `load_adapter` reads what
PEFT saves. Settings of PEFT that would change the result and that are not implemented are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from castor.checkpoint import load_json, load_tensors, save_json, save_tensors
from castor.models.decoder import Decoder
from castor.nn.lora import Adapter, LoraConfig, LoraEmbedding, LoraLinear, adaptable, adapter_for, adapters, is_target

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LEVELS = "base_model.model."  # PEFT's own
_OUTPUT = "base_model.model.lm_head"
# Fields that must have one of these values, because what they select is not implemented.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "use_bdlora": (False, None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),  # the others change the base as well
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "velora_config": (None,),
}


def save_adapter(model: nn.Module, folder: str | Path, config: LoraConfig, base: str = "") -> None:
    """Write the adapters of `model`; `base` names the model they belong to. ValueError where it has none."""
    found = dict(adapters(model))
    if not found:
        raise ValueError("this model has no adapters to save")
    tensors: dict[str, torch.Tensor] = {}
    makes_vectors = isinstance(model, Decoder) and model.config.family == "embedding_gemma2"
    outer = "" if makes_vectors else "model."  # the checkpoint's own level
    for name, adapter in found.items():
        ending = ".weight" if isinstance(adapter, LoraLinear) else ""
        tensors |= {
            f"{_LEVELS}{outer}{name}.{key}{ending}": value for key, value in adapter.named_parameters() if "lora" in key
        }
        if isinstance(adapter, LoraEmbedding):  # PEFT keeps the tied output layer's adapter as well
            tensors[f"{_OUTPUT}.lora_A.weight"] = adapter.lora_embedding_B.T
            tensors[f"{_OUTPUT}.lora_B.weight"] = adapter.lora_embedding_A.T
    values = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if makes_vectors else "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stable,
        "target_modules": _target_names(model, found, config, outer),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "ensure_weight_tying": any(isinstance(adapter, LoraEmbedding) for adapter in found.values()),
    }
    folder = Path(folder)
    save_json(folder / CONFIG, values)
    save_tensors(folder / WEIGHTS, tensors)


def _target_names(model: nn.Module, found: Mapping[str, nn.Module], config: LoraConfig, outer: str) -> list[str]:
    """The targets as they were given, where they name what is adapted and nothing else; else every layer's whole name.

    PEFT takes "q_proj" for the layers of a media tower, too, whose bounded maps it cannot adapt.
    """
    named = [name for name, _ in model.named_modules() if any(is_target(name, target) for target in config.targets)]
    if set(named) == set(found) and all("." not in target for target in config.targets):
        return sorted(config.targets)
    return [f"{outer}{name}" for name in found]


def load_adapter(model: nn.Module, folder: str | Path) -> LoraConfig:
    """Put the adapters saved in `folder` onto `model`, and freeze everything else; gives their settings.

    ValueError names the file and what in it is missing, unknown, misshapen or not implemented.
    """
    if any(adapters(model)):
        raise ValueError(f"{folder}: this model has adapters already; merge them first")
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    layers, parts = adaptable(model), _by_layer(folder / WEIGHTS)
    made: dict[str, Adapter] = {}
    for saved_name, tensors in parts.items():
        name = saved_name if saved_name in layers else f"language_model.{saved_name}"  # text-only models lack a level
        if name not in layers:
            raise ValueError(f"{folder / WEIGHTS}: {saved_name} is not a layer of this model")
        adapter = made[name] = adapter_for(layers[name], config)
        if isinstance(adapter, LoraEmbedding):
            _check_table(adapter, tensors.pop("base_layer", None), folder)
        _fill(adapter, tensors, f"{folder / WEIGHTS}: {saved_name}")
    model.requires_grad_(False)
    for name, adapter in made.items():
        model.set_submodule(name, adapter)
    return config


def _check_table(adapter: LoraEmbedding, saved_VD: torch.Tensor | None, folder: Path) -> None:
    """PEFT may save the table beside its adapter, and may adapt it without the output layer: both must be as here."""
    if load_json(folder / CONFIG).get("ensure_weight_tying") is not True:
        raise ValueError(f"{folder / CONFIG}: an adapted embedding needs ensure_weight_tying, as its output is tied")
    own_VD = adapter.base.weight
    if saved_VD is not None and (saved_VD.shape != own_VD.shape or not _is_close(saved_VD, own_VD)):
        raise ValueError(f"{folder / WEIGHTS}: the embedding saved with the adapter is not the one of this model")


def _is_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding to bfloat16."""
    return torch.allclose(a.float(), b.float().to(a.device), rtol=2**-7, atol=1e-6)


def _fill(adapter: Adapter, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    own = {key: value for key, value in adapter.named_parameters() if "lora" in key}
    if odd := sorted(set(tensors) ^ set(own)):
        raise ValueError(f"{where}: {odd[0]} is {'missing' if odd[0] in own else 'not part of an adapter'}")
    for key, parameter in own.items():
        if tensors[key].shape != parameter.shape:
            raise ValueError(f"{where}: {key} has shape {list(tensors[key].shape)}, not {list(parameter.shape)}")
        parameter.data.copy_(tensors[key])


def _read_config(path: Path) -> LoraConfig:
    values = load_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must be a JSON object")
    for key, allowed in _ONLY.items():
        if key in values and values[key] not in allowed:
            raise ValueError(f"{path}: {key}={values[key]!r} is not supported (only {allowed[0]!r})")
    targets = values.get("target_modules") or []
    try:
        return LoraConfig(
            rank=int(values["r"]),
            alpha=float(values["lora_alpha"]),
            dropout=float(values.get("lora_dropout", 0.0)),
            targets=(targets,) if isinstance(targets, str) else tuple(targets),
            rank_stable=bool(values.get("use_rslora", False)),
        )
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _by_layer(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Saved tensors as {layer: {lora_A: ...}}, layers named without PEFT's and the checkpoint's outer levels.

    The adapter of a tied output layer is left out: it is the embedding's.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for saved_name, tensor in load_tensors(path).items():
        name = saved_name.removesuffix(".weight").removeprefix("base_model.model.")
        layer, _, key = name.rpartition(".")
        if is_target(layer, "lm_head"):
            continue
        found.setdefault(layer.removeprefix("model."), {})[key] = tensor
    if not found:
        raise ValueError(f"{path}: no adapters in it")
    return found
