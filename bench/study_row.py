"""One job of `bench/study.py`, in a process of its own: `python bench/study_row.py JOB.json`.

A job is {"asked": {"do": a key of JOBS, "config": settings of a run, ...}, "result": file, "cores": [], "threads": n}.
Its result is written last and whole, with what was asked.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.checkpoint import load_json, save_json
from castor.runtime import before_torch, use_faster_malloc

if TYPE_CHECKING:
    from castor.diorama.world import World
    from castor.engine.model import Model
    from castor.recipes.pipeline import RunConfig

MODALITIES = {
    "text": ("translation", "arithmetic", "reasoning"),
    "pictures": (
        "caption", "dialogue", "image_question", "image_count", "large_text", "text_reading", "chart", "document",
    ),
    "sound": ("spoken_sentence", "spoken_question", "sound_event"),
    "video": ("video_question", "video_caption"),
    "drawing": ("drawing", "interleaved"),
}  # fmt: skip
SCORED = ("caption", "image_question", "spoken_sentence", "video_question", "translation", "drawing")
SHARED_FILES = {"tokenizer": ("tokenizer.model",), "codec": ("codec.safetensors", "codec.json")}
BATCH_SIZE = 16


def make_tokenizer(config: RunConfig, asked: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer that rows share."""
    from castor.recipes.pipeline import Run

    Run(config).make_tokenizer()
    return {}


def make_codec(config: RunConfig, asked: dict[str, Any]) -> dict[str, Any]:
    """The image codec that rows share, and how well it repaints held-out drawings."""
    from castor.models.codec import ImageCodec
    from castor.recipes.pipeline import Run
    from castor.train.codec import measure_codec

    Run(config).make_codec()
    world = held_out_world(config)
    drawings = [world.example("drawing", index).answer.images[0].pixels() for index in range(32)]
    return measure_codec(ImageCodec.load(config.out), drawings)


