"""The ways for pictures and sounds into our own sizes: trained from nothing, packed as alone, saved and loaded."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castor
from castor import cli
from castor.content import Audio, Image, Message
from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.front_ends import AudioWay, VisionWay, rendered_for, sized
from castor.models.load import save_model
from castor.models.sizes import CONFORMERS, SIZES, VISION_TOWERS
from castor.models.vision_tower import VisionTowerConfig
from castor.nn.losses import IGNORE
from castor.recipes.pipeline import RunConfig
from castor.tokens.pack import collate
from castor.tokens.render import RenderConfig, Renderer
from castor.tokens.sequence import Sequence
from castor.tokens.space import CONFIG_IDS
from castor.tokens.text import Tokenizer
from castor.tokens.vision import patchify, unpatchify
from castor.train.objective import next_token

VISION_WAYS, AUDIO_WAYS = typing.get_args(VisionWay), typing.get_args(AudioWay)
PAIRS = [(vision, "size") for vision in VISION_WAYS] + [("size", audio) for audio in AUDIO_WAYS[1:]]
PAIRS += [("tower", "conformer"), ("linear", "raw")]


def conversations() -> list[Message]:
    """Pictures of two shapes and sounds of three lengths, some together."""
    random = np.random.default_rng(0)
    wide, high = (random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 128), (96, 64)))
    sounds = [random.uniform(-0.5, 0.5, length).astype(np.float32) for length in (1500, 9000, 16_000)]
    seen, heard = [Image.from_pixels(p) for p in (wide, high)], [Audio.from_samples(s) for s in sounds]
    return [
        Message.user(seen[0], "How many red circles are there?"),
        Message.user("Listen:", heard[0], "and", heard[1]),
        Message.user(heard[2], seen[1], "?"),
    ]


def built(
    vision: VisionWay, audio: AudioWay, tokenizer: Tokenizer, base: Renderer, **changes: Any
) -> tuple[Decoder, Renderer]:
    """An `atom` of two layers and the renderer that fits it."""
    render = rendered_for(RenderConfig(), vision, audio)
    config = sized("atom", render, vision, audio)
    changes |= {"vocab_size": base.space.vocab_size, "num_hidden_layers": 2, "layer_types": None, "sliding_window": 24}
    changes |= {"eos_token_id": base.space.special("<turn|>")}
    text = dataclasses.replace(config.text, **changes)
    ids: Any = {name: base.space.special(token) for name, token in CONFIG_IDS.items()}
    decoder = Decoder(dataclasses.replace(config, text=text, **ids)).init_weights(0)
    return decoder, Renderer(tokenizer, base.space, render)


@pytest.mark.parametrize(("vision", "audio"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_packed_is_as_each_alone_and_every_weight_learns(
    vision: VisionWay, audio: AudioWay, tokenizer: Tokenizer, renderer: Renderer
) -> None:
    decoder, own = built(vision, audio, tokenizer, renderer)
    sequences = [own.encode([message, Message.model("red 3")]) for message in conversations()]
    with torch.no_grad():
        batch = collate([sequences[:2], sequences[2:]], sum(len(s) for s in sequences[:2]))
        together = decoder(batch)
        at = 0
        for row, sequence in ((0, sequences[0]), (0, sequences[1]), (1, sequences[2])):
            at = 0 if row else at
            alone = decoder(collate([[sequence]], len(sequence)))[0]
            torch.testing.assert_close(together[row, at : at + len(sequence)], alone, atol=1e-4, rtol=1e-4)
            at += len(sequence)
    total, count, _ = next_token(decoder, renderer.space.first_code)(batch)
    assert int(count) == int((batch.target_BT != IGNORE).sum()) > 0
    (total / count).backward()
    idle = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_every_way_and_its_config_comes_back(size: str) -> None:
    for vision, audio in itertools.product(VISION_WAYS, AUDIO_WAYS):
        render = rendered_for(RenderConfig(), vision, audio)
        config = sized(size, render, vision, audio)
        back = ModelConfig.from_hf(config.to_hf())
        assert (back.vision, back.audio, back.model_type) == (config.vision, config.audio, config.model_type)
        assert config.vision is not None and config.vision.patch_dim == render.patch_dim
        assert config.audio is not None and config.audio.audio_embed_dim == render.frame_dim
    render = rendered_for(RenderConfig(), "tower", "conformer")
    with torch.device("meta"):
        decoder = Decoder(sized(size, render, "tower", "conformer"))
    assert decoder.vision_tower is not None and decoder.audio_tower is not None


def test_the_largest_towers_are_the_published_ones() -> None:
    """Of the E sizes and of 31B: 167 million, 305 million, and 570 million parameters in layers."""
    assert VISION_TOWERS["nano-1"] == VisionTowerConfig() and CONFORMERS["pro"] == AudioTowerConfig()
    wide = VISION_TOWERS["pro"]
    assert (wide.hidden_size, wide.num_hidden_layers, wide.head_dim * wide.num_attention_heads) == (1152, 27, 1152)


def test_a_size_as_it_is_has_the_ways_of_before() -> None:
    assert sized("atom", RenderConfig()) == SIZES["atom"]
    assert rendered_for(RenderConfig(), "size", "size") == RenderConfig()
    fine = rendered_for(RenderConfig(patch_size=8, pooling=4), "tower", "size")
    assert (fine.patch_size, fine.pooling) == (8, 4)


def test_both_towers_make_a_model_that_transformers_reads(
    tokenizer: Tokenizer, renderer: Renderer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    decoder, own = built("tower", "conformer", tokenizer, renderer, use_bidirectional_attention=None)
    save_model(decoder, tmp_path)
    theirs = transformers.Gemma4ForConditionalGeneration.from_pretrained(tmp_path).eval()
    for message in conversations()[:2]:
        sequence = own.encode([message], reply=True)
        with torch.no_grad():
            got = decoder(collate([[sequence]], len(sequence)))[0]
            wanted = theirs(**their_inputs(sequence, decoder.config)).logits[0]
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def their_inputs(sequence: Sequence, config: ModelConfig) -> dict[str, torch.Tensor]:
    """A rendered prompt as transformers takes it: small patches of each picture, log-mel columns of each clip."""
    assert isinstance(config.vision, VisionTowerConfig) and isinstance(config.audio, AudioTowerConfig)
    ids = torch.from_numpy(sequence.ids_T.astype(np.int64))[None]
    kinds = torch.zeros_like(ids)
    kinds[0, sequence.patch_at_P], kinds[0, sequence.frame_at_S] = 1, 3
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    if len(sequence.patches_PC):
        patches, xy = patchify(unpatchify(sequence.patches_PC, sequence.patch_xy_P2), config.vision.patch_size)
        given["pixel_values"] = torch.from_numpy(patches)[None].float() / 255
        given["image_position_ids"] = torch.from_numpy(xy)[None].long()
    if len(sequence.frames_SF):
        columns = [torch.from_numpy(sequence.frames_SF[sequence.clip_S == clip]) for clip in set(sequence.clip_S)]
        columns = [part.reshape(-1, config.audio.num_mels) for part in columns]
        given["input_features"] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
        given["input_features_mask"] = (given["input_features"] != 0).any(-1)  # none of ours is zero throughout
    return given


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vision": "eyes"}, r"vision='eyes' is not one of \['size', 'linear', 'stem', 'tower'\]"),
        ({"audio": "conformr"}, "audio='conformr' is not one of"),
        ({"audio": "stem", "renderer.frames_per_token": "4"}, "make a token of 8 log-mel frames"),
        ({"vision": "tower", "renderer.patch_size": "7"}, "halves a patch of 7 pixels"),
    ],
)
def test_what_does_not_fit_is_one_line(
    setting: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={value}" for key, value in setting.items()]
    assert cli.main(["train", "atom", f"out={tmp_path / 'run'}", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(message, told), told
    assert not (tmp_path / "run").exists()


def test_a_run_with_both_towers_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)
    small = ("tokenizer_examples=500", "vocab_size=700", "codec_steps=2", "pretrain_steps=2", "tune_steps=1")
    words = (*small, "num_rows=2", "num_workers=0", "compile=false", f"out={tmp_path / 'run'}")
    assert cli.main(["train", "atom", "vision=tower", "audio=conformer", *words]) == 0
    model = castor.load(tmp_path / "run" / "model", device="cpu")
    assert isinstance(model.decoder.config.vision, VisionTowerConfig)
    assert isinstance(model.decoder.config.audio, AudioTowerConfig)
    assert model.renderer.config == RunConfig(vision="tower", audio="conformer").media
    batch = model.generate_batch(conversations(), max_tokens=6)
    assert batch == [model.generate(message, max_tokens=6) for message in conversations()]
    model.save(tmp_path / "again", precision="float32")
    again = castor.load(tmp_path / "again", device="cpu")
    assert torch.equal(again.logits([conversations()[2]]), model.logits([conversations()[2]]))
    capsys.readouterr()
    sound = tmp_path / "a.wav"
    sound.write_bytes(conversations()[1].parts[1].data)
    asked = ["--audio", str(sound), "What is this?", "--max-tokens", "3"]
    assert cli.main(["generate", "--model", str(tmp_path / "run" / "model"), *asked]) == 0
