"""The audio tower against transformers' Gemma 4 tower: clips of many lengths at once, and learning from scratch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_vision_tower import randomise

from castor.models.audio_tower import COLUMNS, AudioTower, AudioTowerConfig

TOLERANCE = 1e-4
TINY = AudioTowerConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    subsampling_conv_channels=(16, 8),
    attention_chunk_size=5,
    attention_context_left=6,
    output_proj_dims=24,
    use_clipped_linears=False,
)
VARIANTS = {
    "plain": TINY,
    "clipped": dataclasses.replace(TINY, use_clipped_linears=True),
    "hears ahead": dataclasses.replace(TINY, attention_context_right=3, attention_logit_cap=2.0, residual_weight=0.3),
    "small chunks": dataclasses.replace(TINY, attention_chunk_size=2, attention_context_left=9, conv_kernel_size=3),
    "large chunks": dataclasses.replace(TINY, attention_chunk_size=9, attention_context_left=3, gradient_clipping=0.8),
}
LENGTHS = [37, 1, 20, 41, 4, 6, 83, 19]  # columns of 10 ms; 20 and 40 of them fill chunks of 5 tokens


def pair(config: AudioTowerConfig) -> tuple[torch.nn.Module, AudioTower]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.Gemma4AudioModel(transformers.Gemma4AudioConfig(**config.to_hf())).eval()
    randomise(theirs)
    ours = AudioTower(config)
    ours.load_state_dict(theirs.state_dict())  # strict: names and shapes are one to one
    return theirs, ours


def clips(config: AudioTowerConfig, lengths: list[int] = LENGTHS) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(length, config.num_mels, generator=draw) for length in lengths]


def packed(sounds: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [F.pad(sound, (0, 0, 0, -len(sound) % COLUMNS)).reshape(-1, COLUMNS * sound.shape[1]) for sound in sounds]
    return torch.cat(rows), torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(r) for r in rows]))


def padded(sounds: list[torch.Tensor], more: int = 7) -> dict[str, torch.Tensor]:
    most = max(len(sound) for sound in sounds) + more
    features = torch.stack([F.pad(sound, (0, 0, 0, most - len(sound))) for sound in sounds])
    mask = torch.stack([torch.arange(most) < len(sound) for sound in sounds])
    return {"input_features": features, "attention_mask": mask}


@pytest.mark.parametrize("name", VARIANTS)
def test_clips_of_many_lengths_equal_transformers(name: str) -> None:
    theirs, ours = pair(VARIANTS[name])
    sounds = clips(VARIANTS[name])
    with torch.no_grad():
        output = theirs(**padded(sounds))
        got = ours(*packed(sounds))
        wanted = output.last_hidden_state[output.attention_mask]
        assert got.shape == wanted.shape and wanted.std() > 0.1
        torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=1e-4)
        for sound, part in zip(sounds, got.split([-(-len(s) // COLUMNS) for s in sounds]), strict=True):
            alone = theirs(sound[None], torch.ones(1, len(sound), dtype=torch.bool)).last_hidden_state[0]
            torch.testing.assert_close(part, alone, atol=TOLERANCE, rtol=1e-4)
            torch.testing.assert_close(ours(*packed([sound])), part, atol=TOLERANCE, rtol=1e-4)


def test_gradients_equal_those_of_transformers() -> None:
    config = VARIANTS["clipped"]
    theirs, ours = pair(config)
    sounds = clips(config, LENGTHS[:4])
    frames, clip = packed(sounds)
    weights = torch.randn(len(frames), config.output_dim)
    (ours(frames, clip) * weights).sum().backward()
    output = theirs(**padded(sounds))
    (output.last_hidden_state[output.attention_mask] * weights).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        scale = wanted[name].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, wanted[name].grad / scale, atol=1e-4, rtol=1e-3)


def test_silence_inside_a_clip_is_heard_and_filling_is_not() -> None:
    theirs, ours = pair(TINY)
    sound = clips(TINY, [24])[0]
    sound[9:14] = 0.0  # columns of zero that are not the end of the clip
    with torch.no_grad():
        wanted = theirs(sound[None], torch.ones(1, 24, dtype=torch.bool)).last_hidden_state[0]
        torch.testing.assert_close(ours(*packed([sound])), wanted, atol=TOLERANCE, rtol=1e-4)
        frames, clip = packed(clips(TINY, [22]))
        louder = frames.clone()
        louder[-1, -2 * TINY.num_mels :] = 1e-3
        assert not torch.allclose(ours(frames, clip)[-1], ours(louder, clip)[-1], atol=1e-2)


def test_a_token_hears_as_far_as_the_config_says() -> None:
    config = dataclasses.replace(TINY, num_hidden_layers=1, conv_kernel_size=1)
    tower = AudioTower(config)
    tower.reset_parameters(torch.Generator().manual_seed(0))
    frames, clip = packed(clips(config, [80]))
    with torch.no_grad():
        before = tower(frames, clip)
        frames[10, :] += 1.0
        changed = (tower(frames, clip) - before).abs().amax(1) > 1e-6
    # a token's convolutions hear three columns before its own four, so token 11 hears token 10 even before attention
    last = 11 + config.attention_context_left - 2
    assert changed.nonzero().flatten().tolist() == list(range(10, last + 1))


def test_bfloat16_stays_near_float32() -> None:
    _, ours = pair(TINY)
    frames, clip = packed(clips(TINY))
    with torch.no_grad():
        exact, rough = ours(frames, clip), ours.bfloat16()(frames, clip)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_published_shapes_build_on_meta_with_the_published_names() -> None:
    """The published tower has 305 million parameters."""
    transformers = pytest.importorskip("transformers")
    config = AudioTowerConfig()
    with torch.device("meta"):
        ours = AudioTower(config)
        theirs = transformers.Gemma4AudioModel(transformers.Gemma4AudioConfig(**config.to_hf()))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6) == 305


def test_config_comes_back_and_refuses_what_is_not_there() -> None:
    transformers = pytest.importorskip("transformers")
    for config in VARIANTS.values():
        values = transformers.Gemma4AudioConfig(**config.to_hf()).to_dict()
        assert AudioTowerConfig.from_hf(values) == config
    with pytest.raises(ValueError, match="audio_config.hidden_act='relu'"):
        AudioTowerConfig.from_hf({"hidden_act": "relu"})
    for changes in ({"subsampling_conv_channels": (18, 8)}, {"attention_context_left": 1}, {"hidden_size": 30}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            dataclasses.replace(TINY, **changes)


def test_wrong_frames_are_refused() -> None:
    frames, clip = packed(clips(TINY))
    with pytest.raises(ValueError, match=r"\[56, 63\], not \[56, 64\]"):
        AudioTower(TINY)(frames[:, 1:], clip)


def test_a_small_tower_learns_from_scratch() -> None:
    """Eight Diorama sounds, told apart by a linear layer on the mean of their soft tokens."""
    from castor.diorama.world import World
    from castor.tokens.audio import usm_frames

    config = dataclasses.replace(TINY, use_clipped_linears=True)
    with torch.device("meta"):
        tower = AudioTower(config)
    tower.to_empty(device="cpu").reset_parameters(torch.Generator().manual_seed(0))
    parts = []
    for index in range(8):
        message = World(seed=0).example("sound_event", index).messages[0]
        sound = next(part for part in message.parts if type(part).__name__ == "Audio")
        parts.append(torch.from_numpy(usm_frames(sound.samples()[:16_000], config.num_mels)))
    frames = torch.cat(parts)
    clip = torch.repeat_interleave(torch.arange(8), torch.tensor([len(part) for part in parts]))
    with torch.no_grad():
        soft = tower(frames, clip)
    assert torch.isfinite(soft).all() and 0.1 < soft.std() < 3
    share = torch.block_diag(*(torch.full((1, len(part)), 1.0 / len(part)) for part in parts))  # the mean of each clip
    torch.manual_seed(0)
    head = torch.nn.Linear(config.output_dim, 8)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(head(share @ tower(frames, clip)), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and losses[-1] < 0.1, (losses[0], losses[-1])
