"""What a decoder is made of, in the field names of Hugging Face's `gemma4_unified`; `config.json` both ways.

A field that would change the result and that this code does not have is an error; fields that only concern
other programs are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from castor.config import from_dict, to_dict

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
# Fields of a text config that must have this value, because the variants they select are not implemented.
_ONLY = {
    "num_kv_shared_layers": (0, None),
    "use_double_wide_mlp": (False, None),
    "hidden_size_per_layer_input": (0, None),
    "enable_moe_block": (False, None),
    "attention_dropout": (0, 0.0, None),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "tie_word_embeddings": (True, None),
}


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder. Layers are sliding or full; full ones may have other heads and reuse keys as values."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    global_head_dim: int = 512  # head dim of full layers
    num_global_key_value_heads: int | None = None  # key heads of full layers; only with attention_k_eq_v
    attention_k_eq_v: bool = False  # full layers have no value projection
    layer_types: tuple[str, ...] | None = None  # None: every sixth layer, and the last, is full
    sliding_window: int = 1024  # positions, the query's own included
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = "vision"  # sliding layers see an image both ways; None: never
    rope_parameters: dict[str, dict[str, Any]] = field(default_factory=lambda: ROPE)
    max_position_embeddings: int = 262_144
    attention_bias: bool = False
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    def __post_init__(self) -> None:
        layers = self.layer_types
        if layers is None:
            layers = tuple(FULL if (i + 1) % 6 == 0 else SLIDING for i in range(self.num_hidden_layers))
            layers = layers[:-1] + (FULL,)
            object.__setattr__(self, "layer_types", layers)
        if len(layers) != self.num_hidden_layers or not set(layers) <= {SLIDING, FULL} or layers[-1] != FULL:
            raise ValueError(
                f"layer_types={list(layers)} must name {self.num_hidden_layers} layers, each {SLIDING!r} "
                f"or {FULL!r}, the last one {FULL!r}"
            )
        if self.use_bidirectional_attention not in ("vision", None):
            raise ValueError(
                f"use_bidirectional_attention={self.use_bidirectional_attention!r} is not supported "
                "(only 'vision' or None)"
            )
        for kind in (SLIDING, FULL):
            heads = self.kv_heads(kind)
            if self.num_attention_heads % heads:
                raise ValueError(f"{self.num_attention_heads} heads cannot share {heads} key heads evenly ({kind})")
            if self.rope_parameters[kind]["rope_type"] not in ("default", "proportional"):
                raise ValueError(f"rope_type={self.rope_parameters[kind]['rope_type']!r} is not supported ({kind})")

    def kv_heads(self, kind: str) -> int:
        """Key heads of a layer of this kind."""
        if kind == FULL and self.attention_k_eq_v and self.num_global_key_value_heads is not None:
            return self.num_global_key_value_heads
        return self.num_key_value_heads

    def kind_head_dim(self, kind: str) -> int:
        """Head dim of a layer of this kind."""
        return self.global_head_dim if kind == FULL else self.head_dim


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Picture patches: `patch_size * pooling_kernel_size` pixels square, projected with x and y added."""

    patch_size: int = 16
    pooling_kernel_size: int = 3
    mm_embed_dim: int = 3840
    mm_posemb_size: int = 1120  # largest x or y, plus one
    rms_norm_eps: float = 1e-6
    stem_channels: tuple[int, ...] = ()  # of convolutions that each halve the resolution; none: patches as they are
    stem_blocks: int = 2  # residual blocks behind them

    @property
    def model_patch_size(self) -> int:
        """Side of one token's square, pixels."""
        return self.patch_size * self.pooling_kernel_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one token's square."""
        return self.model_patch_size**2 * 3


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """Audio frames of `audio_embed_dim` numbers: 640 raw samples of 40 ms, or log-mel values of 10 ms each."""

    audio_embed_dim: int = 640
    rms_norm_eps: float = 1e-6
    stem_channels: tuple[
        int, ...
    ] = ()  # of convolutions that each halve the rate of log-mel frames; none: a projection


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model; a medium whose config is None cannot be read."""

    text: TextConfig
    vision: VisionConfig | None = None
    audio: AudioConfig | None = None
    image_token_id: int | None = None
    audio_token_id: int | None = None
    video_token_id: int | None = None
    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    boa_token_id: int | None = None
    eoa_token_index: int | None = None

    @property
    def kv_shapes(self) -> list[tuple[int, int]]:
        """(key heads, head dim) of each layer, what a cache has to hold."""
        return [(self.text.kv_heads(kind), self.text.kind_head_dim(kind)) for kind in self.text.layer_types or ()]

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The values of a `config.json` that transformers reads."""
        text = to_dict(self.text)
        full_heads = {
            "head_dim": text.pop("global_head_dim"),
            "num_key_value_heads": self.text.kv_heads(FULL),
        }
        del text["num_global_key_value_heads"]
        full_layers = [i for i, kind in enumerate(self.text.layer_types or ()) if kind == FULL]
        text |= {
            "model_type": "gemma4_unified_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "per_layer_config": {str(i): full_heads for i in full_layers},
            "tie_word_embeddings": True,
        }
        values: dict[str, Any] = {
            "architectures": ["Castor" if self.has_stems else "Gemma4UnifiedForConditionalGeneration"],
            "model_type": _WITH_STEMS if self.has_stems else "gemma4_unified",
            "dtype": dtype,
            "tie_word_embeddings": True,
            "text_config": text,
            "vision_config": None,
            "audio_config": None,
        }
        if self.vision is not None:
            projected = {"model_type": "gemma4_unified_vision", "output_proj_dims": self.vision.mm_embed_dim}
            values["vision_config"] = _without_stem(self.vision) | projected
        if self.audio is not None:
            values["audio_config"] = _without_stem(self.audio) | {"model_type": "gemma4_unified_audio"}
        given = {name: getattr(self, name) for name in _TOKEN_IDS}
        return values | {name: token for name, token in given.items() if token is not None}

    @property
    def has_stems(self) -> bool:
        """Whether media come in through convolutions, which no other program's model of this shape has."""
        return any(medium is not None and medium.stem_channels for medium in (self.vision, self.audio))

    @staticmethod
    def from_hf(values: Mapping[str, Any]) -> ModelConfig:
        """The config in a `config.json`; ValueError names a field that asks for what is not implemented."""
        kind = values.get("model_type")
        if kind == "gemma4_unified_text":
            return ModelConfig(text=_text_from_hf(values))
        if kind not in ("gemma4_unified", _WITH_STEMS):
            raise ValueError(f"model_type={kind!r} is not supported (gemma4_unified or gemma4_unified_text)")
        vision, audio = values.get("vision_config"), values.get("audio_config")
        if vision is not None and vision.get("output_proj_dims", vision["mm_embed_dim"]) != vision["mm_embed_dim"]:
            raise ValueError(f"output_proj_dims={vision['output_proj_dims']} differs from mm_embed_dim")
        if values.get("tie_word_embeddings", True) is not True:
            raise ValueError("tie_word_embeddings=False is not supported")
        return ModelConfig(
            text=_text_from_hf(values["text_config"]),
            vision=None if vision is None else from_dict(VisionConfig, _known(VisionConfig, vision)),
            audio=None if audio is None else from_dict(AudioConfig, _known(AudioConfig, audio)),
            **{name: values.get(name) for name in _TOKEN_IDS},
        )


