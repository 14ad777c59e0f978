"""A decoder in Hugging Face layout, read and written: `config.json` and safetensors, never pickle."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from castor.checkpoint import load_json, load_tensors, save_json, save_tensors
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def load_config(folder: str | Path) -> ModelConfig:
    """The config of a saved model; ValueError names the file."""
    path = Path(folder) / CONFIG
    fields = load_json(path)
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object")
    try:
        return ModelConfig.from_hf(fields)
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def load_model(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """The model saved in `folder`, in evaluation mode; `dtype` None keeps the type it was saved in.

    ValueError names a file that is missing or broken, and tensors that are missing, unknown or misshapen.
    """
    folder = Path(folder)
    config = load_config(folder)
    with torch.device("meta"):
        model = Decoder(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        for saved_name, tensor in load_tensors(path).items():
            name = _own_name(saved_name)
            if _is_unused(name, config):
                continue
            if name not in expected:
                raise ValueError(f"{path}: {saved_name} is not part of this model")
            if tensor.shape != expected[name]:
                shapes = f"{list(tensor.shape)}, not {list(expected[name])}"
                raise ValueError(f"{path}: {saved_name} has shape {shapes}")
            found[name] = tensor.to(device=device, dtype=dtype or tensor.dtype)
    missing = [name for name in expected if name not in found and not name.endswith("layer_scalar")]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} tensors are missing: {', '.join(missing[:5])}")
    kept = found["language_model.embed_tokens.weight"].dtype
    for name in expected.keys() - found.keys():
        found[name] = torch.ones(expected[name], device=device, dtype=kept)
    model.load_state_dict(found, assign=True)
    return model.eval().requires_grad_(True)


def weight_files(folder: str | Path) -> Iterable[Path]:
    """The safetensors files of a saved model: the one, or the shards its index names."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: neither {WEIGHTS} nor {INDEX} is here")
    index = load_json(folder / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise ValueError(f"{folder / INDEX}: no weight_map")
    shards = sorted(set(index["weight_map"].values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX}: {shard!r} is not a plain file name")
    return [folder / shard for shard in shards]


def save_model(model: Decoder, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each atomically; `dtype` None keeps the model's type."""
    folder = Path(folder)
    tensors = {
        _their_name(name, model.config): tensor.to(dtype or tensor.dtype) for name, tensor in model.state_dict().items()
    }
    kept = dtype or model.output_weight_VD.dtype
    save_tensors(folder / WEIGHTS, tensors)
    save_json(folder / CONFIG, model.config.to_hf(str(kept).removeprefix("torch.")))


_LANGUAGE_MODEL = ("layers.", "embed_tokens", "norm.", "ple.", "per_layer_", "embedding_projection.")
_SHARED = re.compile(r"language_model\.layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\.")


def _own_name(name: str) -> str:
    """A saved tensor's name as ours: text-only files lack a level, some keep the picture embedder whole."""
    name = name.removeprefix("model.")
    if name.startswith(_LANGUAGE_MODEL):
        name = f"language_model.{name}"
    if name.startswith("embed_vision.multimodal_embedder."):
        return name.replace("multimodal_embedder.", "", 1)
    if name.startswith("embed_vision.") and not name.startswith("embed_vision.embedding_projection"):
        return name.replace("embed_vision.", "vision_embedder.", 1)
    name = re.sub(r"^language_model\.(per_layer_|embed_tokens_per_layer)", r"language_model.ple.\1", name)
    return re.sub(r"^(language_model\.layers\.\d+)\.(per_layer_|post_per_layer_)", r"\1.ple_block.\2", name)


def _their_name(name: str, config: ModelConfig) -> str:
    """The inverse, in the form of the model's family: only EmbeddingGemma 2 has levels for per-layer inputs."""
    if config.is_text_only:
        name = name.removeprefix("language_model.")
    if config.family == "embedding_gemma2":
        return name
    return "model." + name.replace("ple_block.", "").replace("ple.", "")


def _is_unused(name: str, config: ModelConfig) -> bool:
    """Whether a published tensor is one that the model it belongs to does not use.

    The output head is tied: the embedding is there under its own name. Layers that share keys come with projections
    all the same. A tower that the config leaves out may still be in the file.
    """
    if shared := _SHARED.match(name):
        return int(shared[1]) >= config.text.num_own_layers
    left_out = [kind for kind, medium in (("vision", config.vision), ("audio", config.audio)) if medium is None]
    towers = tuple(f"{part}." for kind in left_out for part in (f"{kind}_tower", f"embed_{kind}"))
    return name == "lm_head.weight" or config.family in ("gemma4", "embedding_gemma2") and name.startswith(towers)
