"""The family's sizes as data: what each is made of, and how many parameters that is."""

from __future__ import annotations

from typing import Any

from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import AudioConfig, ModelConfig, TextConfig, VisionConfig
from castor.models.vision_tower import VisionTowerConfig
from castor.tokens.space import CONFIG_IDS, IdSpace

_GEMMA_VOCABULARY = 262_144
_GEMMA_IDS: dict[str, Any] = {
    "image_token_id": 258_880,
    "audio_token_id": 258_881,
    "video_token_id": 258_884,
    "boi_token_id": 255_999,
    "eoi_token_id": 258_882,
    "boa_token_id": 256_000,
    "eoa_token_index": 258_883,
}
STEMS = ((32, 64, 96), (128, 128, 128))  # channels of the small sizes' convolutions: pictures, sounds


def _small(hidden: int, layers: int, heads: int, kv_heads: int, inner: int) -> ModelConfig:
    """Sizes for the small world: convolutional stems, 32 pixels square or 80 ms a token, 4096 pieces, 1000 codes."""
    space = IdSpace(num_text=4096, num_codes=1000)
    text = TextConfig(
        vocab_size=space.vocab_size,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=64,
        global_head_dim=64,
        sliding_window=256,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=space.special("<turn|>"),
    )
    vision = VisionConfig(
        patch_size=32, pooling_kernel_size=1, mm_embed_dim=hidden, mm_posemb_size=64, stem_channels=STEMS[0]
    )
    audio = AudioConfig(audio_embed_dim=640, stem_channels=STEMS[1])
    ids: dict[str, Any] = {field: space.special(name) for field, name in CONFIG_IDS.items()}
    return ModelConfig(text=text, vision=vision, audio=audio, **ids)


def _large(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    inner: int,
    global_kv_heads: int = 1,
    head_dim: int = 256,
) -> ModelConfig:
    """Sizes in the shape of Gemma 4 unified: its vocabulary, 48-pixel patches and raw audio frames."""
    text = TextConfig(
        vocab_size=_GEMMA_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        global_head_dim=2 * head_dim,
        num_global_key_value_heads=global_kv_heads,
        attention_k_eq_v=True,
        sliding_window=1024,
        final_logit_softcapping=30.0,
    )
    vision = VisionConfig(mm_embed_dim=hidden)
    return ModelConfig(text=text, vision=vision, audio=AudioConfig(), **_GEMMA_IDS)


def _vision_tower(hidden: int, layers: int, heads: int) -> VisionTowerConfig:
    """A small tower, for pictures of up to 64 squares a side."""
    return VisionTowerConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        position_embedding_size=256,
    )


def _conformer(hidden: int, layers: int, heads: int, out: int) -> AudioTowerConfig:
    """A small Conformer; a run sets its mel bands to those it hears."""
    return AudioTowerConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        subsampling_conv_channels=(80, 16),
        use_clipped_linears=False,
        output_proj_dims=out,
    )


_WIDE_TOWER = VisionTowerConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=72,
)

SIZES: dict[str, ModelConfig] = {
    "atom": _small(192, 4, 3, 3, 768),
    "micro": _small(512, 12, 8, 2, 2048),
    "nano-1": _large(1536, 30, 8, 1, 8192),
    "nano-2": _large(2304, 30, 8, 4, 10496),
    "pro": _large(3840, 48, 16, 8, 15360),
    "ultra": _large(12288, 60, 48, 8, 36864),
}

# What a size has in front where a run asks for a tower (`front_ends.py`); the largest are those of Gemma 4.
VISION_TOWERS: dict[str, VisionTowerConfig] = {
    "atom": _vision_tower(128, 4, 4),
    "micro": _vision_tower(384, 8, 6),
    "nano-1": VisionTowerConfig(),
    "nano-2": VisionTowerConfig(),
    "pro": _WIDE_TOWER,
    "ultra": _WIDE_TOWER,
}
CONFORMERS: dict[str, AudioTowerConfig] = {
    "atom": _conformer(128, 4, 4, 192),
    "micro": _conformer(384, 8, 6, 512),
    "nano-1": AudioTowerConfig(),
    "nano-2": AudioTowerConfig(),
    "pro": AudioTowerConfig(),
    "ultra": AudioTowerConfig(),
}

# Parameters of each size. Published `pro` weights count 48 more: the fixed scale of each layer.
PARAMETERS: dict[str, int] = {
    "atom": 4_261_408,
    "micro": 49_772_256,
    "nano-1": 1_796_534_272,
    "nano-2": 3_262_786_048,
    "pro": 11_959_730_176,
    "ultra": 108_751_675_904,
}
