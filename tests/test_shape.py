"""What a run may change of its model and of what it learns: shapes, beginnings, orders, sides of drawings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import castor
from castor.diorama.parse import drawing_f1
from castor.diorama.world import World
from castor.models.codec import CodecConfig
from castor.models.decoder import Decoder
from castor.models.sizes import PARAMETERS, SIZES
from castor.recipes.curriculum import CourseConfig, SpannedMixture, level, mixture
from castor.recipes.pipeline import SPANS, STRETCHES, Run, RunConfig, run_pipeline
from castor.recipes.shape import ShapeConfig, fresh_decoder, model_config
from castor.tokens.space import IdSpace

SPACE = IdSpace(num_text=4096, num_codes=1000)


def decoder(**shape: object) -> Decoder:
    chosen = ShapeConfig(**shape)
    config = model_config(SIZES["atom"], chosen, SPACE)
    return fresh_decoder(config, chosen, CodecConfig(), SPACE.first_code, 0)


def test_a_size_keeps_its_shape_unless_told_otherwise() -> None:
    assert sum(p.numel() for p in decoder().parameters()) == PARAMETERS["atom"]
    small = decoder(width=128, layers=2)
    text = small.config.text
    assert (text.num_attention_heads, text.num_key_value_heads, text.intermediate_size) == (2, 2, 512)
    assert text.layer_types == ("sliding_attention", "full_attention")
    assert small.language_model.embed_tokens.weight.shape == (SPACE.vocab_size, 128)
    with pytest.raises(ValueError, match="width=100"):
        decoder(width=100)


def test_weights_begin_larger_or_apart_when_asked() -> None:
    plain, large, apart = decoder(), decoder(init_scale=2.0, alike_codes=False), decoder(alike_codes=False)
    drawn = Decoder(plain.config).init_weights(0, 0.5)
    for (name, a), b in zip(apart.named_parameters(), large.parameters(), strict=True):
        assert torch.equal(a, drawn.get_parameter(name))
        assert torch.equal(b, 4 * a if a.ndim > 1 else a), name
    rows_CD = plain.output_weight_VD[SPACE.first_code : SPACE.end]
    assert not torch.equal(rows_CD, apart.output_weight_VD[SPACE.first_code : SPACE.end])


def test_a_level_course_has_as_many_of_each_as_a_staged_one() -> None:
    staged, steps = mixture(0), 500
    flat = level(staged, [(b - a, *SPANS[name]) for name, (a, b) in STRETCHES.items()])
    seen = dict.fromkeys(staged.sources, 0.0)
    for stage, (begin, end) in STRETCHES.items():
        stretch, count = SpannedMixture(staged, *SPANS[stage]), round(steps * (end - begin))
        for index in range(count):
            for name, share in stretch.shares(index / count).items():
                seen[name] += share / steps
    assert flat.shares(0.1) == flat.shares(0.9)
    for name, share in flat.shares(0.5).items():
        assert share == pytest.approx(seen[name], abs=2e-3), name
    uniform = mixture(0, course=CourseConfig(order="uniform", sources=("caption", "drawing")))
    assert uniform.shares(0.3) == {"caption": 0.5, "drawing": 0.5}
    with pytest.raises(ValueError, match="'poems' is not here"):
        mixture(0, course=CourseConfig(sources=("poems",)))


def test_more_of_a_source_is_its_share_multiplied() -> None:
    usual, more = mixture(0).shares(0.5), mixture(0, course=CourseConfig(more=("chart:3", "drawing:0.5"))).shares(0.5)
    assert more["chart"] / usual["chart"] == pytest.approx(6 * more["drawing"] / usual["drawing"])
    assert more["caption"] / usual["caption"] == pytest.approx(more["arithmetic"] / usual["arithmetic"])
    with pytest.raises(ValueError, match="'poems' is not here"):
        mixture(0, course=CourseConfig(more=("poems:2",)))
    for wrong in ("chart", "chart:-1", ":2", "chart:many"):
        with pytest.raises(ValueError, match="NAME:FACTOR"):
            CourseConfig(more=(wrong,))


def test_drawings_of_other_sides_show_the_same_scenes() -> None:
    for index in range(20):
        usual, large = (World(split="val", drawing_px=px).example("drawing", index) for px in (72, 96))
        assert large.answer.images[0].pixels().shape == (96, 96, 3)
        assert large.prompt == usual.prompt and large.meta == usual.meta
        assert drawing_f1(large.answer.images[0].pixels(), large.meta["scene"]) == 1.0
    with pytest.raises(ValueError, match="drawing_px=50"):
        World(drawing_px=50)


def test_a_changed_run_from_nothing_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)
    config = RunConfig(
        out=str(tmp_path),
        vocab_size=700,
        tokenizer_examples=200,
        codec_steps=3,
        pretrain_steps=2,
        tune_steps=2,
        num_rows=2,
        num_workers=0,
        compile=False,
        processes=1,
        shape=ShapeConfig(width=128, layers=2),
        vision="linear",
        course=CourseConfig(order="level", sources=("caption", "drawing", "spoken_sentence"), drawing_px=48),
    )
    assert run_pipeline(config, str) is not None
    model = castor.load(tmp_path / "model", device="cpu")
    assert model.decoder.config.text.hidden_size == 128
    assert model.generate("Draw a red circle.", max_tokens=4).role == "model"
    batch = Run(config, str).loader("tune", 4).make(1)
    assert set(batch.stats.examples) <= {"caption", "drawing", "spoken_sentence"}
    with pytest.raises(ValueError, match="shape"):
        Run(dataclasses.replace(config, shape=ShapeConfig()), str)
