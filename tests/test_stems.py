"""Convolutional stems: each picture and clip as if it were alone, the convolution PyTorch's own, saved and loaded."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from castor.models.config import AudioConfig, ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.models.stems import ConvFrameEmbedder, ConvPatchEmbedder
from castor.nn.conv import MatrixConv

VISION = VisionConfig(
    patch_size=8, pooling_kernel_size=1, mm_embed_dim=16, mm_posemb_size=8, stem_channels=(4, 6), stem_blocks=1
)
AUDIO = AudioConfig(audio_embed_dim=4 * 10, stem_channels=(8, 12))


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, MatrixConv):
            part.reset_parameters()
            torch.nn.init.normal_(part.bias)  # so that what should be empty would show
    for name, parameter in module.named_parameters():
        if name == "pos_embedding":
            torch.nn.init.normal_(parameter)
    return module


def grid(height: int, width: int) -> torch.Tensor:
    return torch.stack([torch.arange(width).repeat(height), torch.arange(height).repeat_interleave(width)], dim=1)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_matrix_convolution_is_the_usual_one(dims: int) -> None:
    ours = MatrixConv(3, 5, 3, stride=2, dims=dims)
    ours.reset_parameters()
    theirs = (torch.nn.Conv1d, torch.nn.Conv2d)[dims - 1](3, 5, 3, stride=2, padding=1)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.view(theirs.weight.shape))
        theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 3, *[8] * dims)
    assert torch.equal(ours(x), theirs(x))


def test_pictures_of_many_sizes_are_each_seen_whole_and_alone() -> None:
    stem = drawn(ConvPatchEmbedder(VISION, 16))
    sizes = [(2, 3), (1, 1), (2, 3), (4, 2), (1, 1)]
    places = [grid(*size) for size in sizes]
    patches = [torch.rand(len(xy), VISION.patch_dim) for xy in places]
    together = stem(torch.cat(patches), torch.cat(places))
    alone = torch.cat([stem(p, xy) for p, xy in zip(patches, places, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)
    swapped = patches[0].flip(0)  # other neighbours give other vectors, so the picture is seen whole
    assert not torch.allclose(stem(swapped, places[0]).flip(0)[1], together[1], atol=1e-2)


def test_the_first_convolution_sees_pixels_where_they_are() -> None:
    stem = drawn(ConvPatchEmbedder(dataclasses.replace(VISION, stem_blocks=0), 16))
    pixels = torch.rand(1, 3, 16, 24)
    xy = grid(2, 3)
    patches = torch.stack(
        [pixels[0, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].permute(1, 2, 0).flatten() for x, y in xy]
    )
    x = pixels * 2 - 1
    for halve in stem.halvings:
        x = F.conv2d(x, halve.weight.view(-1, x.shape[1], 3, 3), halve.bias, 2, 1)
        x = F.gelu(F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2), approximate="tanh")
    x = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
    x = F.conv2d(x, stem.merge.weight.view(16, 6, 2, 2), stem.merge.bias, 2)
    expected = F.layer_norm(x[0].permute(1, 2, 0).reshape(6, 16), (16,))
    expected = expected + stem.pos_embedding[xy[:, 0], 0] + stem.pos_embedding[xy[:, 1], 1]
    assert torch.allclose(stem(patches, xy), expected, atol=1e-5)


def test_clips_are_each_heard_alone() -> None:
    stem = drawn(ConvFrameEmbedder(AUDIO, 16))
    lengths, starts = (3, 1, 7), (0, 5, 6 + 5)
    clips = [torch.randn(length, AUDIO.audio_embed_dim) for length in lengths]
    at = [start + torch.arange(length) for start, length in zip(starts, lengths, strict=True)]
    together = stem(torch.cat(clips), torch.cat(at))
    alone = torch.cat([stem(clip, where) for clip, where in zip(clips, at, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)
    frames = clips[2].view(1, -1, 10).transpose(1, 2)
    for halve, size in zip(stem.halvings, (5, 3), strict=True):
        kernel = halve.weight.view(len(halve.weight), -1, size)
        frames = F.gelu(F.conv1d(frames, kernel, halve.bias, 2, size // 2), approximate="tanh")
    expected = stem.norm(stem.project(frames[0].T))
    assert torch.allclose(together[4:], expected, atol=1e-5)


def test_a_model_with_stems_is_saved_as_what_it_is(tiny_config: ModelConfig) -> None:
    config = dataclasses.replace(tiny_config, vision=VISION, audio=AUDIO)
    values = config.to_hf()
    assert values["model_type"] == "castor" and "stem_channels" not in tiny_config.to_hf()["vision_config"]
    assert ModelConfig.from_hf(values) == config
    names = set(Decoder(config).state_dict())
    assert "vision_embedder.merge.weight" in names and "embed_audio.project.weight" in names


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvPatchEmbedder(dataclasses.replace(VISION, patch_size=6), 8),
        lambda: ConvFrameEmbedder(dataclasses.replace(AUDIO, audio_embed_dim=42), 8),
    ],
)
def test_sizes_that_do_not_divide_are_refused(make) -> None:
    with pytest.raises(ValueError, match="do not"):
        make()
