"""Tiny random checkpoints of every published family, as transformers writes them, and text batches for both sides.

Used by the parity tests and by `bench/parity.py`. To add a family, or a medium of one, add a row to ARCHITECTURES.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from test_vision_tower import randomise

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.tokens.batch import Batch
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence

VOCABULARY, WINDOW = 320, 12
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": WINDOW,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
}
_PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
_WIDE_KEYS = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0}
_EXPERTS = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16}
_PLAIN = {"hidden_size_per_layer_input": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family as transformers has it: class, config class, and what its text config says beyond the tiny sizes."""

    model: str
    config: str
    text: dict[str, Any]

    @property
    def is_encoder(self) -> bool:
        """Whether it gives vectors of tokens rather than logits."""
        return self.model.startswith("EmbeddingGemma2")


def _composite(name: str, model: str, **text: Any) -> Architecture:
    return Architecture(model=f"{name}{model}", config=f"{name}Config", text=text)


def _text_alone(name: str, model: str, **text: Any) -> Architecture:
    return Architecture(model=f"{name}{model}", config=f"{name}TextConfig", text=text)


_E2B = _PER_LAYER | {"num_kv_shared_layers": 4, "use_double_wide_mlp": True, "final_logit_softcapping": 30.0}
_ENCODER = {"hidden_size_per_layer_input": 8, "embedding_dim": 24, "num_global_key_value_heads": 1}
ARCHITECTURES = {
    "gemma4_unified 12B": _composite("Gemma4Unified", "ForConditionalGeneration", **_WIDE_KEYS),
    "gemma4_unified text": _text_alone("Gemma4Unified", "ForCausalLM", num_kv_shared_layers=4, **_WIDE_KEYS),
    "gemma4 E2B": _composite("Gemma4", "ForConditionalGeneration", **_E2B),
    "gemma4 E4B": _composite("Gemma4", "ForConditionalGeneration", **_E2B | {"use_double_wide_mlp": False}),
    "gemma4 31B": _composite(
        "Gemma4", "ForConditionalGeneration", **_PLAIN | _WIDE_KEYS, use_bidirectional_attention="vision"
    ),
    "gemma4 26B-A4B": _composite(
        "Gemma4", "ForConditionalGeneration", **_PLAIN | _WIDE_KEYS | _EXPERTS, use_bidirectional_attention="vision"
    ),
    "gemma4 text E2B": _text_alone("Gemma4", "ForCausalLM", **_E2B),
    "gemma4 text A4B": _text_alone("Gemma4", "ForCausalLM", **_PLAIN | _WIDE_KEYS | _EXPERTS),
    "gemma4 both ways": _text_alone("Gemma4", "ForCausalLM", **_PER_LAYER, use_bidirectional_attention="all"),
    "embedding_gemma2": _composite("EmbeddingGemma2", "Model", **_ENCODER),
    "embedding_gemma2 text": _text_alone("EmbeddingGemma2", "TextModel", **_ENCODER),
}


def random_reference(architecture: Architecture, seed: int = 0, **changes: Any) -> Any:
    """A transformers model, every tensor of which is far from its initial value: norms, layer and router scales too.

    It computes plainly: attention as explicit products, experts one after the other. Scores, which nothing divides, are
    kept to a size of about 2, lest a rounding error of one layer grow a hundredfold in those behind it.
    """
    torch.manual_seed(seed)
    text, config_class = _TEXT | architecture.text | changes, getattr(transformers, architecture.config)
    if architecture.config.endswith("TextConfig"):
        config = config_class(**text)
    else:
        config = config_class(text_config=text, vision_config=None, audio_config=None)
    model = getattr(transformers, architecture.model)._from_config(config, attn_implementation="eager").eval()
    if text.get("enable_moe_block"):
        model.set_experts_implementation("eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = "norm" in name or name.endswith("scale")
            parameter.add_(torch.randn_like(parameter) * (0.3 if is_scale else 0.2))
            if "q_norm" in name or "k_norm" in name:
                parameter.mul_(0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.7 + 0.3 * torch.rand(1).item())
    return model


def randomise_model(model: Any) -> Any:
    """`randomise` of a model with media: scores kept small, as in `random_reference`, the scale of embeddings kept."""
    scales = {name: tensor.clone() for name, tensor in model.named_buffers() if "embed_scale" in name}
    randomise(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                tensor.mul_(0.5)
        for name, tensor in model.named_buffers():
            if name in scales:
                tensor.copy_(scales[name])
            elif name.endswith("layer_scalar"):
                tensor.fill_(0.7 + 0.3 * torch.rand(()).item())
    return model


def pairs(names: Seq[str], folder: Path) -> dict[str, tuple[Any, Decoder]]:
    """A random model of transformers' for each architecture, and ours, read from what theirs saved below `folder`."""
    found = {}
    for name in names:
        reference = random_reference(ARCHITECTURES[name])
        found[name] = reference, load_model(write(reference, folder / name))
    return found


def read_back(model: Decoder, name: str, folder: Path) -> Any:
    """What transformers reads from a model that we saved: of the same configuration, no tensor too few or many."""
    save_model(model, folder)
    assert ModelConfig.from_hf(json.loads((folder / "config.json").read_text())) == model.config
    reader = getattr(transformers, ARCHITECTURES[name].model)
    again, report = reader.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return again.eval()


def write(reference: Any, folder: Path) -> Path:
    """Save as transformers does; gives the folder."""
    reference.save_pretrained(folder)
    return folder


def documents(*lengths: int, seed: int = 1) -> list[list[int]]:
    """Random ids of text."""
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 300, length).tolist() for length in lengths]


