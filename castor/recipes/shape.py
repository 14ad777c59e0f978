"""The decoder that a run trains: a size with this run's vocabulary and media, and how its weights begin."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from castor.models.codec import CodecConfig
from castor.models.config import AudioConfig, ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.models.sizes import SIZES
from castor.nn.quantizer import init_code_rows
from castor.tokens.render import RenderConfig
from castor.tokens.space import CONFIG_IDS, IdSpace


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """What a run makes of its size; by default what `models/sizes.py` says."""

    width: int = 0  # of the stream, whole heads of it; heads and feed-forward grow with it; 0: the size's own
    layers: int = 0  # 0: the size's own
    stems: tuple[Literal["vision", "audio"], ...] = ("vision", "audio")  # media not named are projected as they are
    init_scale: float = 1.0  # of every matrix at the start
    alike_codes: bool = True  # picture codes that paint alike begin alike

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"shape.{name}={getattr(self, name)} must not be negative")
        if not 0 < self.init_scale < math.inf:
            raise ValueError(f"shape.init_scale={self.init_scale} must be positive and finite")


def model_config(size: str, shape: ShapeConfig, space: IdSpace, renderer: RenderConfig) -> ModelConfig:
    """The size's config with a run's vocabulary, media and shape; ValueError for a width that is not whole heads."""
    config = SIZES[size]
    assert isinstance(config.vision, VisionConfig) and isinstance(config.audio, AudioConfig), "no size has towers"
    text, width = config.text, shape.width or config.text.hidden_size
    if width * text.num_attention_heads % text.hidden_size or width * text.num_key_value_heads % text.hidden_size:
        raise ValueError(f"shape.width={width} does not make whole heads, as {text.hidden_size} does in {size}")
    layers = shape.layers or text.num_hidden_layers
    text = dataclasses.replace(
        text,
        vocab_size=space.vocab_size,
        hidden_size=width,
        intermediate_size=text.intermediate_size * width // text.hidden_size,
        num_attention_heads=text.num_attention_heads * width // text.hidden_size,
        num_key_value_heads=text.num_key_value_heads * width // text.hidden_size,
        num_hidden_layers=layers,
        layer_types=text.layer_types if layers == text.num_hidden_layers else None,
    )
    vision = dataclasses.replace(
        config.vision,
        patch_size=renderer.patch_size,
        pooling_kernel_size=renderer.pooling,
        mm_embed_dim=width,
        stem_channels=config.vision.stem_channels if "vision" in shape.stems else (),
    )
    audio = dataclasses.replace(
        config.audio,
        audio_embed_dim=renderer.frame_dim,
        stem_channels=config.audio.stem_channels if "audio" in shape.stems else (),
    )
    ids = {name: space.special(token) for name, token in CONFIG_IDS.items()}
    return dataclasses.replace(config, text=text, vision=vision, audio=audio, **ids)


def fresh_decoder(config: ModelConfig, shape: ShapeConfig, codec: CodecConfig, first_code: int, seed: int) -> Decoder:
    """A decoder with the weights that training begins with."""
    decoder = Decoder(config).init_weights(seed, shape.init_scale)
    if shape.alike_codes:
        init_code_rows(decoder.output_weight_VD, first_code, codec.levels, seed)
    return decoder
