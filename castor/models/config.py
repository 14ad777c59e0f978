"""What a model is made of, in Hugging Face's field names; `config.json` both ways.

The text side, which differs most between families, is described in `text_config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from castor.config import from_foreign, to_dict
from castor.models.audio_tower import AudioTowerConfig
from castor.models.text_config import FAMILIES, TEXT_FAMILIES, TextConfig, check_options, text_from_hf, text_to_hf
from castor.models.vision_tower import VisionTowerConfig
from castor.tokens.space import CONFIG_IDS


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
    vision: VisionConfig | VisionTowerConfig | None = None
    audio: AudioConfig | AudioTowerConfig | None = None
    image_token_id: int | None = None
    audio_token_id: int | None = None
    video_token_id: int | None = None
    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    boa_token_id: int | None = None
    eoa_token_index: int | None = None
    model_type: str = "gemma4_unified"  # what a saved model says it is; with stems always "castor"

    def __post_init__(self) -> None:
        if self.has_stems:
            object.__setattr__(self, "model_type", "castor")
        if self.model_type not in (*FAMILIES, *TEXT_FAMILIES):
            known = ", ".join((*FAMILIES, *TEXT_FAMILIES))
            raise ValueError(f"model_type={self.model_type!r} is not supported (only {known})")
        check_options(self.text, self.family)
        for name, medium in (("vision", self.vision), ("audio", self.audio)):
            if medium is not None and (self.is_text_only or _is_tower(medium) not in _TOWERS[self.family]):
                raise ValueError(f"{name}: {self.model_type} does not read media through a {type(medium).__name__}")

    @property
    def family(self) -> str:
        """The key in FAMILIES."""
        return TEXT_FAMILIES.get(self.model_type, self.model_type)

    @property
    def is_text_only(self) -> bool:
        """Whether the saved model is one of text alone, which has a flat config and shorter names."""
        return self.model_type in TEXT_FAMILIES

    @property
    def has_stems(self) -> bool:
        """Whether media come in through convolutions, which no other program's model of this shape has."""
        media = [medium for medium in (self.vision, self.audio) if medium is not None and not _is_tower(medium)]
        return any(getattr(medium, "stem_channels", ()) for medium in media)

    @property
    def kv_shapes(self) -> list[tuple[int, int]]:
        """(key heads, head dim) of each layer that has keys of its own, what a cache has to hold."""
        own = (self.text.layer_types or ())[: self.text.num_own_layers]
        return [(self.text.kv_heads(kind), self.text.kind_head_dim(kind)) for kind in own]

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The values of a `config.json`; transformers reads it, unless it is our own `castor`."""
        family, text = FAMILIES[self.family], text_to_hf(self.text, self.family)
        if self.is_text_only:
            return text | {"architectures": [family.text_architecture], "dtype": dtype}
        values: dict[str, Any] = {
            "architectures": [family.architecture],
            "model_type": self.model_type,
            "dtype": dtype,
            "tie_word_embeddings": True,
            "text_config": text,
            "vision_config": _vision_to_hf(self.vision),
            "audio_config": _audio_to_hf(self.audio),
        }
        given = {name: getattr(self, name) for name in CONFIG_IDS}
        return values | {name: token for name, token in given.items() if token is not None}

    @staticmethod
    def from_hf(values: Mapping[str, Any]) -> ModelConfig:
        """The config in a `config.json`; ValueError names a field that asks for what is not implemented."""
        kind = str(values["model_type"])
        if kind in TEXT_FAMILIES:
            return ModelConfig(text=text_from_hf(values, TEXT_FAMILIES[kind]), model_type=kind)
        if kind not in FAMILIES:
            known = ", ".join((*FAMILIES, *TEXT_FAMILIES))
            raise ValueError(f"model_type={kind!r} is not supported (only {known})")
        for key, allowed in (("tie_word_embeddings", True), ("quantization_config", None)):
            if values.get(key, allowed) is not allowed:
                raise ValueError(f"{key}={values[key]!r} is not supported")
        return ModelConfig(
            text=text_from_hf(values["text_config"], kind),
            vision=_vision_from_hf(values.get("vision_config"), kind),
            audio=_audio_from_hf(values.get("audio_config"), kind),
            **{name: values.get(name) for name in CONFIG_IDS},
            model_type=kind,
        )


# Whether media come in through towers, by family: never, always, or as the config says.
_TOWERS = {"gemma4_unified": (False,), "gemma4": (True,), "embedding_gemma2": (True,), "castor": (False, True)}


def _is_tower(medium: object) -> bool:
    return isinstance(medium, VisionTowerConfig | AudioTowerConfig)


def _vision_to_hf(vision: VisionConfig | VisionTowerConfig | None) -> dict[str, Any] | None:
    if vision is None or isinstance(vision, VisionTowerConfig):
        return None if vision is None else vision.to_hf()
    return _without_stem(vision) | {"model_type": "gemma4_unified_vision", "output_proj_dims": vision.mm_embed_dim}


def _audio_to_hf(audio: AudioConfig | AudioTowerConfig | None) -> dict[str, Any] | None:
    if audio is None or isinstance(audio, AudioTowerConfig):
        return None if audio is None else audio.to_hf()
    return _without_stem(audio) | {"model_type": "gemma4_unified_audio"}


def _vision_from_hf(values: Mapping[str, Any] | None, family: str) -> VisionConfig | VisionTowerConfig | None:
    if values is None:
        return None
    if _names_tower(values, "vision", family):
        return VisionTowerConfig.from_hf(values)
    if values.get("output_proj_dims", values["mm_embed_dim"]) != values["mm_embed_dim"]:
        raise ValueError(f"output_proj_dims={values['output_proj_dims']} differs from mm_embed_dim")
    return from_foreign(VisionConfig, values, {})


def _audio_from_hf(values: Mapping[str, Any] | None, family: str) -> AudioConfig | AudioTowerConfig | None:
    if values is None:
        return None
    if _names_tower(values, "audio", family):
        return AudioTowerConfig.from_hf(values)
    return from_foreign(AudioConfig, values, {})


def _names_tower(values: Mapping[str, Any], medium: str, family: str) -> bool:
    """Whether a medium's config in a file is that of a tower; where it does not say, the family's first way holds."""
    ways = {f"gemma4_unified_{medium}": False, f"gemma4_{medium}": True}
    kind = values.get("model_type", next(name for name, way in ways.items() if way == _TOWERS[family][0]))
    if kind not in ways:
        raise ValueError(f"{medium}_config.model_type={kind!r} is not supported (only {', '.join(ways)})")
    return ways[kind]


def _without_stem(medium: VisionConfig | AudioConfig) -> dict[str, Any]:
    """The fields of a medium's config; those of a stem only where there is one."""
    return {key: value for key, value in to_dict(medium).items() if medium.stem_channels or "stem" not in key}
