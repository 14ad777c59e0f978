"""What each ingredient of the embedding recipe is worth, and what writing loses: one short run for each row.

    python bench/embed_study.py --data FOLDER --steps 160 --out runs/embed-study
    python bench/embed_study.py --data FOLDER --rows recipe,adapters,joint-0.7 --steps 400

Every row trains from the same checkpoint for the same number of steps, each with one thread, `--lanes` of them at once;
a row that is done is not run again, so that a command which was ended goes on. Beside R@1 of Diorama's held-out pools
(and, with data, of real ones) stands the loss of writing on held-out examples of each medium, in nats a token, as the
change against the checkpoint before. Rows with names in `BLENDS` train nothing: they average weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from castor.runtime import before_torch

BASE: dict[str, Any] = {"generation": 0.4, "soup": 3}
LOW_RATE = {"learning_rate": 5e-4, "other_learning_rate": 2.5e-4}
FAST = {"learning_rate": 8e-3, "other_learning_rate": 4e-3}
ALONE = {"generation": 0.0, "optim": {"learning_rate": 4e-3, "other_learning_rate": 2e-3}}  # of adapters
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("all ingredients, writing in 0.4 of the steps", {}),
    "no-task-words": ("no words of tasks, in training or questions", {"task_strings": 0.0}),
    "mined-negatives": ("hard negatives of real pairs mined, too", {"hard_negatives": "mined"}),
    "no-negatives": ("no hard negatives", {"hard_negatives": "none"}),
    "no-matryoshka": ("the whole vector's loss alone", {"loss": {"dimensions": (256,)}}),
    "same-tower": ("queries against queries, targets against targets", {"loss": {"same_tower": True}}),
    "no-duplicate-mask": ("equal meanings are negatives", {"loss": {"duplicate_mask": False}}),
    "one-way": ("from query to target alone, as published", {"loss": {"both_ways": False}}),
    "mixed-tasks": ("all tasks in every step", {"mixed_tasks": True}),
    "no-pre": ("no pre-fine-tuning", {"pre_share": 0.0}),
    "no-soup": ("the last state, not a mean of three", {"soup": 1}),
    "filter": ("real pairs filtered by the model itself", {"filter": True}),
    "synthetic": ("with pairs from its own answers, filtered", {"synthetic": 512, "filter": True}),
    "teacher": ("with the similarities of `atom-vectors`", {"teacher": "atom-vectors"}),
    "no-writing": ("no step of writing", {"generation": 0.0}),
    "joint-0.7": ("writing in 0.7 of the steps", {"generation": 0.7}),
    "staged": (
        "vectors alone, then the last quarter writing alone",
        {"generation": 0.0, "write_share": 0.25, "soup": 1},
    ),
    "low-rate": ("a quarter of the rate", {"optim": LOW_RATE}),
    "last-2-layers": ("two layers and the head learn, no writing", {"generation": 0.0, "last_layers": 2}),
    "adapters": ("adapters of rank 16 that hold for vectors alone", {**ALONE, "adapters": 16}),
    "adapters-64": ("adapters of rank 64", {**ALONE, "adapters": 64}),
    "adapters-fast": ("adapters of rank 16 at twice the rate", {**ALONE, "adapters": 16, "optim": FAST}),
}
BLENDS = {f"blend-{share}": share for share in (0.3, 0.5, 0.7)}  # share of --blend, the rest of --model
WRITTEN = {
    "text": ("translation", "arithmetic", "reasoning"),
    "image": ("caption", "image_question", "image_count", "text_reading"),
    "sound": ("spoken_sentence", "spoken_question", "sound_event"),
    "video": ("video_caption", "video_question"),
    "drawing": ("drawing", "interleaved"),
}
SHORT = (256, 64)  # numbers of a vector at which pools are scored


def row_settings(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of a row's run, as `EmbedConfig` takes them."""
    given = {"model": arguments.model, "data": arguments.data, "steps": arguments.steps, "seed": arguments.seed}
    given |= {"processes": 1, "num_workers": 1, "device": "cpu", "batch_scale": arguments.batch_scale}
    optim = {"learning_rate": arguments.rate, "other_learning_rate": arguments.rate / 2}
    return {**given, **BASE, "optim": optim, "compile": arguments.compile, **ROWS[name][1]}


