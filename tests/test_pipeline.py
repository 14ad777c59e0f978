"""The whole path in small: nothing -> tokenizer, codec, pre-training, tuning -> a saved model that answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import castor
from castor.recipes.pipeline import Run, RunConfig, run_pipeline
from castor.recipes.plots import plot_run

TINY = RunConfig(
    tokenizer_examples=500,
    vocab_size=700,
    codec_steps=3,
    pretrain_steps=3,
    tune_steps=2,
    num_rows=2,
    num_workers=0,
    compile=False,
)


def test_tuning_takes_the_time_that_is_left(tmp_path: Path) -> None:
    run = Run(dataclasses.replace(TINY, out=str(tmp_path), minutes=10.0, breadth=0.25), str)
    (tmp_path / "pretrain").mkdir()
    rows = [{"step": step, "step_s": 0.4} for step in range(1, 1001)]  # 400 s of 540
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert run._steps_left() == 350  # of 0.4 s each
    late = Run(dataclasses.replace(TINY, out=str(tmp_path / "all"), minutes=10.0), str).mixture.shares(1.0)
    assert run.mixture.shares(1.0)["dialogue"] < 0.3 * late["dialogue"]


@pytest.fixture(autouse=True)
def _diorama_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(castor.load(folder / "model", device="cpu").decoder.state_dict())


def test_from_nothing_to_a_model_and_stage_by_stage_the_same(tmp_path: Path) -> None:
    """A run that is left after every stage, and after every step of one, ends with the weights of a whole one."""
    said: list[str] = []
    whole = dataclasses.replace(TINY, out=str(tmp_path / "whole"))
    assert run_pipeline(whole, said.append) is not None
    assert any("Diorama alone" in line for line in said), "a run without real data says so"
    model = castor.load(tmp_path / "whole" / "model", device="cpu")
    assert model.generate("How many red shapes are there?", max_tokens=4).role == "model"
    parted = dataclasses.replace(TINY, out=str(tmp_path / "parted"), save_every_s=0.0)
    Run(parted, said.append).make_tokenizer()
    Run(parted, said.append).make_codec()
    Run(parted, said.append).train("pretrain")
    assert run_pipeline(parted, said.append) is not None
    again, first = weights(tmp_path / "parted"), weights(tmp_path / "whole")
    assert all(torch.equal(first[name], again[name]) for name in first)
    card = json.loads((tmp_path / "whole" / "model" / "castor.json").read_text())["card"]
    assert card["recipe"]["pretrain_steps"] == 3 and str(tmp_path) not in json.dumps(card)
    assert [path.name for path in plot_run(tmp_path / "whole")] == ["curves.png"]
    with pytest.raises(ValueError, match="begun with seed=0, not 1"):
        Run(dataclasses.replace(whole, seed=1), said.append)


def test_a_run_goes_on_from_a_model_that_a_run_made(tmp_path: Path) -> None:
    first = dataclasses.replace(TINY, out=str(tmp_path / "first"))
    assert run_pipeline(first, str) is not None
    start = str(tmp_path / "first" / "model")
    longer = dataclasses.replace(TINY, out=str(tmp_path / "longer"), start=start, seed=1)
    with pytest.raises(ValueError, match=r"codec\.levels is other than this run's"):
        other = dataclasses.replace(longer.codec, levels=(4, 4, 4))
        run_pipeline(dataclasses.replace(longer, out=str(tmp_path / "other"), codec=other), str)
    assert run_pipeline(longer, str) is not None
    run = Run(longer, str)
    before, after = weights(tmp_path / "first"), run.decoder().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "it begins with the model's weights"
    trained = weights(tmp_path / "longer")
    assert any(not torch.equal(before[name], trained[name]) for name in before), "and trains them further"
    tokenizer = [(tmp_path / name / "tokenizer.model").read_bytes() for name in ("first", "longer")]
    assert tokenizer[0] == tokenizer[1]
    card = json.loads((tmp_path / "longer" / "model" / "castor.json").read_text())["card"]
    assert card["start"]["recipe"]["seed"] == 0 and str(tmp_path) not in json.dumps(card)
    with pytest.raises(ValueError, match="hidden_size|is other than this run's size"):
        small = dataclasses.replace(longer, out=str(tmp_path / "small"), size="micro")
        run_pipeline(small, str)
