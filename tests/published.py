"""A small published checkpoint: a tokenizer.json in Gemma's form, and random weights written by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
TURNS = (
    "<|turn>",
    "<turn|>",
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|audio>",
    "<|audio|>",
    "<audio|>",
    "<|video|>",
)
LINES = (
    "The quick brown fox jumps over the lazy dog. How many red circles are there?",
    "user model system thought call response declaration description properties type required STRING OBJECT",
    "Ein größeres Haus steht am Ufer; où est la bibliothèque? ¿Dónde está el niño?",
    "红色的圆在蓝色的方块左边。赤い丸はどこですか。 лошадь бежит по полю",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n",
    "वृत्त लाल है 🙂🙂 👩‍👩‍👧 weather city Bonn temperature 21.5 true false null",
)


def tokenizer_json(size: int = 700) -> bytes:
    """BPE with byte fallback, spaces as "▁", split after spaces: the settings of transformers' `GemmaTokenizer`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    learned.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    learned.train_from_iterator(LINES * 20, trainers.BpeTrainer(vocab_size=size - 300, show_progress=False))
    values = json.loads(learned.to_str())
    added = [*SPECIALS, *TURNS]
    names = [*added, *(f"<0x{byte:02X}>" for byte in range(256)), *values["model"]["vocab"]]
    values["model"]["vocab"] = {name: at for at, name in enumerate(dict.fromkeys(names))}
    values["added_tokens"] = [
        {"id": at, "content": name, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for at, name in enumerate(added)
    ]
    return json.dumps(values).encode()


def tokenizer_ids() -> dict[str, int]:
    """The special tokens' ids."""
    return {name: at for at, name in enumerate((*SPECIALS, *TURNS))}


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as a published folder has them."""
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    config: dict[str, Any] = {"tokenizer_class": "GemmaTokenizer"}
    config |= {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def media_ids() -> dict[str, int]:
    """The ids that a config.json states."""
    ids = tokenizer_ids()
    names = {"image_token_id": "<|image|>", "audio_token_id": "<|audio|>", "video_token_id": "<|video|>"}
    names |= {"boi_token_id": "<|image>", "eoi_token_id": "<image|>"}
    names |= {"boa_token_id": "<|audio>", "eoa_token_index": "<audio|>"}
    return {key: ids[name] for key, name in names.items()}


def stop_ids() -> list[int]:
    """The ids that end a reply."""
    ids = tokenizer_ids()
    return [ids["<eos>"], ids["<turn|>"], ids["<|tool_response>"]]


# What a published processor_config.json says, beside defaults; the patches are those of the tiny towers.
PROCESSOR: dict[str, Any] = {
    "image_processor": {"max_soft_tokens": 70, "patch_size": 4, "pooling_kernel_size": 3, "resample": 3},
    "video_processor": {"max_soft_tokens": 70, "num_frames": 5, "patch_size": 4, "pooling_kernel_size": 3},
    "feature_extractor": {"feature_size": 16, "frame_length": 320, "hop_length": 160, "sampling_rate": 16_000},
}
PROMPTS = {"Retrieval-query": "task: search result | query: ", "Document": "title: none | text: "}


def write_tower_checkpoint(folder: Path, name: str) -> Any:
    """A tiny random checkpoint with towers, such as "gemma4 E2B" or "embedding_gemma2"; gives transformers' model."""
    from test_gemma4_media import MEDIA, random_reference

    write_tokenizer(folder)
    text: dict[str, Any] = {"vocab_size": 704}
    if "E2B" in name or "E4B" in name:
        text["vocab_size_per_layer_input"] = 704
    model = random_reference(name, tokens=media_ids(), **text)
    processor = {key: dict(part) for key, part in PROCESSOR.items()}
    if MEDIA[name][1] is None:
        del processor["feature_extractor"]
    if name.startswith("embedding"):
        processor["video_processor"] = {"max_soft_tokens": 70, "fps": 1, "max_frames": 6, "patch_size": 4}
        prompts = {"prompts": PROMPTS, "default_prompt_name": None, "model_type": "SentenceTransformer"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
        values = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(values | {"post_processor": _around("<bos>", "<eos>")}))
    else:
        model.generation_config.eos_token_id = stop_ids()
    (folder / "processor_config.json").write_text(json.dumps(processor))
    model.save_pretrained(folder)
    return model


def _around(before: str, after: str) -> dict[str, Any]:
    ids = tokenizer_ids()
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (before, after)]
    single = [special[0], {"Sequence": {"id": "A", "type_id": 0}}, special[1]]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (before, after)},
    }


def write_checkpoint(folder: Path, seed: int = 0, **text: Any) -> Any:
    """A tiny random `gemma4_unified` checkpoint saved by transformers, with its tokenizer; gives their model."""
    import torch
    import transformers

    write_tokenizer(folder)
    sizes = {
        "vocab_size": 704,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 24,
        "final_logit_softcapping": 30.0,
    }
    config = transformers.Gemma4UnifiedConfig(
        text_config=sizes | text,
        vision_config={
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "mm_embed_dim": 24,
            "mm_posemb_size": 64,
            "output_proj_dims": 24,
        },
        audio_config={"audio_embed_dim": 640},
        **media_ids(),
    )
    torch.manual_seed(seed)
    model = transformers.Gemma4UnifiedForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2)
    model.generation_config.eos_token_id = stop_ids()
    model.save_pretrained(folder, max_shard_size="100KB")
    return model
