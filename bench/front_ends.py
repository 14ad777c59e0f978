"""What each way into the decoder buys at equal compute: pictures and speech through all of them, the same minutes each.

    python bench/front_ends.py --minutes 5 --lanes 2 --data FOLDER

One small model (`atom`'s decoder) for each way, from nothing, on one thread: pictures as linear patches, through the
shipped convolutions and through the vision tower, with Diorama's captions, questions and counting in English; sound as
raw samples, as linear log-mel frames, through the shipped convolutions and through the Conformer, with Diorama's spoken
sentences and, below `--data` (or CASTOR_DATA), real digits and commands, scored on speakers held out. All see the same
examples in the same order, as far as they come.

Minutes are of the processor's time in training steps (forward, backward, update), so that lanes beside each other and
other programs change nothing; examples are made and rendered before the clock starts, and compiling is not counted.
The learning rate follows the clock. Afterwards: nats a target token and task scores on held-out examples. A row is
written to `--out` as soon as it is there; started again with the same settings, finished rows are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, save_json, write_atomically
from castor.runtime import before_torch, can_compile, hardware, prepare_cpu, use_faster_malloc

# medium -> ways, the encoder-free ones first
WAYS = {"pictures": ("linear", "stem", "tower"), "speech": ("raw", "linear", "stem", "conformer")}
WORLD_TASKS = {"pictures": ("caption", "image_question", "image_count"), "speech": ("spoken_sentence",)}
REAL_SETS = {"pictures": (), "speech": ("digits/spoken_en", "digits/spoken_ar", "audio/commands_ar")}
NAMES = {
    "linear": "linear",
    "raw": "raw samples, linear",
    "stem": "convolutions (shipped)",
    "tower": "vision tower",
    "conformer": "Conformer",
}
WEIGHTS = Path(__file__).parents[1] / "castor" / "weights" / "atom"
NUM_ROWS, ROW_TOKENS = 8, 320
CLOCK_STEPS = 100_000  # in which the schedule's time is counted
KEPT = ("minutes", "seed", "pool", "held_out", "real", "eager")  # settings that a row is of

Examples = dict[str, list[Any]]


def examples(medium: str, split: str, count: int, data: str, seed: int) -> Examples:
    """`count` examples of each Diorama task, and all there are, up to as many, of each real set; by task."""
    from castor.diorama.speech import speech_available
    from castor.diorama.world import World
    from castor.recipes.real import real_data

    if medium == "speech" and not speech_available():
        raise SystemExit("no speech synthesiser here: pip install 'castor[synth]' brings one")
    world = World(seed=seed, split=split, languages=("en",), speech=medium == "speech")
    found: Examples = {task: [world.example(task, index) for index in range(count)] for task in WORLD_TASKS[medium]}
    real = real_data(data)
    for name in REAL_SETS[medium]:
        if name in real.sources:
            source = real.sources[name]
            found.setdefault(source.task, []).extend(source.examples(split, count))
    return found


def make_examples(medium: str, args: argparse.Namespace) -> Path:
    """The examples of a medium in a file, made once for all its ways."""
    path = args.out / f"{medium}-{args.pool}-{args.held_out}-{args.seed}{'-real' * args.real}.pickle"
    if not path.exists():
        parts = {"train": args.pool, "test": args.held_out}
        made = {split: examples(medium, split, count, args.data, args.seed) for split, count in parts.items()}
        write_atomically(path, pickle.dumps(made))
        for split, found in made.items():
            print(f"{medium}, {split}: " + ", ".join(f"{len(e):,} x {task}" for task, e in found.items()), flush=True)
    return path


def build(medium: str, way: str, seed: int) -> Any:
    """An untrained model with this way in for the medium, and none for the other."""
    from castor.engine.model import Model
    from castor.models.decoder import Decoder
    from castor.models.front_ends import rendered_for, sized
    from castor.tokens.render import RenderConfig, Renderer
    from castor.tokens.space import IdSpace
    from castor.tokens.text import Tokenizer

    sees = medium == "pictures"
    ways: Any = (way, "size") if sees else ("size", way)
    render = rendered_for(RenderConfig(), *ways)
    config = dataclasses.replace(
        sized("atom", render, *ways), model_type="castor", **{"audio" if sees else "vision": None}
    )
    space = IdSpace(num_text=4096, num_codes=1000)
    return Model(Decoder(config).init_weights(seed), Renderer(Tokenizer.load(WEIGHTS), space, render), None)


def batches(rendered: dict[str, list[Any]], seed: int) -> Iterator[Any]:
    """Packed batches without end; a task is drawn first, then one of its examples."""
    from castor.data.loader import BatchStats, LoadedBatch
    from castor.tokens.pack import pack

    index, tasks = 0, sorted(rendered)
    while True:
        rng = random.Random(f"{seed}/{index}")
        chosen, tokens = [], 0
        while tokens < NUM_ROWS * ROW_TOKENS:
            chosen.append(rng.choice(rendered[rng.choice(tasks)]))
            tokens += len(chosen[-1])
        batch, _ = pack(chosen, num_rows=NUM_ROWS, row_tokens=ROW_TOKENS)
        yield LoadedBatch(index, batch, BatchStats())
        index += 1


def train(model: Any, rendered: dict[str, list[Any]], minutes: float, seed: int, eager: bool) -> dict[str, float]:
    """Steps for so many minutes of the processor's time; gives their number, tokens and last losses."""
    from castor.runtime import best_precision
    from castor.train.fit import FitConfig, Trainer
    from castor.train.objective import next_token

    decoder = model.decoder
    if can_compile() and not eager:
        decoder.compile_layers()
    loss = next_token(decoder, model.renderer.space.first_code)
    precision: Any = "bfloat16" if best_precision("cpu") == "bfloat16" else "float32"
    config = FitConfig(num_steps=CLOCK_STEPS, warmup=0.02, decay=0.6, precision=precision)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    stream, trainer = batches(rendered, seed), Trainer(decoder, config, Path())
    for step in range(3):  # compiles, and finds its memory
        trainer.train_step(loss, stream, step)
    decoder.load_state_dict(before)
    stream, trainer = batches(rendered, seed), Trainer(decoder, config, Path())
    used_s, losses, tokens = 0.0, [], 0
    while used_s < 60 * minutes:
        start_s = time.process_time()
        row = trainer.train_step(loss, stream, int(used_s / (60 * minutes) * CLOCK_STEPS))
        used_s += time.process_time() - start_s
        losses.append(row["loss"])
        tokens += row["tokens"]
    last = losses[-max(1, len(losses) // 20) :]
    return {"steps": len(losses), "tokens": int(tokens), "cpu_s": round(used_s, 1), "loss": sum(last) / len(last)}


def held_out_loss(model: Any, sequences: Sequence[Any]) -> float:
    """Mean nats of a token that the model should say."""
    import torch

    from castor.data.epochs import packed
    from castor.train.objective import next_token

    loss, total, count = next_token(model.decoder, model.renderer.space.first_code), 0.0, 0.0
    with torch.no_grad():
        for at in range(0, len(sequences), 32):
            part_sum, part_count, _ = loss(packed(sequences[at : at + 32], ROW_TOKENS))
            total, count = total + float(part_sum), count + float(part_count)
    return total / count


def scores(model: Any, held_out: Examples) -> dict[str, dict[str, float | str | None]]:
    """The main metric of each task with its 95 % interval and chance."""
    from castor.diorama.parse import caption_f1, drawing_f1
    from castor.evals.evaluate import evaluate
    from castor.tasks.suite import build_tasks

    report = evaluate(model, held_out, build_tasks(caption_f1=caption_f1, drawing_f1=drawing_f1))
    kept = ("metric", "score", "low", "high", "chance", "n")
    return {
        row.task: {key: getattr(row, key) for key in kept} for row in report.rows if row.slice == "all" and row.is_main
    }


def run_one(medium: str, way: str, args: argparse.Namespace) -> None:
    """One row: trained, measured, written."""
    before_torch()
    prepare_cpu(1)
    import torch

    torch.manual_seed(args.seed)
    made = pickle.loads(make_examples(medium, args).read_bytes())
    model = build(medium, way, args.seed)
    rendered = {
        split: {task: [model.renderer.encode(e.messages) for e in given] for task, given in made[split].items()}
        for split in made
    }
    sizes = {name: p.numel() for name, p in model.decoder.named_parameters()}
    row: dict[str, Any] = {name: getattr(args, name) for name in KEPT} | {"medium": medium, "way": way}
    row["parameters"] = sum(sizes.values())
    row["in_front"] = sum(count for name, count in sizes.items() if not name.startswith("language_model."))
    row |= train(model, rendered["train"], args.minutes, args.seed, args.eager)
    trained, model = model, build(medium, way, args.seed)  # not compiled: examples come in every shape
    model.decoder.load_state_dict(trained.decoder.state_dict())
    row["held_out_loss"] = {task: held_out_loss(model, given) for task, given in rendered["test"].items()}
    row["scores"] = scores(model, made["test"])
    save_json(row_path(medium, way, args), row | {"hardware": hardware()})


def row_path(medium: str, way: str, args: argparse.Namespace) -> Path:
    """Where a row is kept."""
    return args.out / f"{medium}-{way}.json"


def kept_row(medium: str, way: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """A finished row of these settings."""
    path = row_path(medium, way, args)
    row = load_json(path) if path.exists() else None
    return row if row is not None and all(row[name] == getattr(args, name) for name in KEPT) else None


def run_all(jobs: list[tuple[str, str]], args: argparse.Namespace) -> None:
    """Each job in a process of its own, `lanes` of them at a time, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    waiting, running = list(jobs), dict[tuple[str, str], subprocess.Popen[bytes]]()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends the rows, too
    try:
        while waiting or running:
            while waiting and len(running) < args.lanes:
                job = waiting.pop(0)
                words = [sys.executable, *sys.argv, "--one", "/".join(job)]
                running[job] = subprocess.Popen(words, env=environment)
            time.sleep(0.5)
            for job, process in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[job]
                    if code:
                        raise SystemExit(f"{'/'.join(job)} ended with exit code {code}; its own error is above")
                    print(f"{'/'.join(job)}: {json.dumps(kept_row(*job, args))}", flush=True)
    finally:
        for process in running.values():
            process.terminate()


def table(medium: str, args: argparse.Namespace) -> str:
    """The rows of a medium as Markdown."""
    rows = [(way, row) for way in WAYS[medium] if (row := kept_row(medium, way, args)) is not None]
    if not rows:
        return f"{medium}: no rows yet"
    tasks = list(rows[0][1]["scores"])
    heads = [f"{task}, nats" for task in tasks] + [f"{task}, {rows[0][1]['scores'][task]['metric']}" for task in tasks]
    lines = [
        f"| {medium} | parameters | in front | steps | tokens | {' | '.join(heads)} |",
        f"|---|{'--:|' * (4 + len(heads))}",
    ]
    for way, row in rows:
        cells = [NAMES[way], *(f"{row[key]:,}" for key in ("parameters", "in_front", "steps", "tokens"))]
        cells += [f"{row['held_out_loss'][task]:.3f}" for task in tasks]
        cells += ["{score:.3f} ({low:.3f} to {high:.3f})".format(**row["scores"][task]) for task in tasks]
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0][1]["scores"].items()
    chance = ", ".join(f"{task} {score['chance']:.3f} of {score['n']}" for task, score in first)
    return "\n".join(lines) + f"\n\nChance, and how many were scored: {chance}."


def main() -> None:
    """Make the examples, train and measure each way, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training for each row (default: 5)")
    parser.add_argument("--lanes", type=int, default=1, help="rows at the same time (default: 1)")
    parser.add_argument("--data", default="", help="folder of real data (default: CASTOR_DATA)")
    parser.add_argument("--out", type=Path, default=Path("runs/front_ends"), help="folder of the rows")
    parser.add_argument("--only", choices=tuple(WAYS), help="one medium")
    parser.add_argument("--pool", type=int, default=4000, help="training examples of each task")
    parser.add_argument("--held-out", type=int, default=200, help="held-out examples of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.data = args.data or os.environ.get("CASTOR_DATA", "")
    args.real = bool(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        medium, _, way = args.one.partition("/")
        run_one(medium, way, args)
        return
    use_faster_malloc()
    media = [medium for medium in WAYS if args.only in (None, medium)]
    jobs = [(medium, way) for medium in media for way in WAYS[medium] if kept_row(medium, way, args) is None]
    for medium in dict.fromkeys(medium for medium, _ in jobs):
        make_examples(medium, args)
    run_all(jobs, args)
    print(f"\n{args.minutes:g} minutes each on one thread; {hardware()}")
    for medium in media:
        print(f"\n{table(medium, args)}")


if __name__ == "__main__":
    main()
