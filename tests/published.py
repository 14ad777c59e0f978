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


def write_checkpoint(folder: Path, seed: int = 0, **text: Any) -> Any:
    """A tiny random `gemma4_unified` checkpoint saved by transformers, with its tokenizer; gives their model."""
    import torch
    import transformers

    write_tokenizer(folder)
    ids = tokenizer_ids()
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
        image_token_id=ids["<|image|>"],
        audio_token_id=ids["<|audio|>"],
        video_token_id=ids["<|video|>"],
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
    )
    torch.manual_seed(seed)
    model = transformers.Gemma4UnifiedForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2)
    model.generation_config.eos_token_id = [ids["<eos>"], ids["<turn|>"], ids["<|tool_response>"]]
    model.save_pretrained(folder, max_shard_size="100KB")
    return model
