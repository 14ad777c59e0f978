"""What is measured: a model that is loaded, or random weights in a given shape, and what a token costs it at least."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import castor
from castor.engine.model import DTYPES, Model
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.packing import PackConfig, into_large_pages, put_packed
from castor.models.sizes import SIZES
from castor.nn.experts import Experts
from castor.nn.packed import Packed
from castor.runtime import best_precision, pick_device
from castor.tokens.render import Renderer
from castor.tokens.space import NUM_SPECIALS, IdSpace

NAMES = {"1.8b": "nano-1"}  # shapes by their number of parameters
TYPICAL = 0.02  # size of a random weight


def subject(model: str, shape: str | None, quantize: str | None, precision: str | None) -> Model:
    """The model to measure; ValueError for a shape that there is not."""
    device = pick_device("auto")
    precision = precision or best_precision(device)
    if shape is None:
        return castor.load(model, device=device, precision=precision, quantize=quantize)
    name = NAMES.get(shape.lower(), shape)
    if name not in SIZES:
        raise ValueError(f"--shape {shape} is not one of {', '.join([*NAMES, *SIZES])}")
    return random_model(text_shape(SIZES[name]), quantize, DTYPES[precision], device)


def text_shape(config: ModelConfig) -> ModelConfig:
    """The text side alone, in a form that transformers and llama.cpp have, too; ValueError where they have none."""
    if config.text.hidden_size_per_layer_input or config.text.enable_moe_block:
        return ModelConfig(model_type="gemma4_text", text=config.text)
    return ModelConfig(model_type="gemma4_unified_text", text=config.text)


def random_model(config: ModelConfig, quantize: str | None, dtype: torch.dtype, device: str) -> Model:
    """Random weights, made in the form in which they are kept, and a tokenizer of few pieces."""
    with torch.device("meta"):
        decoder = Decoder(config)
    if quantize is not None:
        put_packed(decoder, PackConfig.of_name(quantize))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=generator) * TYPICAL
    found = {name: _random(name, tensor, noise, dtype) for name, tensor in decoder.state_dict().items()}
    decoder.load_state_dict(found, assign=True)
    decoder = decoder.to(device).eval().requires_grad_(False)
    if quantize is not None and device == "cpu":
        into_large_pages(decoder)
    known = castor.load("atom", device="cpu")
    space = IdSpace(num_text=config.text.vocab_size - NUM_SPECIALS, num_codes=0)
    assert isinstance(known.renderer, Renderer) and space.vocab_size == config.text.vocab_size
    return Model(decoder, Renderer(known.tokenizer, space, known.renderer.config), None)


def _random(name: str, tensor: torch.Tensor, noise: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of that shape: norms of 1, codes of any bits, scales of the size that weights have."""
    if name.endswith(".codes"):
        return torch.randint(0, 256, tensor.shape, dtype=torch.uint8)
    if name.endswith(".scales"):
        return torch.full(tensor.shape, TYPICAL / 4, dtype=torch.bfloat16)
    if tensor.ndim < 2:
        return torch.ones(tensor.shape, dtype=dtype)
    return noise.to(dtype).repeat(-(-tensor.numel() // len(noise)))[: tensor.numel()].view(tensor.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a token costs at least: bytes of weights read for a step, parameters multiplied with, bytes of cache."""

    weight_bytes: int
    num_multiplied: int
    cache_bytes: int  # of one token in all layers

    @classmethod
    def of(cls, decoder: Decoder, *, is_int8: bool) -> Cost:
        """Of this decoder, its table counted once, as the output projection."""
        model, text = decoder.language_model, decoder.config.text
        share = {}
        for name, module in model.named_modules():
            if isinstance(module, Experts):
                share |= dict.fromkeys(
                    (f"{name}.gate_up_proj", f"{name}.down_proj"), (text.top_k_experts or 1) / module.num_experts
                )
        num_bytes = num_multiplied = 0.0
        for name, tensors, count in matrices(model):
            if "embed_tokens_per_layer" in name:
                continue
            num_bytes += share.get(name, 1.0) * sum(tensor.nbytes for tensor in tensors)
            num_multiplied += share.get(name, 1.0) * count
        item = 1 if is_int8 else decoder.dtype.itemsize
        cache = sum(2 * heads * dim * item for heads, dim in decoder.config.kv_shapes)
        return cls(weight_bytes=int(num_bytes), num_multiplied=int(num_multiplied), cache_bytes=cache)


def matrices(model: torch.nn.Module) -> list[tuple[str, tuple[torch.Tensor, ...], int]]:
    """Names, tensors and numbers of weights of all matrices, packed or whole."""
    found: list[tuple[str, tuple[torch.Tensor, ...], Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            found.append((name, module.packed, module.num_rows * module.num_inputs))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            found.append((name.removesuffix(".weight"), (parameter,), parameter.numel()))
    return found
