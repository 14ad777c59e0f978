"""What 8 and 4 bits cost in quality: held-out loss and every task of `castor eval`, beside whole weights.

    python bench/quantize.py --model atom --limit 50 --count 256

Loss is the mean of nats a token over examples of the small world that no training sees (split "val"), media and
pictures included. "Whole" are the weights as they are saved, bfloat16. "nearest" rounds each weight; "gptq" is
calibrated on `--count` training examples. Scores are the evaluation's main rows, from 0 to 1, error rates turned round
(1 - rate), without "reconstruction", which the codec answers alone; "worst" is the largest loss of points of one task
against whole weights, by name. Few examples make tasks noisy: half the interval of one is about 100 / sqrt(limit)
points. A second table has every task.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

WAYS: dict[str, tuple[int, int, str] | None] = {
    "whole, bfloat16": None,
    "int8, nearest": (8, 8, "nearest"),
    "int4, nearest": (4, 4, "nearest"),
    "int4, gptq": (4, 4, "gptq"),
    "int4, gptq, table 8": (4, 8, "gptq"),
}


@torch.no_grad()
def held_out_loss(model: Any, count: int) -> float:
    """Nats a token."""
    from castor.data.epochs import packed
    from castor.recipes.quantise import BATCH_SIZE, ROW_TOKENS, world_sequences

    sequences = world_sequences(model, count, 0, split="val")
    total = number = 0.0
    for at in range(0, len(sequences), BATCH_SIZE):
        group = sequences[at : at + BATCH_SIZE]
        batch = packed(group, max(ROW_TOKENS, *map(len, group)))
        logits_XV = model.decoder(batch).flatten(0, 1).float()
        target_X = batch.target_BT.flatten()
        total += float(torch.nn.functional.cross_entropy(logits_XV, target_X, ignore_index=-100, reduction="sum"))
        number += batch.num_targets
    return total / number


def prepared(name: str, way: tuple[int, int, str] | None, count: int) -> tuple[Any, int, float]:
    """The model as it is compared, the bytes of its language model, and the seconds that packing took."""
    import castor
    from castor.models.packing import PackConfig
    from castor.recipes.quantise import QuantiseConfig, calibration, pack_model

    model = castor.load(name, device="cpu")
    start_s = time.perf_counter()
    if way is not None:
        bits, table_bits, method = way
        config = QuantiseConfig(bits=bits, table_bits=table_bits, method=method, count=count)
        batches = calibration(model, config) if method == "gptq" else None
        pack_model(model, PackConfig(bits=bits, table_bits=table_bits), batches)
    tensors = model.decoder.language_model.state_dict().values()
    num_bytes = sum(t.numel() * (2 if t.is_floating_point() else 1) for t in tensors)
    return model, num_bytes, time.perf_counter() - start_s


def scores(model: Any, limit: int) -> dict[str, float]:
    """The main score of each task, higher is better."""
    from castor.recipes.evaluation import evaluate_model

    report = evaluate_model(model, limit=limit, say=lambda _: None)
    main = [row for row in report.rows if row.is_main and row.slice == "all" and row.task != "reconstruction"]
    return {row.task: row.score if row.higher_is_better else 1 - row.score for row in main}


def print_tasks(found: dict[str, dict[str, float]]) -> None:
    """Points of every task with whole weights, and what is gained or lost in fewer bits."""
    first, *others = found
    print(f"\n| task | {first} | {' | '.join(others)} |\n|---|{'--:|' * len(found)}")
    for task, score in found[first].items():
        changes = (f"{100 * (found[name][task] - score):+.1f}" for name in others)
        print(f"| {task} | {100 * score:.1f} | {' | '.join(changes)} |")


def main() -> None:
    """Pack, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="atom")
    parser.add_argument("--limit", type=int, default=50, help="examples of each task; 0: loss alone")
    parser.add_argument("--held-out", type=int, default=512, help="examples for the loss")
    parser.add_argument("--count", type=int, default=256, help="examples to calibrate with")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    print("| weights | MB | nats a token | mean score | worst task, points | packing, s |\n|---|--:|--:|--:|--:|--:|")
    for name, way in WAYS.items():
        model, num_bytes, seconds = prepared(arguments.model, way, arguments.count)
        row: dict[str, Any] = {"bytes": num_bytes, "loss": held_out_loss(model, arguments.held_out), "seconds": seconds}
        row["scores"] = scores(model, arguments.limit) if arguments.limit else {}
        found[name] = row
        whole = next(iter(found.values()))["scores"]
        change = {task: 100 * (row["scores"][task] - value) for task, value in whole.items()}
        worst = min(change, key=lambda task: change[task]) if change else ""
        mean = f"{sum(row['scores'].values()) / len(row['scores']):.3f}" if change else "–"
        told = f"{worst} {change[worst]:+.1f}" if change else "–"
        print(f"| {name} | {num_bytes / 1e6:.1f} | {row['loss']:.4f} | {mean} | {told} | {seconds:.1f} |", flush=True)
    if arguments.limit:
        print_tasks({name: row["scores"] for name, row in found.items()})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
