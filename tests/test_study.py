"""The tables of `bench/study.py`, and the law that it fits, against what is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from study_row import MODALITIES
from study_scaling import Law, fit_law, scaling_report
from study_tables import compared, modality_losses, transfer_report

LAW = Law(floor=0.3, size=0.5, size_power=0.4, data=0.6, data_power=0.7, error=0.0)
SIZES, TOKENS = (1.5, 4.3, 12.0), (0.4, 0.8, 1.6)
POINTS = [(n, d) for n in SIZES for d in TOKENS]


def result(nats: float, *, pieces: int = 100, parameters: float = 4.3, tokens: float = 1.0) -> dict:
    """A row whose every piece and code costs so many nats; other tokenizers cut the same text into other `pieces`."""
    sums = {"text_nats": 100 * nats, "text_tokens": pieces, "code_nats": 810 * nats, "codes": 810, "drawings": 10}
    return {
        "losses": {task: dict(sums) for tasks in MODALITIES.values() for task in tasks},
        "parameters": parameters * 1e6,
        "tokens": tokens * 1e6,
        "step_s": tokens * (40 + 20 * parameters) / 10,
        "cpu_s": 1.0,
        "asked": {"config": {"pretrain_steps": 7, "tune_steps": 3}},
    }


def test_every_task_of_the_recipe_belongs_to_one_modality() -> None:
    from castor.recipes.curriculum import WORLD_WEIGHTS

    assert sorted(task for tasks in MODALITIES.values() for task in tasks) == sorted(WORLD_WEIGHTS)


def test_a_law_is_found_again() -> None:
    n, d = np.array(POINTS).T
    found = fit_law(n, d, LAW(n, d))
    for name in ("floor", "size", "size_power", "data", "data_power"):
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), abs=0.01), name
    flat = fit_law(n, d, np.full(len(n), 2.0))
    assert flat(1.0, 100.0) == pytest.approx(2.0, abs=0.01)


def test_the_advised_size_is_the_best_of_all() -> None:
    sizes = np.geomspace(0.3, 100, 4000)
    at = LAW.best(50.0 / sizes, sizes)  # with N * D held, the slopes of both terms cancel at the best N
    n, d = sizes[at], 50.0 / sizes[at]
    assert LAW.size * LAW.size_power * n**-0.4 == pytest.approx(LAW.data * 0.7 * d**-0.7, rel=0.01)


def test_other_tokenizers_are_compared_by_the_same_pieces() -> None:
    base, other = result(2.0), result(2.0, pieces=50)
    assert modality_losses(other)["text"] == 4.0
    assert modality_losses(other, base)["text"] == 2.0
    assert modality_losses(base)["a code"] == 2.0 and modality_losses(base)["a drawing"] == 162.0


def test_only_what_leaves_the_spread_is_marked() -> None:
    rows = [
        ("a", result(1.00)),
        ("b", result(1.02)),
        ("close", result(1.04)),
        ("low", result(0.9)),
        ("high", result(1.2)),
    ]
    told = compared(rows, ["a", "b"], lambda row: {"loss": modality_losses(row)["text"]})
    assert "| the recipe, 2 seeds | 1.010 ± 0.014 |" in told
    assert "| close | 1.040 |" in told and "| low | **0.900** |" in told and "| high | 1.200 ↑ |" in told


def test_transfer_says_what_the_others_bring() -> None:
    rows = [("together, seed 0", result(0.9)), ("text alone, same of its own", result(1.0))]
    rows.append(("text alone, same in all", result(0.6)))
    told = transfer_report(rows, dict.fromkeys(MODALITIES, 0.2))
    assert "| text | 20.0 % | 0.900 | 1.000 (-10.0 %) | 0.600 (+50.0 %) |" in told


def test_scaling_is_drawn_and_told(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [(f"{n} {d}", result(float(LAW(n, d)), parameters=n, tokens=d)) for n, d in POINTS]
    told = scaling_report(rows, tmp_path)
    assert "40 s + 20.0 s a million parameters" in told and "15 min of one lane" in told
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "needs three sizes" in scaling_report(rows[:5], tmp_path)
    disturbed = [(name, {**row, "step_s": 1 / row["parameters"]}) for name, row in rows]
    assert "larger rows were not slower" in scaling_report(disturbed, tmp_path)
