"""Models as one: the mean of their weights, and what cannot be averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import castor
from castor.engine.model import Model
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.recipes import run
from castor.recipes.blend import BlendConfig, run_blend


def test_a_blend_is_the_weighted_mean_and_answers(model: Model, tiny_config: ModelConfig, tmp_path: Path) -> None:
    other = Model(Decoder(tiny_config).init_weights(7), model.renderer, model.codec, card={"sources": ["b"]})
    model.card = {"sources": ["a", "b"]}
    for name, each in (("one", model), ("two", other)):
        each.save(tmp_path / name, precision="float32")
    models = f"models={tmp_path / 'one'},{tmp_path / 'two'}"
    assert run("blend", [models, "weights=1,3", f"out={tmp_path}"])
    blend = castor.load(tmp_path / "model")
    ours, states = blend.decoder.state_dict(), [each.decoder.state_dict() for each in (model, other)]
    for name, value in ours.items():
        wanted = 0.25 * states[0][name] + 0.75 * states[1][name]
        assert torch.allclose(value, wanted, rtol=1e-2, atol=1e-4), name  # saved in bfloat16
    assert [part["share"] for part in blend.card["blend"]] == [0.25, 0.75] and blend.card["sources"] == ["a", "b"]
    assert blend.generate("2 + 2?", max_tokens=3).parts is not None
    with pytest.raises(ValueError, match="is there already"):
        run("blend", [models, f"out={tmp_path}"])


def test_what_differs_in_more_than_weights_is_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "one")
    with pytest.raises(ValueError, match="fewer than two"):
        run_blend(BlendConfig(models=("atom",)))
    with pytest.raises(ValueError, match="weights="):
        BlendConfig(models=("a", "b"), weights=(1.0,))
    with pytest.raises(ValueError, match="tokenizer or codec"):
        run_blend(BlendConfig(models=("atom", str(tmp_path / "one")), out=str(tmp_path)))