def trained(name: str, arguments: argparse.Namespace, folder: Path) -> Any:
    """The model of a row."""
    import torch

    from castor.config import from_dict
    from castor.engine.model import Model, find_folder, load
    from castor.models.extend import with_embedding_head
    from castor.recipes.embedding import EmbedConfig, run_embedding
    from castor.train.soup import average

    if name == "before":
        model = load(find_folder(arguments.model), device="cpu")
        model.decoder = with_embedding_head(model.decoder, SHORT[0])
        return model
    if name in BLENDS:
        model, other = (load(find_folder(at), device="cpu") for at in (arguments.model, arguments.blend))
        if model.tokenizer.model != other.tokenizer.model:
            raise SystemExit(
                f"{arguments.blend} has another tokenizer than {arguments.model}: it came from another run"
            )
        start, end = with_embedding_head(model.decoder, SHORT[0]).state_dict(), other.decoder.state_dict()
        head = "language_model.embedding_projection.weight"
        mixed = average([start | {head: end[head]}, end], [1.0 - BLENDS[name], BLENDS[name]])
        other.decoder.load_state_dict(mixed)
        return Model(other.decoder, other.renderer, other.codec)
    torch.set_num_threads(1)
    config = from_dict(EmbedConfig, row_settings(name, arguments) | {"out": str(folder / "runs" / name)})
    model = run_embedding(config)
    if model is None:
        raise SystemExit(130)
    return model


def pool_scores(model: Any, arguments: argparse.Namespace, with_words: bool) -> dict[str, list[float]]:
    """R@1 of every pool, at each of the sizes of `SHORT`."""
    from castor.evals.retrieval import ranked, scores
    from castor.recipes.real import real_data
    from castor.recipes.retrieval import pool_of, real_pools, world_pools

    pools = world_pools(arguments.limit, arguments.seed)
    if arguments.data:
        pools |= real_pools(real_data(arguments.data), arguments.limit)
    found = {}
    for name, pairs in pools.items():
        if not with_words:
            pairs = [dataclasses.replace(pair, query_task="", target_task="") for pair in pairs]
        pool = pool_of(model, name, pairs)
        found[name] = [float(scores(ranked(pool, dim), pool.is_right_QN)["recall_1"].mean()) for dim in SHORT]
    return found


def writing_losses(model: Any, arguments: argparse.Namespace) -> dict[str, float]:
    """Nats a token of the reference answers to held-out examples, by task."""
    import numpy as np

    from castor.recipes.evaluation import world_examples
    from castor.recipes.mining import likelihoods

    wanted = {task for tasks in WRITTEN.values() for task in tasks}
    found = {}
    for task, examples in world_examples(arguments.written, arguments.seed).items():
        if task in wanted:
            sequences = [model.renderer.encode(example.messages) for example in examples]
            found[task] = -float(np.mean(likelihoods(model.decoder, sequences, model.device)))
    return found


def run_row(name: str, arguments: argparse.Namespace) -> None:
    """One row, in a process of its own: train, score, write."""
    before_torch()
    import torch

    from castor.runtime import hardware, prepare_cpu

    prepare_cpu(1)
    folder, start_s = Path(arguments.out), time.monotonic()
    model = trained(name, arguments, folder)
    train_s = time.monotonic() - start_s
    torch.set_num_threads(1)
    row = {"name": name, "settings": row_key(name, arguments), "hardware": hardware(), "train_s": round(train_s, 1)}
    with torch.inference_mode():
        row["writing"] = writing_losses(model, arguments)
        if name != "before":
            row["recall_1"] = pool_scores(model, arguments, with_words=name != "no-task-words")
    row["seconds"] = round(time.monotonic() - start_s, 1)
    half_done = folder / "rows" / f".{name}.json"
    half_done.write_text(json.dumps(row, indent=1), encoding="utf-8")
    half_done.replace(folder / "rows" / f"{name}.json")