def measure_speed(config: RunConfig, asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training step of the real loop here."""
    from castor.recipes.pipeline import Run
    from castor.train.calibrate import seconds_per_step
    from castor.train.fit import FitConfig
    from castor.train.objective import next_token

    take_shared(config, asked)
    run = Run(config)
    loss = next_token(run.decoder(), run.space().first_code, config.code_weight)
    trial = FitConfig(optim=config.optim, precision="bfloat16" if run.precision == "bfloat16" else "float32")
    return {"step_s": seconds_per_step(run.decoder(), loss, run.loader("pretrain", 10_000).batches, trial)}


def measure_shares(config: RunConfig, asked: dict[str, Any]) -> dict[str, Any]:
    """Share of the tokens of a whole run that each modality has, from batches drawn all along it."""
    from castor.recipes.pipeline import STRETCHES, Run

    take_shared(config, asked)
    run, tokens = Run(config), Counter[str]()
    for stage, (start, end) in STRETCHES.items():
        num_drawn = round(asked["batches"] * (end - start))
        loader = run.loader(stage, num_drawn)
        for index in range(num_drawn):
            tokens.update(loader.make(index).stats.tokens)
    total = sum(tokens.values())
    return {name: sum(tokens[task] for task in tasks) / total for name, tasks in MODALITIES.items()}


def train_row(config: RunConfig, asked: dict[str, Any]) -> dict[str, Any] | None:
    """A whole run on the shared tokenizer and codec, then its losses and scores on held-out examples."""
    import castor
    from castor.log import read_metrics
    from castor.recipes.pipeline import STRETCHES, run_pipeline
    from castor.train.fit import STATE_FILE
    from castor.train.optim import count_parameters

    take_shared(config, asked)
    if run_pipeline(config) is None:
        return None
    folder = Path(config.out)
    steps = [row for stage in STRETCHES for row in read_metrics(folder / stage / "metrics.jsonl")]
    model = castor.load(folder / "model", device="cpu" if config.device == "auto" else config.device)
    world = held_out_world(config)
    result = {
        "parameters": count_parameters(model.decoder.parameters()),
        "tokens": sum(row["tokens"] for row in steps),
        "step_s": statistics.median(row["step_s"] for row in steps),
        "losses": {
            task: losses(model, world, task, asked["held_out"]) for tasks in MODALITIES.values() for task in tasks
        },
        "scores": scores(model, world, asked["scores"]),
    }
    for stage in STRETCHES:
        (folder / stage / STATE_FILE).unlink()  # only the row's end is compared; three times the model each
    return result


def take_shared(config: RunConfig, asked: dict[str, Any]) -> None:
    """Lay the shared tokenizer and codec in the row's folder, where the run finds them made."""
    Path(config.out).mkdir(parents=True, exist_ok=True)
    for kind, names in SHARED_FILES.items():
        for name in names:
            shutil.copyfile(Path(asked[kind]) / name, Path(config.out) / name)


def held_out_world(config: RunConfig) -> World:
    """Examples that no row trains on and that are the same for all: the split for choosing, not the one of results."""
    from castor.diorama.speech import speech_available
    from castor.diorama.world import World

    return World(seed=0, split="val", speech=speech_available(), drawing_px=config.course.drawing_px)


def losses(model: Model, world: World, task: str, count: int) -> dict[str, float]:
    """Sums over the answers of `count` held-out examples: nats of text and of picture codes, and how many there are."""
    import torch

    from castor.content import Image, Text
    from castor.data.epochs import packed
    from castor.train.objective import next_token

    sums: dict[str, float] = defaultdict(float)
    decoder, renderer = model.decoder, model.renderer
    loss = next_token(decoder, renderer.space.first_code)
    for first in range(0, count, BATCH_SIZE):
        examples = [world.example(task, index) for index in range(first, min(first + BATCH_SIZE, count))]
        sequences = [renderer.encode(example.messages) for example in examples]
        batch = packed(sequences, max(320, *map(len, sequences))).to(decoder.device)
        with torch.no_grad():
            metrics = loss(batch)[2]
        parts = [p for e in examples for message in e.messages if message.role == "model" for p in message.parts]
        sums["text_nats"] += float(metrics["text_loss"])
        sums["text_tokens"] += float(metrics["text_loss_count"])
        sums["code_nats"] += float(metrics["code_loss"])
        sums["codes"] += float(metrics["code_loss_count"])
        sums["bytes"] += sum(len(part.text.encode()) for part in parts if isinstance(part, Text))
        sums["drawings"] += sum(isinstance(part, Image) for part in parts)
    return dict(sums)


def scores(model: Model, world: World, count: int) -> dict[str, float]:
    """The main metric of a few tasks on `count` held-out examples each; none where that is 0."""
    from castor.diorama.parse import caption_f1, drawing_f1
    from castor.evals.evaluate import evaluate
    from castor.tasks.suite import build_tasks

    examples = {task: [world.example(task, index) for index in range(count)] for task in SCORED if count}
    report = evaluate(model, examples, build_tasks(caption_f1=caption_f1, drawing_f1=drawing_f1))
    return {row.task: row.score for row in report.overall()}


JOBS: dict[str, Callable[[RunConfig, dict[str, Any]], dict[str, Any] | None]] = {
    "tokenizer": make_tokenizer,
    "codec": make_codec,
    "speed": measure_speed,
    "shares": measure_shares,
    "row": train_row,
}


def main(path: str) -> None:
    """Do the job in the file `path`; leaves without a result where Ctrl-C ended it early."""
    job = load_json(path)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG; a run ends on this signal with its state saved
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGINT)
    before_torch()
    use_faster_malloc()
    from castor.config import from_dict
    from castor.recipes.pipeline import RunConfig
    from castor.runtime import prepare_cpu

    prepare_cpu(job["threads"])
    asked = job["asked"]
    result = JOBS[asked["do"]](from_dict(RunConfig, asked["config"]), asked)
    if result is not None:
        used = os.times()
        cpu_s = used.user + used.system + used.children_user + used.children_system
        save_json(job["result"], {**result, "cpu_s": round(cpu_s, 1), "asked": asked})


if __name__ == "__main__":
    main(sys.argv[1])
