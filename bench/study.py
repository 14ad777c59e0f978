"""What each choice of the recipe is worth: short runs of it that differ in one thing, on equally many tokens.

    python bench/study.py ablate --minutes 3      one choice changed a row; the recipe itself from three seeds
    python bench/study.py transfer --minutes 3    each modality alone against all together
    python bench/study.py scaling --minutes 1     three sizes x three token counts, a fitted law and its picture

A row is a whole run of the pipeline (pre-training and tuning, one schedule) on a tokenizer and an image codec that are
trained once and shared. `--minutes` of training a row are turned into steps once, by a trial on these cores. Each row
leaves `result.json` when it ends, so that a study that was stopped goes on where it was, in the middle of a row too.
Losses are in nats of the answers in held-out examples (Diorama's split "val"), by modality.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study_lanes import Job, Lanes, results  # beside this file
from study_row import MODALITIES
from study_scaling import scaling_report
from study_tables import WAYS, Rows, ablation_report, transfer_report

from castor.checkpoint import save_json, write_atomically
from castor.config import override
from castor.recipes.pipeline import STRETCHES, RunConfig

# name of a row: what it changes
ABLATIONS: dict[str, tuple[str, ...]] = {
    "AdamW for all, rate 3e-3": ("optim.name=adamw",),
    "AdamW for all, rate 1e-3": ("optim.name=adamw", "optim.other_learning_rate=1e-3"),
    "rate: a cosine all along": ("decay=0.98",),
    "rate: held for 60 %": ("decay=0.4",),
    "rate: constant": ("decay=0",),
    "no stages: the same shares all along": ("course.order=level",),
    "no stages: equally many of each task": ("course.order=uniform",),
    "pictures: linear patches": ("vision=linear",),
    "sound: linear frames": ("audio=linear",),
    "drawings of 48 pixels, 36 codes": ("course.drawing_px=48",),
    "drawings of 96 pixels, 144 codes": ("course.drawing_px=96",),
    "240 codes": ("codec.levels=8,6,5",),
    "4,375 codes": ("codec.levels=7,5,5,5,5",),
    "2,048 pieces": ("vocab_size=2048",),
    "8,192 pieces": ("vocab_size=8192",),
    "picture codes weigh 1": ("code_weight=1",),
    "picture codes weigh 0.25": ("code_weight=0.25",),
    "picture codes begin at random": ("shape.alike_codes=false",),
    "weights begin at a third of the size": ("shape.init_scale=0.33",),
    "weights begin at full size": ("shape.init_scale=1",),
    "weights begin at twice the size": ("shape.init_scale=2",),
}
TURN = STRETCHES["pretrain"][1]
SIZES = {128: 2, 192: 4, 320: 6}  # width: layers; 1.5, 4.3 and 12 million parameters
STEP_COST = {128: 0.5, 192: 1.0, 320: 2.3}  # by time, for the progress and the order of rows
LENGTHS = (1, 2, 4)  # times the steps


class Study:
    """The settings that the rows of a study share, and the jobs that rows are made of."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)
        self.lanes = Lanes(count=args.lanes, threads=args.threads)
        self.base = override(
            RunConfig(
                processes=1,
                num_workers=int(args.threads > 1),  # on one core nothing is made ahead
                breadth=0.375,  # as in a speedrun of 15 minutes
                codec_steps=args.codec_steps,
                tokenizer_examples=args.tokenizer_examples,
                pretrain_steps=1,
                tune_steps=1,
            ),
            args.set,
        )

    def shared(self, config: RunConfig) -> dict[str, Job]:
        """The tokenizer and the codec that a run with these settings takes."""
        course = dataclasses.replace(self.base.course, drawing_px=config.course.drawing_px)
        levels = "-".join(map(str, config.codec.levels))
        names: dict[str, tuple[str, dict[str, Any]]] = {
            "tokenizer": (f"tokenizer-{config.vocab_size}", {"vocab_size": config.vocab_size}),
            "codec": (f"codec-{levels}-{course.drawing_px}px", {"codec": config.codec, "course": course}),
        }
        return {
            kind: Job(name=name, do=kind, config=self.at(f"shared/{name}", **settings))
            for kind, (name, settings) in names.items()
        }

    def at(self, place: str, **settings: Any) -> RunConfig:
        """The base's settings but these, in a folder of the study's."""
        return dataclasses.replace(self.base, **settings, out=str(self.out / place))

    def job(self, do: str, name: str, settings: tuple[str, ...] = (), steps: int = 2, **more: Any) -> Job:
        """A job on the base's settings but these."""
        config = override(self.base, settings)
        pretrain = min(max(1, round(steps * TURN)), steps - 1)
        folder = "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip("-")
        config = dataclasses.replace(
            config,
            out=str(self.out / self.args.study / folder),
            pretrain_steps=pretrain,
            tune_steps=steps - pretrain,
        )
        places = {kind: str(job.folder) for kind, job in self.shared(config).items()}
        counts = {"held_out": self.args.held_out, "scores": self.args.scores}
        return Job(name=name, do=do, config=config, more={**places, **counts, **more}, steps=steps * (do == "row"))

    def share(self, jobs: list[Job]) -> None:
        """Make the tokenizers and codecs of these jobs."""
        wanted = {job.name: job for each in jobs for job in self.shared(each.config).values()}
        self.lanes.run(list(wanted.values()), "tokenizers and codecs")

    def steps(self) -> int:
        """Steps of a row: as given, or as many as fit the minutes, measured once with every lane at work."""
        if self.args.steps:
            return self.args.steps
        trials = [self.job("speed", f"speed of lane {lane + 1}") for lane in range(self.lanes.count)]
        self.share(trials)
        self.lanes.run(trials, "speed of a step")
        slowest_s = max(found["step_s"] for _, found in results(trials))
        return max(10, round(60 * self.args.minutes / slowest_s))

    def run(self, jobs: list[Job], report: Callable[[Rows], str]) -> None:
        """Do the jobs; whenever one is done, write down what all have come to."""
        path = self.out / f"{self.args.study}.md"

        def write() -> None:
            found = [(job.name, result) for job, result in results(jobs)]
            if found:
                save_json(path.with_suffix(".json"), dict(found))
                write_atomically(path, report(found).encode())

        self.share(jobs)
        try:
            self.lanes.run(jobs, self.args.study, write)
        finally:
            write()
        print(path.read_text(encoding="utf-8"))
        print(f"{path}, {path.with_suffix('.json')}")