def row_key(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a finished row must have been made with to stand."""
    own = row_settings(name, arguments) if name in ROWS else {"model": arguments.model, "blend": arguments.blend}
    measured = {"limit": arguments.limit, "written": arguments.written}
    return json.loads(json.dumps(own | measured))


def is_done(name: str, arguments: argparse.Namespace) -> bool:
    """Whether the row is there, made with these settings."""
    path = Path(arguments.out) / "rows" / f"{name}.json"
    return path.is_file() and json.loads(path.read_text("utf-8"))["settings"] == row_key(name, arguments)


def table(folder: Path) -> str:
    """Markdown: a line a row, with means by group, and what writing lost."""
    rows = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((folder / "rows").glob("[!.]*.json"))}
    before = rows.get("before", {}).get("writing", {})
    order = [name for name in ("before", *ROWS, *BLENDS) if name in rows]
    head = ["Row", "What it is", "R@1 pictures", "films", "sound and speech", "text and code", "real", "mean at 64"]
    lines = [head + [f"writing: {medium}" for medium in WRITTEN]]
    for name in order:
        row, told = rows[name], ROWS.get(name, (f"{BLENDS.get(name, 0):.0%} of another checkpoint",))[0]
        cells = [name, "as it was, nats a token" if name == "before" else told, *recall_cells(row.get("recall_1", {}))]
        for tasks in WRITTEN.values():
            losses = [(row["writing"][task], before.get(task, 0.0)) for task in tasks if task in row["writing"]]
            change = sum(now - (0 if name == "before" else was) for now, was in losses) / max(1, len(losses))
            cells.append(f"{change:.3f}" if name == "before" or not before else f"{change:+.3f}")
        lines.append(cells)
    marks = ["---", "---"] + ["--:"] * (len(lines[0]) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], marks, *lines[1:])) + "\n"


GROUPS = {
    "pictures": ("image_text", "text_image", "composed"),
    "films": ("video_text", "text_video"),
    "sounds": ("audio_text", "text_audio", "speech_image", "speech_text"),
    "texts": ("translated", "docstring_code"),
}


def recall_cells(found: dict[str, list[float]]) -> list[str]:
    """R@1 by group of pools at the whole size, then the mean of Diorama's pools at 64 numbers."""
    known = {name for names in GROUPS.values() for name in names}
    groups = [*GROUPS.values(), tuple(name for name in found if name not in known)]
    cells = []
    for names in groups:
        values = [found[name][0] for name in names if name in found]
        cells.append(f"{100 * sum(values) / len(values):.1f}" if values else "-")
    short = [found[name][1] for name in known if name in found]
    return [*cells, f"{100 * sum(short) / len(short):.1f}" if short else "-"]


def run_all(names: list[str], arguments: argparse.Namespace) -> None:
    """The rows that are not done, `lanes` at once."""
    folder = Path(arguments.out)

    def lane(name: str) -> None:
        if is_done(name, arguments):
            return
        (folder / "rows" / f"{name}.json").unlink(missing_ok=True)
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with (folder / "rows" / f"{name}.log").open("w") as log:
            command = [sys.executable, __file__, *sys.argv[1:], "--row", name]
            code = subprocess.run(command, env=os.environ | threads, stdout=log, stderr=log, check=False).returncode
        print(f"{name}: {'done' if code == 0 else f'exit code {code}, see rows/{name}.log'}", flush=True)
        (folder / "table.md").write_text(table(folder), encoding="utf-8")

    with ThreadPoolExecutor(arguments.lanes) as lanes:
        list(lanes.map(lane, names))
    print(table(folder))


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/embed-study")
    parser.add_argument("--model", default="atom", help="the checkpoint that every row begins from")
    parser.add_argument("--blend", default="atom-vectors", help="the checkpoint that is averaged with it in blends")
    parser.add_argument("--data", default="", help="folder of real data")
    parser.add_argument("--rows", default=",".join(("before", *ROWS, *BLENDS)), help="comma-separated")
    parser.add_argument("--steps", type=int, default=160, help="of a row's run")
    parser.add_argument("--batch-scale", type=float, default=0.5, help="on the pairs of a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--limit", type=int, default=200, help="pairs of a pool")
    parser.add_argument("--written", type=int, default=48, help="held-out examples of each task of writing")
    parser.add_argument("--lanes", type=int, default=2, help="rows at once, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (Path(arguments.out) / "rows").mkdir(parents=True, exist_ok=True)
    if arguments.row:
        run_row(arguments.row, arguments)
        return
    names = arguments.rows.split(",")
    known = ("before", *ROWS, *BLENDS)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--rows: {unknown[0]!r} is not one of {', '.join(known)}")
    run_all(names, arguments)


if __name__ == "__main__":
    main()
