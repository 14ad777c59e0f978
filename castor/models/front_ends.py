"""Ways for pictures and sounds into a model of ours, where a run wants another than its size has.

A way settles two things that must fit each other: how media become tokens (`RenderConfig`), and what the model makes
of them (`ModelConfig`). What each costs and buys is measured by `bench/front_ends.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import AudioConfig, ModelConfig, VisionConfig
from castor.models.sizes import CONFORMERS, SIZES, STEMS, VISION_TOWERS
from castor.models.vision_tower import VisionTowerConfig
from castor.tokens.render import RenderConfig

# "size": as the size has it. Else patches as they are, convolutions, or a vision transformer; and samples or log-mel
# frames as they are, convolutions, or a Conformer.
VisionWay = Literal["size", "linear", "stem", "tower"]
AudioWay = Literal["size", "raw", "linear", "stem", "conformer"]


def rendered_for(render: RenderConfig, vision: VisionWay, audio: AudioWay) -> RenderConfig:
    """`render` with what these ways need. A tower sees four patches in each square that would be one patch.

    A `pooling` above 1 is taken as it is. ValueError for a patch that cannot be halved.
    """
    if vision == "tower" and render.pooling == 1:
        if render.patch_size % 2:
            raise ValueError(f"vision='tower' halves a patch of {render.patch_size} pixels; give renderer.pooling too")
        render = dataclasses.replace(render, patch_size=render.patch_size // 2, pooling=2)
    if audio == "size":
        return render
    features: dict[str, Literal["raw", "log_mel", "usm"]] = {"raw": "raw", "conformer": "usm"}
    return dataclasses.replace(render, audio=features.get(audio, "log_mel"))


def sized(size: str, render: RenderConfig, vision: VisionWay = "size", audio: AudioWay = "size") -> ModelConfig:
    """The config of a size whose media come in these ways, from what `rendered_for` the same ways gives.

    ValueError where `render` makes features that the way cannot take.
    """
    seen, heard = _vision(size, render, vision), _audio(size, render, audio)
    towers = isinstance(seen, VisionTowerConfig) + isinstance(heard, AudioTowerConfig)
    kind = ("gemma4_unified", "castor", "gemma4")[towers]  # the published form that has it so, if any
    return dataclasses.replace(SIZES[size], vision=seen, audio=heard, model_type=kind)


def _vision(size: str, render: RenderConfig, way: VisionWay) -> VisionConfig | VisionTowerConfig:
    own = SIZES[size].vision
    assert isinstance(own, VisionConfig), "no size has a tower of its own"
    squares = {"patch_size": render.patch_size, "pooling_kernel_size": render.pooling}
    if way == "tower":
        return dataclasses.replace(VISION_TOWERS[size], **squares)
    channels = {"size": own.stem_channels, "linear": (), "stem": STEMS[0]}[way]
    return dataclasses.replace(own, **squares, stem_channels=channels)


def _audio(size: str, render: RenderConfig, way: AudioWay) -> AudioConfig | AudioTowerConfig:
    own = SIZES[size].audio
    assert isinstance(own, AudioConfig), "no size has a tower of its own"
    if way == "conformer":
        tower = CONFORMERS[size]
        bands = (render.num_mels, tower.subsampling_conv_channels[1])
        return dataclasses.replace(tower, subsampling_conv_channels=bands)
    channels = {"size": own.stem_channels, "raw": (), "linear": (), "stem": STEMS[1]}[way]
    if channels and (render.audio != "log_mel" or render.frames_per_token != 2 ** len(channels)):
        raise ValueError(
            f"audio={way!r}: {len(channels)} convolutions make a token of {2 ** len(channels)} log-mel frames, "
            f"not of renderer.audio={render.audio!r} with renderer.frames_per_token={render.frames_per_token}"
        )
    return dataclasses.replace(own, audio_embed_dim=render.frame_dim, stem_channels=channels)
