"""What a decoder's text side is made of, in Hugging Face's field names, and its `config.json` part both ways.

One set of fields describes every family: Gemma 4 unified, Gemma 4 (dense, with per-layer inputs, with experts),
EmbeddingGemma 2, and our own mixtures of their options. A family is a row of data that says which fields its files
have, and what a file means that leaves one out. A field that would change the result and that this code does not have
is an error; fields that only concern other programs are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from castor.config import from_dict, to_dict

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
_NEVER_NULL = {"rope_parameters", "attention_k_eq_v", "num_kv_shared_layers", "use_double_wide_mlp", "enable_moe_block"}
# Fields of a text config that must have one of these values, because what else they select is not implemented.
_ONLY = {
    "attention_dropout": (0, 0.0, None),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "tie_word_embeddings": (True, None),
    "rope_scaling": (None,),
    "attn_logit_softcapping": (None,),
    "quantization_config": (None,),
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
    num_global_key_value_heads: int | None = None  # key heads of full layers, where they differ
    attention_k_eq_v: bool = False  # full layers have no value projection
    layer_types: tuple[str, ...] | None = None  # None: every sixth layer, and the last, is full
    sliding_window: int = 1024  # positions, the query's own included; to either side where tokens see both ways
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = "vision"  # sliding layers see an image both ways; "all": every token does
    rope_parameters: dict[str, dict[str, Any]] = field(default_factory=lambda: ROPE)
    max_position_embeddings: int = 262_144
    attention_bias: bool = False
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1
    num_kv_shared_layers: int = 0  # at the end; they take keys and values of the last other layer of their kind
    use_double_wide_mlp: bool = False  # those layers' feed-forward is twice as wide
    hidden_size_per_layer_input: int = 0  # width of what every layer gets of each token besides the stream
    vocab_size_per_layer_input: int | None = None  # rows of its table; None: it is a projection of the stream alone
    enable_moe_block: bool = False  # routed experts beside every feed-forward
    num_experts: int | None = None
    top_k_experts: int | None = None  # experts that see a token
    moe_intermediate_size: int | None = None
    embedding_dim: int | None = None  # numbers in a document's vector; None: the model does not embed
    embedding_rank: int | None = None  # of changes to matrices that hold where vectors are made; None: there are none

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
        if self.use_bidirectional_attention not in ("vision", "all", None):
            raise ValueError(
                f"use_bidirectional_attention={self.use_bidirectional_attention!r} is not supported "
                "(only 'vision', 'all' or None)"
            )
        if self.num_kv_shared_layers < 0 or set(layers) != set(layers[: max(self.num_own_layers, 0)]):
            raise ValueError(
                f"num_kv_shared_layers={self.num_kv_shared_layers}: of {self.num_hidden_layers} layers, the others "
                "must be of every kind"
            )
        if self.vocab_size_per_layer_input is not None and self.pad_token_id is None:
            raise ValueError("vocab_size_per_layer_input needs pad_token_id, whose row stands for media")
        sizes = (self.num_experts, self.top_k_experts, self.moe_intermediate_size)
        if self.enable_moe_block and (not all(sizes) or (self.top_k_experts or 0) > (self.num_experts or 0)):
            raise ValueError(f"enable_moe_block with (num_experts, top_k_experts, moe_intermediate_size)={sizes}")
        for kind in (SLIDING, FULL):
            self._check_kind(kind)

    def _check_kind(self, kind: str) -> None:
        heads, rope = self.kv_heads(kind), self.rope_parameters[kind]
        if self.num_attention_heads % heads:
            raise ValueError(f"{self.num_attention_heads} heads cannot share {heads} key heads evenly ({kind})")
        if rope["rope_type"] not in ("default", "proportional") or rope.get("factor", 1.0) != 1.0:
            raise ValueError(f"rope_type={rope['rope_type']!r}, factor={rope.get('factor')} is not supported ({kind})")

    def kv_heads(self, kind: str) -> int:
        """Key heads of a layer of this kind."""
        if kind == FULL and self.num_global_key_value_heads is not None:
            return self.num_global_key_value_heads
        return self.num_key_value_heads

    def kind_head_dim(self, kind: str) -> int:
        """Head dim of a layer of this kind."""
        return self.global_head_dim if kind == FULL else self.head_dim

    @property
    def num_own_layers(self) -> int:
        """Layers that have keys and values of their own; they come first."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    @property
    def sees_both_ways(self) -> bool:
        """Whether every token sees what follows it: an encoder, which has no use for a cache."""
        return self.use_bidirectional_attention == "all"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one kind of published checkpoint is described: its classes in transformers, its fields and their defaults."""

    text_type: str  # model_type of its text_config, and of a checkpoint of text alone
    architecture: str
    text_architecture: str
    options: frozenset[str]  # fields of TextConfig that its files may have, besides those of all
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields that its files do not have, and what holds
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of what a file may leave out, unlike TextConfig's


_GEMMA = frozenset(
    {"final_logit_softcapping", "use_bidirectional_attention", "attention_k_eq_v", "num_kv_shared_layers"}
    | {"use_double_wide_mlp"}
)
_PER_LAYER = frozenset({"hidden_size_per_layer_input", "vocab_size_per_layer_input"})
_EXPERTS = frozenset({"enable_moe_block", "num_experts", "top_k_experts", "moe_intermediate_size"})
_OPTIONS = _GEMMA | _PER_LAYER | _EXPERTS | {"embedding_dim", "embedding_rank"}

FAMILIES = {
    "gemma4_unified": Family(
        text_type="gemma4_unified_text",
        architecture="Gemma4UnifiedForConditionalGeneration",
        text_architecture="Gemma4UnifiedForCausalLM",
        options=_GEMMA,
    ),
    "gemma4": Family(
        text_type="gemma4_text",
        architecture="Gemma4ForConditionalGeneration",
        text_architecture="Gemma4ForCausalLM",
        options=_GEMMA | _PER_LAYER | _EXPERTS,
        defaults={
            "sliding_window": 512,
            "use_bidirectional_attention": None,
            "max_position_embeddings": 131_072,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262_144,
        },
    ),
    "embedding_gemma2": Family(
        text_type="embedding_gemma2_text",
        architecture="EmbeddingGemma2Model",
        text_architecture="EmbeddingGemma2TextModel",
        options=frozenset({"hidden_size_per_layer_input", "embedding_dim"}),
        fixed={"use_bidirectional_attention": "all"},
        defaults={
            "sliding_window": 512,
            "num_global_key_value_heads": 1,
            "rope_parameters": ROPE | {FULL: {"rope_type": "default", "rope_theta": 1_000_000.0}},
            "hidden_size_per_layer_input": 512,
            "embedding_dim": 768,
        },
    ),
    # Our own: any mixture of options and media; no other program reads it.
    "castor": Family(text_type="castor_text", architecture="Castor", text_architecture="CastorText", options=_OPTIONS),
}
TEXT_FAMILIES = {family.text_type: name for name, family in FAMILIES.items()}


def check_options(text: TextConfig, family_name: str) -> None:
    """ValueError where a config uses an option that files of this family cannot state."""
    family = FAMILIES[family_name]
    default = {entry.name: entry.default for entry in fields(TextConfig)} | dict(family.fixed)
    for name in sorted(_OPTIONS - family.options):
        value = getattr(text, name)
        if value != default[name]:
            raise ValueError(f"{name}={value!r} is not supported in {family_name} (only {default[name]!r})")
    if family_name == "gemma4" and text.hidden_size_per_layer_input and text.vocab_size_per_layer_input is None:
        raise ValueError(
            "vocab_size_per_layer_input=None is not supported in gemma4, whose per-layer inputs are looked up"
        )


def text_to_hf(text: TextConfig, family_name: str) -> dict[str, Any]:
    """The values of a `text_config`, or of the whole `config.json` of text alone."""
    family, values = FAMILIES[family_name], to_dict(text)
    full_heads = {"head_dim": values.pop("global_head_dim"), "num_key_value_heads": text.kv_heads(FULL)}
    del values["num_global_key_value_heads"]
    values["sliding_window"] = _their_window(text, family_name)
    if family_name == "gemma4" and text.vocab_size_per_layer_input is None:  # without effect, but never null there
        values["vocab_size_per_layer_input"] = text.vocab_size
    full_layers = [i for i, kind in enumerate(text.layer_types or ()) if kind == FULL]
    return {name: value for name, value in values.items() if name in family.options or name not in _OPTIONS} | {
        "model_type": family.text_type,
        "hidden_activation": "gelu_pytorch_tanh",
        "per_layer_config": {str(i): full_heads for i in full_layers},
        "tie_word_embeddings": True,
    }


def text_from_hf(values: Mapping[str, Any], family_name: str) -> TextConfig:
    """The text config in a `config.json`; ValueError names a field that asks for what is not implemented."""
    family = FAMILIES[family_name]
    for key, allowed in _ONLY.items():
        if key in values and values[key] not in allowed:
            raise ValueError(f"{key}={values[key]!r} is not supported (only {allowed[0]!r})")
    both_ways = family.fixed.get("use_bidirectional_attention", values.get("use_bidirectional_attention")) == "all"
    if values.get("is_causal", not both_ways) not in (not both_ways, None):
        raise ValueError(f"is_causal={values['is_causal']!r} does not go with use_bidirectional_attention")
    known = {key: value for key, value in values.items() if key in TextConfig.__dataclass_fields__}
    for key in _NEVER_NULL & known.keys():
        if known[key] is None:  # as if it were not there
            del known[key]
    known = dict(family.defaults) | known | dict(family.fixed)
    known["hidden_size_per_layer_input"] = known.get("hidden_size_per_layer_input") or 0
    if not known["hidden_size_per_layer_input"]:
        known.pop("vocab_size_per_layer_input", None)
    if "attention_k_eq_v" in family.options and not known.get("attention_k_eq_v"):
        known.pop("num_global_key_value_heads", None)  # transformers heeds it beside attention_k_eq_v only
    config = from_dict(TextConfig, known, "text_config.")
    config = replace(config, sliding_window=_own_window(config, family_name))
    overrides = values.get("per_layer_config")
    return config if overrides is None else _with_overrides(config, overrides)


def _own_window(text: TextConfig, family_name: str) -> int:
    """How many positions a token sees on either side, its own included, from what a file says.

    transformers sees |distance| <= sliding_window in EmbeddingGemma 2, and <= sliding_window // 2 + 1 in a Gemma 4
    that sees both ways.
    """
    if family_name == "castor" or not text.sees_both_ways:
        return text.sliding_window
    return text.sliding_window + 1 if family_name == "embedding_gemma2" else text.sliding_window // 2 + 2


def _their_window(text: TextConfig, family_name: str) -> int:
    """The inverse of `_own_window`."""
    if family_name == "castor" or not text.sees_both_ways:
        return text.sliding_window
    return text.sliding_window - 1 if family_name == "embedding_gemma2" else (text.sliding_window - 2) * 2


def _with_overrides(config: TextConfig, overrides: Mapping[str, Mapping[str, int]]) -> TextConfig:
    """The config with transformers' per-layer head sizes, which must be those of exactly the full layers."""
    full_layers = [i for i, kind in enumerate(config.layer_types or ()) if kind == FULL]
    of_layer = {int(i): dict(entry) for i, entry in overrides.items()}  # "05" is layer 5
    entries = [of_layer.get(i, {}) for i in full_layers]
    stray = of_layer.keys() - set(full_layers)
    unknown = set().union(*entries) - {"head_dim", "num_key_value_heads"}
    if stray or unknown or any(entry != entries[0] for entry in entries):
        raise ValueError(f"per_layer_config={dict(overrides)!r} is supported for full layers only, all of one shape")
    heads = entries[0].get("num_key_value_heads", config.num_key_value_heads)
    return replace(
        config,
        global_head_dim=entries[0].get("head_dim", config.head_dim),
        num_global_key_value_heads=heads if heads != config.num_key_value_heads else None,
    )
