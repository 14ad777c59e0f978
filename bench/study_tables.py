"""What the rows of `bench/study.py` came to, as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from study_row import MODALITIES  # beside this file

Result = Mapping[str, Any]
Rows = Sequence[tuple[str, Result]]

LESS_ERROR = ("spoken_sentence",)  # of the scores: those that are errors
SURE = 3.0  # times the spread of the recipe's seeds
COLUMNS = (*(name for name in MODALITIES if name != "drawing"), "a code", "a drawing")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [" | ".join(heads), " | ".join(["---", *["--:"] * (len(heads) - 1)]), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def summed(result: Result, modality: str) -> dict[str, float]:
    """The sums of a modality's tasks."""
    parts = [result["losses"][task] for task in MODALITIES[modality]]
    return {key: sum(part[key] for part in parts) for key in parts[0]}


def modality_losses(result: Result, base: Result | None = None) -> dict[str, float]:
    """Nats of each of COLUMNS: a piece of text, a picture code, a drawing.

    Pieces are those that `base` cuts the same answers into, so that other tokenizers are compared by the same measure.
    """
    found: dict[str, float] = {}
    for name in MODALITIES:
        sums = summed(result, name)
        if name == "drawing":
            found |= {"a code": sums["code_nats"] / sums["codes"], "a drawing": sums["code_nats"] / sums["drawings"]}
        else:
            found[name] = sums["text_nats"] / summed(base or result, name)["text_tokens"]
    return found


def task_losses(result: Result, base: Result) -> dict[str, float]:
    """Nats a piece of each task, pieces as in `modality_losses`; of tasks that draw, nats of a drawing's codes."""
    found = {}
    for task, sums in result["losses"].items():
        draws = task in MODALITIES["drawing"]
        found[task] = sums["code_nats"] / sums["drawings"] if draws else (
            sums["text_nats"] / base["losses"][task]["text_tokens"]
        )  # fmt: skip
    return found


def compared(
    rows: Rows, same: Sequence[str], values: Callable[[Result], Mapping[str, float]], more: Sequence[str] = ()
) -> str:
    """Every row's values, those named `same` first as one row with their spread; of those in `more`, more is better.

    Bold: better than it by more than SURE times that spread; an arrow, where it went: worse by as much.
    """
    base = [values(result) for name, result in rows if name in same]
    heads = list(base[0])
    means = {key: statistics.mean(found[key] for found in base) for key in heads}
    spread = {key: statistics.stdev(found[key] for found in base) if len(base) > 1 else 0.0 for key in heads}
    lines = [[f"the recipe, {len(base)} seeds", *(f"{means[key]:.3f} ± {spread[key]:.3f}" for key in heads)]]
    for name, result in rows:
        if name in same:
            continue
        found, cells = values(result), []
        for key in heads:
            change = found[key] - means[key]
            is_sure, is_better = len(base) > 1 and abs(change) > SURE * spread[key], (change > 0) == (key in more)
            marked = f"**{found[key]:.3f}**" if is_better else f"{found[key]:.3f} {'↑' if change > 0 else '↓'}"
            cells.append(marked if is_sure else f"{found[key]:.3f}")
        lines.append([name, *cells])
    return table(["", *heads], lines)


def effort(rows: Rows) -> str:
    """What each row was trained on, for how long, and what all of it cost: starting and measuring too."""
    lines = []
    for name, result in rows:
        config = result["asked"]["config"]
        steps = config["pretrain_steps"] + config["tune_steps"]
        rate = result["tokens"] / steps / result["step_s"]
        parameters, tokens = f"{result['parameters'] / 1e6:.2f}M", f"{result['tokens'] / 1e6:.3f}M"
        lines.append(
            [name, parameters, f"{steps}", tokens, f"{result['step_s']:.3f}", f"{rate:,.0f}", f"{result['cpu_s']:.0f}"]
        )
    heads = ["", "parameters", "steps", "tokens", "seconds a step (median)", "tokens/s", "processor s in all"]
    return table(heads, lines)


def ablation_report(rows: Rows, same: Sequence[str]) -> str:
    """All tables of the ablations; `same` are the rows that repeat the recipe."""
    bases = [result for name, result in rows if name in same]
    if not bases:
        return "no row of the recipe itself is done yet\n"
    base = bases[0]
    parts = [
        "Held-out loss in nats: a piece of text (the recipe's pieces), a picture code, a drawing. Bold: better than "
        f"the recipe by more than {SURE:.0f} times the spread of its seeds; an arrow: worse by as much.\n",
        compared(rows, same, lambda result: modality_losses(result, base)),
    ]
    if base["scores"]:
        parts += [
            f"Scores on held-out examples ({', '.join(LESS_ERROR)}: an error, less is better; the others: more).\n",
            compared(
                rows, same, lambda result: result["scores"], [task for task in base["scores"] if task not in LESS_ERROR]
            ),
        ]
    parts += ["By task, nats a piece (drawing, interleaved: a drawing).\n"]
    parts += [compared(rows, same, lambda result: task_losses(result, base)), "Effort.\n", effort(rows)]
    return "\n".join(parts)


def transfer_report(rows: Rows, shares: Mapping[str, float]) -> str:
    """Each modality in three ways: alone on as many tokens in all, alone on as many of its own, and with the others."""
    found = {name: modality_losses(result) for name, result in rows}
    lines = []
    for modality in MODALITIES:
        key = "a code" if modality == "drawing" else modality
        together = [found[name][key] for name in found if name.startswith("together")]
        alone = [found[name][key] if (name := f"{modality} alone, {way}") in found else None for way in WAYS]
        if not together or None in alone:
            continue
        mean = statistics.mean(together)
        spread = f" ± {statistics.stdev(together):.3f}" if len(together) > 1 else ""
        gains = [f"{value:.3f} ({100 * (mean / value - 1):+.1f} %)" for value in alone if value is not None]
        lines.append([modality, f"{100 * shares[modality]:.1f} %", f"{mean:.3f}{spread}", *gains])
    heads = ["", "share of tokens", "together", *(f"alone, {way}" for way in WAYS)]
    told = (
        "Held-out loss in nats a piece (drawing: a picture code). In brackets what training with the others changes: "
        "below 0, together is better. \"Same of its own\": the run is only as long as the modality's share.\n"
    )  # fmt: skip
    return "\n".join([told, table(heads, lines), "Effort.\n", effort(rows)])


WAYS = ("same of its own", "same in all")
