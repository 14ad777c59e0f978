"""The text decoder of a published checkpoint as a GGUF file of llama.cpp's architecture `gemma4`.

Names, keys and types are those of the package `gguf` (extra "export"); the choices are those of llama.cpp's own
converter for Gemma 4: vectors in float32, scores of -1000, markers of thoughts and calls as visible tokens, and a
factor of 1e30 for the pairs of full layers that do not turn. Embedders of pictures and sound are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from castor.models.decoder import Decoder
from castor.models.packing import packing_of
from castor.models.text_config import FULL, SLIDING, TextConfig
from castor.tokens.text_json import JsonTokenizer

TYPES = ("float32", "float16", "bfloat16")
VISIBLE = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
SCORE = -1000.0  # of every piece: BPE goes by its merges
STILL = 1e30  # a rotary frequency divided by this does not turn


def write_gguf(
    path: str | Path, model: Decoder, tokenizer: JsonTokenizer, *, kind: str = "bfloat16", template: str = ""
) -> None:
    """Write config, tokenizer and text weights to `path`, whole or not at all; matrices in `kind`.

    ValueError for a model whose form llama.cpp's `gemma4` has not.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError("castor export --gguf needs the package gguf: pip install 'castor[export]'") from None
    if kind not in TYPES:
        raise ValueError(f"type {kind!r} is not one of {', '.join(TYPES)}")
    _check(model)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GEMMA4])
    try:
        _write_config(writer, model.config.text)
        _write_tokenizer(writer, tokenizer, model.config.text.vocab_size)
        if template:
            writer.add_chat_template(template)
        raw_type = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[kind]
        for name, tensor in gguf_tensors(model):
            wanted = gguf.GGMLQuantizationType[raw_type if tensor.ndim > 1 else "F32"]
            writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), wanted), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def gguf_tensors(model: Decoder) -> Iterator[tuple[str, torch.Tensor]]:
    """The text weights by the names that the package gives them, and the rotary factors of full layers."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, model.config.text.num_hidden_layers)
    yield "rope_freqs.weight", _rope_factors(model.config.text)
    for name, tensor in model.language_model.state_dict().items():
        stem, dot, suffix = name.rpartition(".")
        if suffix == "layer_scalar":
            stem, suffix = name, "weight"
        mapped = names.get_name(f"model.{stem}")
        if mapped is None:
            raise ValueError(f"llama.cpp's gemma4 has no tensor for {name}")
        yield f"{mapped}.{suffix}", tensor.detach().cpu()


def _rope_factors(config: TextConfig) -> torch.Tensor:
    pairs = config.global_head_dim // 2
    rope = config.rope_parameters[FULL]
    share = rope.get("partial_rotary_factor", 1.0) if rope["rope_type"] == "proportional" else 1.0
    turning = int(share * pairs)
    return torch.tensor([1.0] * turning + [STILL] * (pairs - turning))


def _check(model: Decoder) -> None:
    config = model.config.text
    if packing_of(model) is not None:
        raise ValueError("packed weights are not exported; start from the whole ones")
    if config.attention_bias:
        raise ValueError("attention_bias=True has no place in llama.cpp's gemma4")
    if config.rope_parameters[SLIDING]["rope_type"] != "default":
        raise ValueError("llama.cpp's gemma4 turns sliding layers whole, this model does not")


def _write_config(writer: Any, config: TextConfig) -> None:
    """Sizes, heads, windows and rotary bases under the package's keys."""
    layers = config.layer_types or ()
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv([config.kv_heads(kind) for kind in layers])
    writer.add_key_length(config.global_head_dim)
    writer.add_value_length(config.global_head_dim)
    writer.add_key_length_swa(config.head_dim)
    writer.add_value_length_swa(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == SLIDING for kind in layers])
    writer.add_shared_kv_layers(0)
    writer.add_embedding_length_per_layer_input(0)
    writer.add_rope_freq_base(config.rope_parameters[FULL]["rope_theta"])
    writer.add_rope_freq_base_swa(config.rope_parameters[SLIDING]["rope_theta"])
    writer.add_rope_dimension_count(config.global_head_dim)
    writer.add_rope_dimension_count_swa(config.head_dim)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _write_tokenizer(writer: Any, tokenizer: JsonTokenizer, vocab_size: int) -> None:
    """Pieces with their types, merges and the ids of special tokens; rows past the vocabulary are unused."""
    from gguf import TokenType

    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    special = {name for name in tokenizer.specials if name not in VISIBLE}
    kinds = []
    for piece in pieces:
        is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
        kind = TokenType.USER_DEFINED if piece in VISIBLE else TokenType.NORMAL
        kind = TokenType.BYTE if is_byte else kind
        kind = TokenType.CONTROL if piece in special else kind
        kinds.append(TokenType.UNKNOWN if piece == "<unk>" else kind)
    unused = range(len(pieces), vocab_size)
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list([*pieces, *(f"[PAD{row}]" for row in unused)])
    writer.add_token_scores(np.full(vocab_size, SCORE, np.float32).tolist())
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in unused)])
    merges = json.loads(tokenizer.model)["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ids = tokenizer.specials
    for name, add in (
        ("<bos>", writer.add_bos_token_id),
        ("<eos>", writer.add_eos_token_id),
        ("<turn|>", writer.add_eot_token_id),
        ("<unk>", writer.add_unk_token_id),
        ("<pad>", writer.add_pad_token_id),
        ("<mask>", writer.add_mask_token_id),
    ):
        if name in ids:
            add(ids[name])
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
