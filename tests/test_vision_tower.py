"""The vision tower against transformers' Gemma 4 tower: pictures of many sizes at once, and learning from scratch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from castor.models.vision_tower import VisionTower, VisionTowerConfig
from castor.tokens.vision import patchify

TOLERANCE = 1e-4
TINY = VisionTowerConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=8,
    patch_size=4,
    pooling_kernel_size=3,
    position_embedding_size=64,
)
VARIANTS = {
    "plain": TINY,
    "standardised": dataclasses.replace(TINY, standardize=True),
    "clipped": dataclasses.replace(TINY, use_clipped_linears=True),
    "other shapes": dataclasses.replace(
        TINY,
        num_key_value_heads=2,
        head_dim=12,
        pooling_kernel_size=2,
        standardize=True,
        use_clipped_linears=True,
        rope_parameters={"rope_type": "axial", "rope_theta": 30.0},
    ),
}
SIZES = [(2, 3), (1, 1), (3, 2), (1, 7), (2, 3), (5, 1)]  # rows and columns of squares


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """All parameters and buffers far from where they start; the bounds of clipped linears such that they bite."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith(("input_min", "output_min")):
                tensor.fill_(-0.6 - torch.rand(()).item())
            elif name.endswith(("input_max", "output_max")):
                tensor.fill_(0.6 + torch.rand(()).item())
            elif "inv_freq" not in name and "inv_timescales" not in name and "softcap" not in name:
                tensor.add_(torch.randn_like(tensor) * (0.3 if "norm" in name or "std_" in name else 0.2))
    return module


def pair(config: VisionTowerConfig) -> tuple[torch.nn.Module, VisionTower]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.Gemma4VisionModel(transformers.Gemma4VisionConfig(**config.to_hf())).eval()
    if config.standardize:  # they leave these uninitialised
        theirs.std_bias.zero_(), theirs.std_scale.fill_(1.0)
    randomise(theirs)
    ours = VisionTower(config)
    ours.load_state_dict(theirs.state_dict())  # strict: names and shapes are one to one
    return theirs, ours


def picture(height: int, width: int, config: VisionTowerConfig, seed: int = 0) -> torch.Tensor:
    """uint8 [H, W, 3] of so many squares."""
    draw, px = torch.Generator().manual_seed(seed), config.model_patch_size
    return torch.randint(0, 256, (height * px, width * px, 3), dtype=torch.uint8, generator=draw)


def squares(pixels: torch.Tensor, config: VisionTowerConfig) -> tuple[torch.Tensor, torch.Tensor]:
    squares_PC, xy_P2 = patchify(pixels.numpy(), config.model_patch_size)
    return torch.from_numpy(squares_PC).float() / 255.0, torch.from_numpy(xy_P2).long()


def packed(pictures: list[torch.Tensor], config: VisionTowerConfig) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [squares(pixels, config) for pixels in pictures]
    return torch.cat([p for p, _ in parts]), torch.cat([xy for _, xy in parts])


def padded(pictures: list[torch.Tensor], config: VisionTowerConfig) -> dict[str, torch.Tensor]:
    """What transformers' tower takes: patches in reading order, filled up to more than the largest picture has."""
    parts = [patchify(pixels.numpy(), config.patch_size) for pixels in pictures]
    most = max(len(patches) for patches, _ in parts) + config.pooling_kernel_size**2
    values = torch.stack([F.pad(torch.from_numpy(p).float() / 255.0, (0, 0, 0, most - len(p))) for p, _ in parts])
    places = torch.stack([F.pad(torch.from_numpy(xy).long(), (0, 0, 0, most - len(xy)), value=-1) for _, xy in parts])
    return {"pixel_values": values, "pixel_position_ids": places}


@pytest.mark.parametrize("name", VARIANTS)
def test_pictures_of_many_sizes_equal_transformers(name: str) -> None:
    config = VARIANTS[name]
    theirs, ours = pair(config)
    pictures = [picture(*size, config, seed) for seed, size in enumerate(SIZES)]
    with torch.no_grad():
        wanted = theirs(**padded(pictures, config)).last_hidden_state
        got = ours(*packed(pictures, config))
        one = ours(*squares(pictures[3], config))
        wanted_one = theirs(**padded(pictures[3:4], config)).last_hidden_state
    assert got.shape == wanted.shape == (sum(h * w for h, w in SIZES), config.output_dim)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=1e-4)
    torch.testing.assert_close(one, wanted_one, atol=TOLERANCE, rtol=1e-4)