def batch_of(rows: Seq[Seq[list[int]]]) -> Batch:
    """Rows of documents, each a list of ids, end to end; padded to the longest row and three tokens more."""
    width = max(sum(len(ids) for ids in row) for row in rows) + 3
    return collate([[_sequence(ids) for ids in row] for row in rows], width)


def _sequence(ids: list[int]) -> Sequence:
    return Sequence(
        ids_T=np.array(ids, dtype=np.int32),
        is_target_T=np.zeros(len(ids), dtype=bool),
        block_T=np.full(len(ids), -1, dtype=np.int32),
        patches_PC=np.zeros((0, 0), dtype=np.uint8),
        patch_xy_P2=np.zeros((0, 2), dtype=np.int32),
        patch_at_P=np.zeros(0, dtype=np.int32),
        frames_SF=np.zeros((0, 0), dtype=np.float32),
        frame_at_S=np.zeros(0, dtype=np.int32),
        clip_S=np.zeros(0, dtype=np.int32),
    )


def step_of(ids: Seq[int], positions: Seq[int]) -> Batch:
    """One more token for every row of a cache, each at its own position."""
    batch = collate([[_sequence([token_id])] for token_id in ids], 1)
    return dataclasses.replace(batch, position_BT=torch.tensor(positions)[:, None])


def their_output(reference: Any, ids: list[int], **options: Any) -> torch.Tensor:
    """Logits, or vectors of tokens, that transformers gives one document, [T, V or E]."""
    output = reference(input_ids=torch.tensor([ids]), **options)
    return (output.logits if hasattr(output, "logits") else output.last_hidden_state)[0]


def our_output(model: Decoder, batch: Batch) -> torch.Tensor:
    """The same of ours, [B, T, V or E]."""
    if model.config.family == "embedding_gemma2":
        return model.project_vectors(model.hidden(batch))
    return model(batch)


def greedy(model: Decoder, prompts: Seq[list[int]], num_tokens: int) -> list[list[int]]:
    """The likeliest continuation of every prompt, all of them in one cache."""
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + num_tokens + 3)
    hidden_BTD = model.hidden(batch_of([[ids] for ids in prompts]), cache)
    last_BD = torch.stack([hidden_BTD[row, len(ids) - 1] for row, ids in enumerate(prompts)])
    said: list[list[int]] = [[] for _ in prompts]
    for step in range(num_tokens):
        chosen = model.project(last_BD).argmax(-1).tolist()
        for row, token_id in zip(said, chosen, strict=True):
            row.append(token_id)
        last_BD = model.hidden(step_of(chosen, [len(ids) + step for ids in prompts]), cache)[:, 0]
    return said


def their_greedy(reference: Any, ids: list[int], num_tokens: int) -> list[int]:
    """What transformers' own generation continues one prompt with; nothing ends it early."""
    prompt = torch.tensor([ids])
    reference.generation_config.eos_token_id = None
    given = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=num_tokens, pad_token_id=0
    )
    return given[0, len(ids) :].tolist()
