"""A published checkpoint, a plain folder in Hugging Face's layout, as decoder and renderer.

What stands beside the weights says how to speak with them: `tokenizer.json`, the chat template (read for its style,
never run), `processor_config.json` for the media, `generation_config.json` for ids that are never said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from castor.checkpoint import load_json, write_atomically
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_config, load_model
from castor.tokens.gemma import GEMMA_MEDIA, GemmaRenderer, TurnStyle
from castor.tokens.render import RenderConfig
from castor.tokens.text_json import JsonTokenizer, load_tokenizer

# Files that are kept beside the weights when a published checkpoint is saved again.
COMPANIONS = (
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
# Ids in config.json and the special tokens they must be.
TOKEN_IDS = {
    "image_token_id": "<|image|>",
    "audio_token_id": "<|audio|>",
    "video_token_id": "<|video|>",
    "boi_token_id": "<|image>",
    "eoi_token_id": "<image|>",
    "boa_token_id": "<|audio>",
    "eoa_token_index": "<audio|>",
}


def load_published(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Decoder, GemmaRenderer]:
    """Decoder and renderer of a published checkpoint; ValueError names what is missing or does not fit."""
    config = load_config(folder)
    renderer = published_renderer(folder, config)
    return load_model(folder, device=device, dtype=dtype), renderer


def published_renderer(folder: Path, config: ModelConfig) -> GemmaRenderer:
    """The renderer that the files beside the weights describe."""
    tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, JsonTokenizer):
        raise ValueError(f"{folder}: a published checkpoint needs tokenizer.json beside its weights")
    try:
        renderer = GemmaRenderer(
            tokenizer,
            config.text.vocab_size,
            _media(folder, config),
            TurnStyle.of_template(_template(folder)),
            suppressed=_suppressed(folder, config.text.vocab_size),
        )
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    for key, name in TOKEN_IDS.items():
        stated, found = getattr(config, key), tokenizer.specials.get(name)
        if None not in (stated, found) and stated != found:
            raise ValueError(f"{folder}: config.json states {key}={stated}, but {name} is {found} in tokenizer.json")
    renderer.companions = {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}
    return renderer


def save_published(renderer: GemmaRenderer, folder: Path) -> None:
    """Write what stands beside the weights, as it was read."""
    write_atomically(folder / renderer.tokenizer.FILE, renderer.tokenizer.model)
    for name, content in renderer.companions.items():
        write_atomically(folder / name, content)


def export_gguf(folder: Path, path: str | Path, *, kind: str = "bfloat16") -> Path:
    """The text decoder in `folder` as a GGUF file; see `castor.models.gguf`."""
    from castor.models.gguf import write_gguf

    if not (folder / JsonTokenizer.FILE).is_file():
        raise ValueError(
            f"{folder}: only a checkpoint with a tokenizer.json can be exported; llama.cpp has no other form"
        )
    decoder, renderer = load_published(folder)
    write_gguf(path, decoder, renderer.tokenizer, kind=kind, template=_template(folder))
    return Path(path)


def _template(folder: Path) -> str:
    """The text of the chat template; empty where the checkpoint has none (a base model)."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = _object(folder, "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else ""


def _media(folder: Path, config: ModelConfig) -> RenderConfig:
    """How media become tokens: the processor's files over the format's defaults, patches as the model takes them."""
    processor = _object(folder, "processor_config.json")
    image = {**_object(folder, "preprocessor_config.json"), **_part(processor, "image_processor")}
    video = _part(processor, "video_processor")
    known = {
        "image_tokens": image.get("max_soft_tokens"),
        "frame_tokens": video.get("max_soft_tokens"),
        "num_frames": video.get("num_frames"),
        "samples_per_token": _part(processor, "feature_extractor").get("audio_samples_per_token"),
    }
    for key, value in known.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{folder}: the processor states {value!r} for {key}; a whole number is needed")
    media = dataclasses.replace(GEMMA_MEDIA, **{key: value for key, value in known.items() if value is not None})
    if config.vision is not None:
        sizes = {"patch_size": config.vision.patch_size, "pooling": config.vision.pooling_kernel_size}
        media = dataclasses.replace(media, **sizes)
    return media


def _suppressed(folder: Path, vocab_size: int) -> tuple[int, ...]:
    ids = _object(folder, "generation_config.json").get("suppress_tokens") or []
    if not isinstance(ids, list) or not all(isinstance(i, int) and 0 <= i < vocab_size for i in ids):
        raise ValueError(f"{folder / 'generation_config.json'}: suppress_tokens={ids!r} are not ids of this model")
    return tuple(ids)


def _object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file."""
    if not (folder / name).is_file():
        return {}
    value = load_json(folder / name)
    if not isinstance(value, dict):
        raise ValueError(f"{folder / name}: must be a JSON object")
    return value


def _part(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}