def test_bounds_of_linears_and_places_change_the_result() -> None:
    config = VARIANTS["clipped"]
    _, ours = pair(config)
    patches, xy = squares(picture(2, 3, config), config)
    with torch.no_grad():
        bounded = ours(patches, xy)
        for name, buffer in ours.named_buffers():
            buffer.fill_(float("-inf") if name.endswith("min") else float("inf"))
        free = ours(patches, xy)
        turned = ours(patches, xy.flip(1)[[0, 3, 1, 4, 2, 5]])
    assert not torch.allclose(bounded, free, atol=1e-2)
    assert not torch.allclose(turned, free, atol=1e-2)


def test_gradients_equal_those_of_transformers() -> None:
    config = VARIANTS["other shapes"]
    theirs, ours = pair(config)
    pictures = [picture(*size, config, seed) for seed, size in enumerate(SIZES[:4])]
    weights = torch.randn(sum(h * w for h, w in SIZES[:4]), config.output_dim)
    (ours(*packed(pictures, config)) * weights).sum().backward()
    (theirs(**padded(pictures, config)).last_hidden_state * weights).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        scale = wanted[name].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, wanted[name].grad / scale, atol=1e-4, rtol=1e-3)


def test_bfloat16_stays_near_float32() -> None:
    _, ours = pair(VARIANTS["standardised"])
    patches, xy = packed([picture(2, 3, TINY), picture(4, 1, TINY)], TINY)
    with torch.no_grad():
        exact, rough = ours(patches, xy), ours.bfloat16()(patches, xy)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_published_shapes_build_on_meta_with_the_published_names() -> None:
    """EmbeddingGemma 2's tower has 167 million parameters."""
    transformers = pytest.importorskip("transformers")
    for changes in ({}, {"use_clipped_linears": True, "standardize": True, "hidden_size": 1152, "head_dim": 72}):
        config = dataclasses.replace(VisionTowerConfig(), **changes)
        with torch.device("meta"):
            ours = VisionTower(config)
            theirs = transformers.Gemma4VisionModel(transformers.Gemma4VisionConfig(**config.to_hf()))
        shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (ours, theirs)]
        assert shapes[0] == shapes[1]
        if not changes:
            assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == 167


def test_config_comes_back_and_refuses_what_is_not_there() -> None:
    transformers = pytest.importorskip("transformers")
    for config in VARIANTS.values():
        values = transformers.Gemma4VisionConfig(**config.to_hf()).to_dict()
        assert VisionTowerConfig.from_hf(values) == config
    with pytest.raises(ValueError, match="vision_config.hidden_activation='relu'"):
        VisionTowerConfig.from_hf({"hidden_activation": "relu"})
    with pytest.raises(ValueError, match="rope_type='yarn'"):
        VisionTowerConfig.from_hf({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}})
    with pytest.raises(ValueError, match="4 heads cannot share 3"):
        dataclasses.replace(TINY, num_key_value_heads=3)
    with pytest.raises(ValueError, match="head_dim=6"):
        dataclasses.replace(TINY, head_dim=6)


def test_wrong_squares_are_refused() -> None:
    tower = VisionTower(TINY)
    patches, xy = squares(picture(1, 2, TINY), TINY)
    with pytest.raises(ValueError, match=r"\[2, 431\], not \[2, 432\]"):
        tower(patches[:, 1:], xy)
    with pytest.raises(ValueError, match="1 x 22 squares; the tower knows places of up to 21"):
        tower(*squares(picture(1, 22, TINY), TINY))


def test_a_small_tower_learns_from_scratch() -> None:
    """Eight Diorama pictures, told apart by a linear layer on the mean of their soft tokens."""
    from castor.diorama.world import World
    from castor.tokens.vision import resize_to_budget

    config = dataclasses.replace(TINY, patch_size=8, pooling_kernel_size=2, standardize=True, use_clipped_linears=True)
    with torch.device("meta"):
        tower = VisionTower(config)
    tower.to_empty(device="cpu").reset_parameters(torch.Generator().manual_seed(0))
    world = World(seed=0)
    parts = []
    for index in range(8):
        image = next(p for p in world.example("caption", index).messages[0].parts if type(p).__name__ == "Image")
        resized = resize_to_budget(image.pixels(), config.patch_size, config.pooling_kernel_size, 9)
        parts.append(squares(torch.from_numpy(resized), config))
    patches, xy = torch.cat([p for p, _ in parts]), torch.cat([xy for _, xy in parts])
    share = torch.block_diag(*(torch.full((1, len(p)), 1.0 / len(p)) for p, _ in parts))  # the mean of each picture
    with torch.no_grad():
        soft = tower(patches, xy) / config.hidden_size**0.5
    assert torch.isfinite(soft).all() and 0.1 < soft.std() < 3
    torch.manual_seed(0)
    head = torch.nn.Linear(config.output_dim, 8)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        soft = tower(patches, xy) / config.hidden_size**0.5
        loss = F.cross_entropy(head(share @ soft), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and losses[-1] < 0.1, (losses[0], losses[-1])