_WITH_STEMS = "castor"  # model_type of a model whose media come in through convolutions
_TOKEN_IDS = (
    "image_token_id",
    "audio_token_id",
    "video_token_id",
    "boi_token_id",
    "eoi_token_id",
    "boa_token_id",
    "eoa_token_index",
)


def _without_stem(medium: VisionConfig | AudioConfig) -> dict[str, Any]:
    """The fields of a medium's config; those of a stem only where there is one."""
    return {key: value for key, value in to_dict(medium).items() if medium.stem_channels or "stem" not in key}


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in cls.__dataclass_fields__}


def _text_from_hf(values: Mapping[str, Any]) -> TextConfig:
    for key, allowed in _ONLY.items():
        if key in values and values[key] not in allowed:
            raise ValueError(f"{key}={values[key]!r} is not supported (only {allowed[0]!r})")
    known = _known(TextConfig, values)
    if known.get("rope_parameters") is None:
        known.pop("rope_parameters", None)
    config = from_dict(TextConfig, known, "text_config.")
    overrides = values.get("per_layer_config")
    return config if overrides is None else _with_overrides(config, overrides)


def _with_overrides(config: TextConfig, overrides: Mapping[str, Mapping[str, int]]) -> TextConfig:
    """The config with transformers' per-layer head sizes, which must be those of exactly the full layers."""
    full_layers = [i for i, kind in enumerate(config.layer_types or ()) if kind == FULL]
    entries = [dict(overrides.get(str(i), {})) for i in full_layers]
    stray = set(overrides) - {str(i) for i in full_layers}
    unknown = set().union(*entries) - {"head_dim", "num_key_value_heads"}
    if stray or unknown or any(entry != entries[0] for entry in entries):
        raise ValueError(f"per_layer_config={dict(overrides)!r} is supported for full layers only, all of one shape")
    heads = entries[0].get("num_key_value_heads", config.num_key_value_heads)
    if heads != config.num_key_value_heads and not config.attention_k_eq_v:
        raise ValueError(f"per_layer_config: {heads} key heads on full layers need attention_k_eq_v")
    return replace(
        config,
        global_head_dim=entries[0].get("head_dim", config.head_dim),
        num_global_key_value_heads=heads if heads != config.num_key_value_heads else None,
    )
