"""The decoder that a run trains: a size with this run's vocabulary and media, and how its weights begin."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from castor.models.codec import CodecConfig
from castor.models.config import ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.nn.quantizer import init_code_rows
from castor.tokens.space import CONFIG_IDS, IdSpace


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """What a run makes of its size; by default what `models/sizes.py` says."""

    width: int = 0  # of the stream, whole heads of it; heads and feed-forward grow with it; 0: the size's own
    layers: int = 0  # 0: the size's own
    init_scale: float = 0.5  # of every matrix at the start; 1: projections keep the size of what they take
    alike_codes: bool = True  # picture codes that paint alike begin alike

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"shape.{name}={getattr(self, name)} must not be negative")
        if not 0 < self.init_scale < math.inf:
            raise ValueError(f"shape.init_scale={self.init_scale} must be positive and finite")


def model_config(config: ModelConfig, shape: ShapeConfig, space: IdSpace) -> ModelConfig:
    """A size's config with a run's vocabulary and shape; ValueError for a width that is not whole heads."""
    text, width = config.text, shape.width or config.text.hidden_size
    if width * text.num_attention_heads % text.hidden_size or width * text.num_key_value_heads % text.hidden_size:
        raise ValueError(f"shape.width={width} does not make whole heads, as {text.hidden_size} does in this size")
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
    vision = config.vision
    if isinstance(vision, VisionConfig):
        vision = dataclasses.replace(vision, mm_embed_dim=width)
    ids = {name: space.special(token) for name, token in CONFIG_IDS.items()}
    return dataclasses.replace(config, text=text, vision=vision, **ids)


def fresh_decoder(config: ModelConfig, shape: ShapeConfig, codec: CodecConfig, first_code: int, seed: int) -> Decoder:
    """A decoder with the weights that training begins with."""
    decoder = Decoder(config).init_weights(seed, shape.init_scale)
    if shape.alike_codes:
        init_code_rows(decoder.output_weight_VD, first_code, codec.levels, seed)
    return decoder
