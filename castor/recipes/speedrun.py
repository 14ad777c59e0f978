"""Nothing to a trained, evaluated model in one command: tokenizer, codec, pre-training, tuning, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from castor.config import override
from castor.evals.report import Report
from castor.evals.table import report_table
from castor.log import clock
from castor.recipes.evaluation import evaluate_model
from castor.recipes.pipeline import RunConfig, run_pipeline
from castor.recipes.plots import plot_run
from castor.runtime import hardware

BROAD_MINUTES = 40  # a shorter run sees less of what it could not learn in time
EVALUATION_SHARE = 0.09  # of the minutes: evaluation, tokenizer and compiling are paid from it


def speedrun(overrides: Sequence[str] = ()) -> Report | None:
    """Train `atom` from nothing and score it, in about `minutes` (15 unless given) on this machine.

    `overrides` are key=value settings of `RunConfig`. Everything lands in the run's folder: the model, its curves,
    report.json and report.md. Gives None where Ctrl-C ended it early; the same command goes on.
    """
    from rich.console import Console

    wanted = override(RunConfig(minutes=15.0, out="runs/speedrun", tokenizer_examples=5000), overrides)
    breadth = wanted.breadth * min(1.0, wanted.minutes / BROAD_MINUTES)
    config = dataclasses.replace(wanted, minutes=wanted.minutes * (1 - EVALUATION_SHARE), breadth=round(breadth, 3))
    start_s = time.monotonic()
    model = run_pipeline(config)
    if model is None:
        return None
    trained_s = time.monotonic() - start_s
    folder = Path(config.out)
    limit = max(24, min(200, round(14 * wanted.minutes)))  # examples a task
    report = evaluate_model(model, limit=limit, data=config.data, records_path=folder / "records.jsonl")
    (folder / "report.json").write_text(report.dumps(), encoding="utf-8")
    (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    Console().print(report_table(report, slices=False))
    for path in plot_run(folder):
        print(path)
    print(f"every language and unseen slice: {folder / 'report.md'}")
    print(f"trained in {clock(trained_s)}, scored in {clock(time.monotonic() - start_s - trained_s)}; {hardware()}")
    print(advice(report, wanted.minutes))
    return report


def advice(report: Report, minutes: float) -> str:
    """What a longer run would need, said from the report itself."""
    weak = [row.task for row in report.overall() if row.verdict != "above chance"]
    learned = f"{len(report.overall()) - len(weak)} of {len(report.overall())} tasks are above chance"
    rest = f"; not yet: {', '.join(weak)}" if weak else ""
    return (
        f"{learned}{rest}.\nA longer run goes further: try minutes={4 * minutes:.0f}, or size=micro on a GPU. "
        "What still falls in the curves of the run's folder is what more steps will buy."
    )