def ablate(study: Study) -> None:
    """The recipe from some seeds, then every row of ABLATIONS, or those that `--only` names by a part of them."""
    steps, only = study.steps(), study.args.only
    seeds = [f"the recipe, seed {seed}" for seed in range(study.args.seeds)]
    jobs = [study.job("row", name, (f"seed={seed}",), steps) for seed, name in enumerate(seeds)]
    chosen = [name for name in ABLATIONS if not only or any(part in name for part in only)]
    jobs += [study.job("row", name, ABLATIONS[name], steps) for name in chosen]
    study.run(jobs, lambda rows: ablation_report(rows, seeds))


def transfer(study: Study) -> None:
    """All modalities together from some seeds; each alone on as many tokens in all, and on as many of its own."""
    steps = study.steps()
    shares_job = study.job("shares", "shares of tokens", (), steps, batches=min(steps, 80))
    study.share([shares_job])
    study.lanes.run([shares_job], "shares of tokens")
    shares = next(found for _, found in results([shares_job]))
    jobs = [study.job("row", f"together, seed {seed}", (f"seed={seed}",), steps) for seed in range(study.args.seeds)]
    for name, tasks in MODALITIES.items():
        course = (f"course.sources={','.join(tasks)}",)
        of_its_own = max(2, round(steps * shares[name]))
        for way, count in zip(WAYS, (of_its_own, steps), strict=True):
            jobs.append(study.job("row", f"{name} alone, {way}", course, count))
    study.run(jobs, lambda rows: transfer_report(rows, shares))


def scaling(study: Study) -> None:
    """Every size for every length, the costliest first; a law through them all."""
    steps = study.steps()
    jobs = []
    for (width, layers), times in itertools.product(SIZES.items(), LENGTHS):
        shape = (f"shape.width={width}", f"shape.layers={layers}")
        name = f"width {width}, {layers} layers, {times * steps} steps"
        job = study.job("row", name, shape, times * steps)
        jobs.append(dataclasses.replace(job, step_cost=STEP_COST[width]))
    jobs.sort(key=lambda job: -job.cost)
    study.run(jobs, lambda rows: scaling_report(rows, study.out))


STUDIES: dict[str, Callable[[Study], None]] = {"ablate": ablate, "transfer": transfer, "scaling": scaling}


def main() -> None:
    """Read the command line and run a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", default="runs/study", help="folder of the studies and of what they share")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=3.0, help="of training a row")
    length.add_argument("--steps", type=int, default=0, help="of a row, instead")
    parser.add_argument("--lanes", type=int, default=2, help="rows at once, each on cores of its own")
    parser.add_argument("--threads", type=int, default=1, help="of a row")
    parser.add_argument("--seeds", type=int, default=3, help="from which the recipe itself is trained")
    parser.add_argument("--held-out", type=int, default=96, help="examples of each task for the loss")
    parser.add_argument("--scores", type=int, default=48, help="examples of each scored task; 0: no scores")
    parser.add_argument("--codec-steps", type=int, default=1200)
    parser.add_argument("--tokenizer-examples", type=int, default=5000)
    parser.add_argument("--only", nargs="*", default=[], help="ablations whose names contain one of these")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings of every row")
    args = parser.parse_args()
    try:
        STUDIES[args.study](Study(args))
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on from here") from None
    except (ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
