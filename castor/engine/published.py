"""A published checkpoint, a plain folder in Hugging Face's layout, as decoder and renderer.

What stands beside the weights says how to speak with them: `tokenizer.json` or `tokenizer.model`, the chat template
(read for its style, never run), `processor_config.json` for the media, `generation_config.json` for ids that are never
said, and `config_sentence_transformers.json` for the tasks of a model that makes vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from castor.checkpoint import save_json, write_atomically
from castor.engine.processor import media_of, read_object, video_of
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_config, load_model
from castor.models.packing import PackConfig
from castor.tokens.embedding import EmbeddingRenderer
from castor.tokens.gemma import GemmaRenderer, TurnStyle
from castor.tokens.space import CONFIG_IDS, GemmaSpace
from castor.tokens.text import Tokenizer
from castor.tokens.text_json import JsonTokenizer, load_tokenizer
from castor.tokens.text_spm import json_of_sentencepiece

ABOUT = "castor.json"
# Files that are kept beside the weights when a published checkpoint is saved again.
COMPANIONS = (
    "1_Pooling/config.json",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "generation_config.json",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
)


def load_published(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    pack: PackConfig | None = None,
) -> tuple[Decoder, GemmaRenderer]:
    """Decoder and renderer of a published checkpoint; ValueError names what is missing or does not fit."""
    config = load_config(folder)
    renderer = published_renderer(folder, config)
    if drawing := read_object(folder, ABOUT).get("drawing"):
        renderer.space = _drawing_space(folder, renderer.space, drawing, config.text.vocab_size)
    return load_model(folder, device=device, dtype=dtype, pack=pack), renderer


def published_renderer(folder: Path, config: ModelConfig) -> GemmaRenderer:
    """The renderer that the files beside the weights describe."""
    tokenizer = _tokenizer(folder)
    try:
        media, video, num_ids = media_of(folder, config), video_of(folder, config), config.text.vocab_size
        if config.family == "embedding_gemma2":
            renderer: GemmaRenderer = EmbeddingRenderer(
                tokenizer, num_ids, media, prompts=_prompts(folder), video=video
            )
        else:
            style, suppressed = TurnStyle.of_template(_template(folder)), _suppressed(folder, num_ids)
            renderer = GemmaRenderer(tokenizer, num_ids, media, style, suppressed=suppressed, video=video)
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    for key, name in CONFIG_IDS.items():
        stated, found = getattr(config, key), tokenizer.specials.get(name)
        if None not in (stated, found) and stated != found:
            raise ValueError(f"{folder}: config.json states {key}={stated}, but {name} is {found} in tokenizer.json")
    renderer.companions = {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}
    return renderer


def _tokenizer(folder: Path) -> JsonTokenizer:
    """The tokenizer.json beside the weights, or where there is none what the tokenizer.model there says."""
    tokenizer = load_tokenizer(folder)
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer
    about = read_object(folder, "tokenizer_config.json")
    try:
        return JsonTokenizer(json_of_sentencepiece(tokenizer.model, about))
    except ValueError as error:
        raise ValueError(f"{folder / Tokenizer.FILE}: {error}") from None


def draws(folder: Path) -> bool:
    """Whether this is a published checkpoint that was taught to draw: its castor.json says so."""
    return "drawing" in read_object(folder, ABOUT)


def _drawing_space(folder: Path, space: GemmaSpace, drawing: Any, vocab_size: int) -> GemmaSpace:
    """The ids of a checkpoint that was taught to draw; ValueError where castor.json does not fit the weights."""
    counts = [drawing.get(key) if isinstance(drawing, dict) else None for key in ("num_text", "num_codes")]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"{folder / ABOUT}: drawing={drawing!r} must state num_text and num_codes")
    space = dataclasses.replace(space, num_text=counts[0], num_codes=counts[1])
    if space.vocab_size != vocab_size:
        raise ValueError(f"{folder / ABOUT}: {drawing} makes {space.vocab_size} ids, the decoder has {vocab_size}")
    return space


def save_published(renderer: GemmaRenderer, folder: Path, card: Mapping[str, Any]) -> None:
    """Write what stands beside the weights, as it was read; of one that draws, also where its codes begin."""
    space = renderer.space
    if space.num_codes:
        drawing = {"num_text": space.num_text, "num_codes": space.num_codes}
        save_json(folder / ABOUT, {"drawing": drawing, "card": dict(card)})
    write_atomically(folder / renderer.tokenizer.FILE, renderer.tokenizer.model)
    for name, content in renderer.companions.items():
        write_atomically(folder / name, content)


def export_gguf(folder: Path, path: str | Path, *, kind: str = "bfloat16") -> Path:
    """The text decoder in `folder` as a GGUF file; see `castor.models.gguf`."""
    from castor.models.gguf import write_gguf

    if (folder / ABOUT).is_file() and not draws(folder):
        raise ValueError(f"{folder}: only a published checkpoint can be exported; llama.cpp has no form for ours")
    decoder, renderer = load_published(folder)
    write_gguf(path, decoder, renderer.tokenizer, kind=kind, template=_template(folder))
    return Path(path)


def _template(folder: Path) -> str:
    """The text of the chat template; empty where the checkpoint has none (a base model)."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = read_object(folder, "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else ""


def _prompts(folder: Path) -> dict[str, str]:
    """What Sentence Transformers writes before a text, by task; empty where the folder is not one of its own."""
    name = "config_sentence_transformers.json"
    prompts = read_object(folder, name).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{folder / name}: prompts must be texts by name")
    return prompts


def _suppressed(folder: Path, vocab_size: int) -> tuple[int, ...]:
    ids = read_object(folder, "generation_config.json").get("suppress_tokens") or []
    if not isinstance(ids, list) or not all(isinstance(i, int) and 0 <= i < vocab_size for i in ids):
        raise ValueError(f"{folder / 'generation_config.json'}: suppress_tokens={ids!r} are not ids of this model")
    return tuple(ids)
