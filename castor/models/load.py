"""A decoder in Hugging Face layout, read and written: `config.json` and safetensors, never pickle.

Everything that can be wrong with a folder is found from its headers, before any weight is read: files that are
missing or cut short, tensors that are missing, unknown, of another shape or no numbers, and too little memory.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from castor.checkpoint import load_json, save_json, save_tensors
from castor.models import audio_tower, vision_tower
from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import AudioConfig, ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.models.packing import FIELD, PackConfig, into_large_pages, nearest, packing_of, put_packed
from castor.models.shards import FLOATS, INDEX, KINDS, WEIGHTS, MappedFile, Saved, read_headers, weight_files
from castor.models.text_config import FAMILIES, TEXT_FAMILIES, TextConfig
from castor.models.vision_tower import VisionTowerConfig
from castor.runtime import available_bytes

__all__ = ["CONFIG", "INDEX", "WEIGHTS", "load_config", "load_model", "save_model", "weight_files"]
CONFIG = "config.json"
READERS = 2  # threads that convert: most of it is the kernel's work of giving fresh pages, which waits on one alone
NORM = "language_model.norm.weight"

# Fields of a config.json that concern other programs and change no number here.
_OTHER_PROGRAMS = {
    "_name_or_path", "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "gradient_checkpointing",
    "id2label", "initializer_range", "is_encoder_decoder", "label2id", "max_length", "model_type",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
# Of a vision tower: no limit is needed where nothing is padded, and the processor says how many tokens a picture has.
_VISION_UNUSED = ("default_output_length", "max_position_embeddings")
# Fields that `ModelConfig.from_hf` reads or refuses beside those of its dataclasses.
_READ_TOO = {
    "text_config": {
        "attention_dropout", "enable_moe_block", "hidden_activation", "hidden_size_per_layer_input", "is_causal",
        "num_kv_shared_layers", "per_layer_config", "tie_word_embeddings", "use_double_wide_mlp",
        "vocab_size_per_layer_input", "expert_intermediate_size", "moe_intermediate_size", "num_experts",
        "top_k_experts",
    },
    "vision_config": {"output_proj_dims", "num_soft_tokens", "model_patch_size", *vision_tower.ONLY, *_VISION_UNUSED},
    "audio_config": {*audio_tower.ONLY},
    "": {"text_config", "vision_config", "audio_config", "tie_word_embeddings", "eos_token_id", "bos_token_id",
         "pad_token_id", "vision_soft_tokens_per_image"},
}  # fmt: skip
_PARTS: dict[str, tuple[type[Any], ...]] = {
    "text_config": (TextConfig,),
    "vision_config": (VisionConfig, VisionTowerConfig),
    "audio_config": (AudioConfig, AudioTowerConfig),
}


def load_config(folder: str | Path) -> ModelConfig:
    """The config of a saved model; ValueError names the file, and a field that nothing here knows."""
    path, values = Path(folder) / CONFIG, _values(folder)
    try:
        _check_fields(values)
        return ModelConfig.from_hf(values)
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def load_packing(folder: str | Path) -> PackConfig | None:
    """How the weights of a saved model are packed; None where they are whole."""
    try:
        return PackConfig.of_config(_values(folder, with_packing=True))
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{Path(folder) / CONFIG}: {error}") from None


def _values(folder: str | Path, *, with_packing: bool = False) -> dict[str, Any]:
    path = Path(folder) / CONFIG
    values = load_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must be a JSON object")
    return {key: value for key, value in values.items() if with_packing or key != FIELD}


def _check_fields(values: Mapping[str, Any]) -> None:
    """ValueError for a field that neither this code nor the list of harmless ones knows: it may change the result."""
    parts, kind = {"text_config": values}, values.get("model_type")
    if kind not in (*FAMILIES, *TEXT_FAMILIES):
        return  # refused as a whole
    if kind in FAMILIES:
        parts = {"": values} | {name: values[name] for name in _PARTS if isinstance(values.get(name), Mapping)}
    for part, given in parts.items():
        kinds = _PARTS.get(part, (ModelConfig,))
        known = {name for kind in kinds for name in kind.__dataclass_fields__} | _READ_TOO[part] | _OTHER_PROGRAMS
        if unknown := sorted(set(given) - known):
            near = difflib.get_close_matches(unknown[0], known - _OTHER_PROGRAMS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            name = f"{part}.{unknown[0]}" if part else unknown[0]
            raise ValueError(f"unknown field {name}={given[unknown[0]]!r}{hint}")


def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    pack: PackConfig | None = None,
) -> Decoder:
    """The model saved in `folder`, in evaluation mode; `dtype` None keeps the type it was saved in.

    Weights on the CPU in their saved type are the file's own pages; others are copied tensor by tensor, two at a time,
    so that the peak is the model and its two largest tensors. With `pack` matrices are kept in few bits, rounded as
    they are read; a folder of packed weights is taken as it is. ValueError, before any work, names what is wrong with
    the folder.
    """
    folder = Path(folder)
    config, stated = load_config(folder), load_packing(folder)
    if stated is not None and pack not in (None, stated):
        raise ValueError(f"{folder}: the weights are packed with {stated.stated()}; start from the whole ones")
    with torch.device("meta"), _NoInit():
        model = Decoder(config)
    if stated is not None:
        put_packed(model, stated)
    plan = _plan(folder, model.state_dict(), config)
    bits_of = {} if stated is not None or pack is None else put_packed(model, pack)
    expected = model.state_dict()
    kept = {name: tensor.dtype for name, tensor in expected.items() if name.endswith((".codes", ".scales"))}
    _check_memory(folder, expected, plan, kept, device, dtype)
    files = {path: MappedFile(path) for path in sorted({saved.path for saved in plan.values()})}

    def tensors(item: tuple[str, Saved]) -> dict[str, torch.Tensor]:
        name, saved = item
        if (bits := bits_of.get(name)) is not None:
            whole = files[saved.path].tensor(saved, device=device, dtype=FLOATS[saved.dtype])
            packed = nearest(name, whole, bits)
            files[saved.path].forget(saved)
            return {f"{name.removesuffix('.weight')}.{part}": packed[i] for i, part in enumerate(("codes", "scales"))}
        wanted = kept.get(name, dtype or KINDS[saved.dtype])
        return {name: files[saved.path].tensor(saved, device=device, dtype=wanted)}

    with ThreadPoolExecutor(READERS) as readers:
        found = {name: tensor for each in readers.map(tensors, plan.items()) for name, tensor in each.items()}
    for name in expected.keys() - found.keys():
        found[name] = torch.ones(expected[name].shape, device=device, dtype=found[NORM].dtype)
    model.load_state_dict(found, assign=True)
    if kept and torch.device(device).type == "cpu":
        into_large_pages(model)
    return model.eval().requires_grad_(not kept)


class _NoInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which has nothing to do on the meta device but imports torch's compiler: a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _plan(folder: Path, expected: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, Saved]:
    """Which saved tensor fills which of ours; ValueError for one that is missing, unknown or of another form."""
    plan: dict[str, Saved] = {}
    unknown: list[Saved] = []
    for saved in read_headers(weight_files(folder)):
        name = _own_name(saved.name)
        if _is_unused(name, config):
            continue
        if name not in expected:
            unknown.append(saved)
            continue
        if name in plan:
            raise ValueError(f"{saved.path}: {saved.name} is also in {plan[name].path.name}")
        kinds = ["U8"] if expected[name].dtype == torch.uint8 else list(FLOATS)
        if saved.dtype not in kinds:
            raise ValueError(f"{saved.path}: {saved.name} is {saved.dtype}; weights are read as {', '.join(kinds)}")
        if saved.shape != tuple(expected[name].shape):
            shapes = f"{list(saved.shape)}, not {list(expected[name].shape)}"
            raise ValueError(f"{saved.path}: {saved.name} has shape {shapes}")
        plan[name] = saved
    if unknown:
        names = ", ".join(saved.name for saved in unknown[:5])
        raise ValueError(f"{unknown[0].path}: {names} {'is' if len(unknown) == 1 else 'are'} not part of this model")
    missing = [name for name in expected if name not in plan and not name.endswith("layer_scalar")]
    if missing:
        count = "a tensor is" if len(missing) == 1 else f"{len(missing)} tensors are"
        raise ValueError(f"{folder}: {count} missing: {', '.join(missing[:5])}")
    return plan


def _check_memory(
    folder: Path,
    expected: Mapping[str, torch.Tensor],
    plan: Mapping[str, Saved],
    kept: Mapping[str, torch.dtype],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """ValueError with both numbers where the weights are larger than the memory that is free."""
    saved_type = {name: dtype or KINDS[saved.dtype] for name, saved in plan.items()} | dict(kept)
    needed = sum(tensor.numel() * saved_type[name].itemsize for name, tensor in expected.items() if name in saved_type)
    available = available_bytes(str(device))
    if available is not None and needed > available:
        kind = f"in {str(dtype).removeprefix('torch.')}" if dtype else "in the saved type"
        kind = "packed" if kept else kind
        free = f"{available / 1e9:,.1f} GB are free on {device}"
        raise ValueError(f"{folder}: the weights need {needed / 1e9:,.1f} GB {kind}, {free}")


def save_model(model: Decoder, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each atomically; `dtype` None keeps the model's type.

    Packed weights are written as they are.
    """
    folder, packing = Path(folder), packing_of(model)
    kept = dtype or model.dtype
    tensors = {
        _their_name(name, model.config): tensor if name.endswith((".codes", ".scales")) else tensor.to(kept)
        for name, tensor in model.state_dict().items()
    }
    save_tensors(folder / WEIGHTS, tensors)
    stated = {} if packing is None else {FIELD: packing.stated()}
    save_json(folder / CONFIG, model.config.to_hf(str(kept).removeprefix("torch.")) | stated)


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
