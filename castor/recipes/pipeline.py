"""From nothing to a model, in stages that each leave their result in the run's folder and are skipped once there.

    tokenizer -> codec -> pretrain -> tune -> model

A killed run, started again with the same command, goes on where its last saved state is and ends with the weights an
uninterrupted one has: everything that was measured once (how many steps fit the time) is kept in plan.json.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from castor.checkpoint import load_json, load_tensors, save_json, write_atomically
from castor.config import to_dict
from castor.content import Image, Text
from castor.data.lines import Lines
from castor.data.loader import Loader, LoaderConfig
from castor.data.mixture import Mixture
from castor.engine.model import Model
from castor.log import LiveLine, read_metrics
from castor.models.codec import CodecConfig, ImageCodec
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.front_ends import AudioWay, VisionWay, rendered_for, sized
from castor.models.sizes import SIZES
from castor.recipes.curriculum import CourseConfig, SpannedMixture, level, mixture
from castor.recipes.real import real_sources
from castor.recipes.rendering import RenderExample, make_renderer
from castor.recipes.settings import keep_settings
from castor.recipes.shape import ShapeConfig, fresh_decoder, model_config
from castor.recipes.start import start_card, started_decoder, take_start
from castor.runtime import best_precision, can_compile, pick_device, prepare_cpu, threads
from castor.tokens.pack import pack
from castor.tokens.render import RenderConfig
from castor.tokens.space import IdSpace
from castor.tokens.text import Tokenizer, train_tokenizer
from castor.train.calibrate import seconds_per_step
from castor.train.codec import train_codec
from castor.train.fit import FitConfig, fit, measure_matrix_peak
from castor.train.gradients import LossFunction
from castor.train.objective import next_token
from castor.train.optim import OptimConfig
from castor.train.workers import Workers

SHARES = {"codec": 0.10, "pretrain": 0.62, "tune": 0.28}  # of the training time
_TURN = SHARES["pretrain"] / (SHARES["pretrain"] + SHARES["tune"])
BEGUN = 0.3  # where in the curriculum a run goes on from a model: after what leads
STRETCHES = {"pretrain": (0.0, _TURN), "tune": (_TURN, 1.0)}  # of the learning rate's one schedule
SPANS = {"pretrain": (0.0, 0.6), "tune": (0.6, 1.0)}  # of the curriculum


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run from nothing to a model. Defaults make `atom`."""

    out: str = "runs/atom"  # folder of the run
    minutes: float = 60.0  # of training, all stages together; decides the steps unless they are given
    seed: int = 0
    size: str = "atom"
    start: str = ""  # a model to go on from, by name or folder; empty: from nothing
    vision: VisionWay = "size"  # how pictures come in: as the size has it, "linear", "stem" or "tower"
    audio: AudioWay = "size"  # sounds likewise; also "raw" (samples) and "conformer"
    data: str = ""  # folder of real data; empty: the variable CASTOR_DATA, or Diorama alone
    examples: tuple[str, ...] = ()  # files of one's own examples, one JSON object a line
    examples_weight: float = 3.0  # of each such file, where a task of Diorama weighs about one
    device: str = "auto"
    vocab_size: int = 4096
    tokenizer_examples: int = 12_000  # sampled from the whole mixture to train the tokenizer
    codec_steps: int = 0  # 0: as many as fit
    pretrain_steps: int = 0
    tune_steps: int = 0
    code_weight: float = 0.5  # of a picture code in the loss, against 1 for a piece of text
    breadth: float = 1.0  # weight of what only longer runs learn (curriculum.BROAD, real data)
    num_rows: int = 8
    row_tokens: int = 320  # the longest video with its sound fits
    num_workers: int = 1  # that make batches, for each training process
    processes: int = 0  # that share a step's rows; 0: on a CPU as many as its cores, up to 4, and on a GPU one
    compile: bool = True
    save_every_s: float = 120.0
    warmup: float = 0.02  # share of all steps in which the rate rises
    decay: float = 0.85  # share of all steps, the last ones, in which it falls
    optim: OptimConfig = field(default_factory=OptimConfig)
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    course: CourseConfig = field(default_factory=CourseConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    renderer: RenderConfig = field(default_factory=RenderConfig)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size={self.size!r} is not one of {list(SIZES)}")
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes={self.minutes} must be positive and finite")
        for name in ("tokenizer_examples", "num_rows", "row_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("codec_steps", "pretrain_steps", "tune_steps", "num_workers", "processes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share of the steps, 0 to 1")
        if self.processes and self.num_rows % self.processes:
            raise ValueError(f"num_rows={self.num_rows} cannot be shared evenly by processes={self.processes}")
        sized(self.size, self.media, self.vision, self.audio)  # refused here, before anything is made

    @property
    def media(self) -> RenderConfig:
        """How media become tokens in this run: `renderer` with what its ways in need."""
        return rendered_for(self.renderer, self.vision, self.audio)


def run_pipeline(config: RunConfig, say: Callable[[str], None] = print) -> Model | None:
    """Train all stages; gives the model, or None where Ctrl-C ended a stage early (saved, to be gone on with)."""
    with Run(config, say) as run:
        if config.start:
            take_start(config.start, run.folder, codec=config.codec, renderer=config.media)
        run.make_tokenizer()
        run.make_codec()
        for stage in ("pretrain", "tune"):
            if not run.train(stage):
                return None
    model = run.model()
    model.save(run.folder / "model")
    say(f"model saved in {run.folder / 'model'}")
    return model


class Run:
    """One run's folder, and the stages that fill it."""

    def __init__(self, config: RunConfig, say: Callable[[str], None] = print) -> None:
        self.config, self.say, self.folder = config, say, Path(config.out)
        self.device = pick_device(config.device)
        self.precision = best_precision(self.device)
        prepare_cpu()
        real, told = real_sources(config.data, config.breadth)
        say(told)
        own = {path: (Lines(path), config.examples_weight) for path in config.examples}
        self.mixture = mixture(config.seed, real | own, config.breadth, config.course)
        if config.course.order == "level":
            self.mixture = level(self.mixture, [(b - a, *SPANS[name]) for name, (a, b) in STRETCHES.items()])
        self.folder.mkdir(parents=True, exist_ok=True)  # from here on the folder is bound to these settings
        keep_settings(self.folder, config)
        self.plan_path = self.folder / "plan.json"
        self.plan: dict[str, Any] = load_json(self.plan_path) if self.plan_path.exists() else {}
        self._keep_sources()
        self.processes = self.plan.get("processes") or self.note("processes", self._num_processes())
        self._decoder: Decoder | None = None
        self._workers: Workers | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._workers.close()

    def _num_processes(self) -> int:
        """How many processes share a step: the most that divide its rows evenly."""
        if self.device != "cpu" and self.config.processes > 1:
            raise ValueError(f"processes={self.config.processes} share a step on a CPU only, not on {self.device!r}")
        if self.device != "cpu" or self.config.processes:
            return max(1, self.config.processes)
        most = min(4, os.cpu_count() or 1)
        return max(count for count in range(1, most + 1) if self.config.num_rows % count == 0)

    def _keep_sources(self) -> None:
        """Note what the run learns from, or hold it to that: data or a synthesiser may have come or gone."""
        now = sorted(self.mixture.sources)
        before = self.plan.get("sources") or self.note("sources", now)
        if changed := sorted(set(before) ^ set(now)):
            state = "is gone" if changed[0] in before else "is new"
            raise ValueError(
                f"{self.plan_path}: the source {changed[0]!r} {state} since this run was begun; "
                "restore what was there (CASTOR_DATA, the speech synthesiser), or give another out= folder"
            )

    def note(self, key: str, value: Any) -> Any:
        """Keep a measured value for good."""
        self.plan[key] = value
        save_json(self.plan_path, self.plan)
        return value

    def make_tokenizer(self) -> None:
        """Train SentencePiece on a sample of the whole mixture."""
        if (self.folder / "tokenizer.model").exists():
            return
        line = LiveLine("tokenizer", self.config.tokenizer_examples)

        def texts() -> Iterator[str]:
            for index in range(self.config.tokenizer_examples):
                line.update(index, "sampling")
                yield from _texts(self.mixture, f"{self.config.seed}/tokenizer/{index}")

        tokenizer = train_tokenizer(texts(), self.config.vocab_size)
        write_atomically(self.folder / "tokenizer.model", tokenizer.model)
        line.close(f"{tokenizer.vocab_size} pieces")

    def make_codec(self) -> None:
        """Train the image codec on pictures of the mixture: what is drawn, and what is looked at."""
        if (self.folder / "codec.safetensors").exists():
            return
        with threads(1) if self.device == "cpu" else nullcontext():  # its layers are too small to share out
            self._train_codec(functools.partial(_picture, self.mixture))

    def _train_codec(self, pictures: Callable[[random.Random], np.ndarray]) -> None:
        steps = self.config.codec_steps or self.plan.get("codec_steps", 0)
        if not steps:
            trial_s = 8.0
            _, trial = train_codec(self.config.codec, pictures, seconds=trial_s, seed=self.config.seed)
            budget_s = 60 * self.config.minutes * SHARES["codec"] - trial_s
            steps = self.note("codec_steps", max(20, round(budget_s * trial["step"] / trial["elapsed_s"])))
        line = LiveLine("codec", steps)
        codec, last = train_codec(
            self.config.codec,
            pictures,
            steps=steps,
            seed=self.config.seed,
            device=self.device,
            on_progress=lambda row: line.update(row["step"], f"loss {row['loss']:.4f}  {row['psnr_db']:.1f} dB"),
        )
        codec.cpu().save(self.folder)
        line.close(f"{last['psnr_db']:.1f} dB after {steps} steps")

    def model_config(self) -> ModelConfig:
        """The size's config with this run's vocabulary, media and shape."""
        config = sized(self.config.size, self.config.media, self.config.vision, self.config.audio)
        return model_config(config, self.config.shape, self.space())

    def space(self) -> IdSpace:
        """The id space of this run's tokenizer and codec."""
        tokenizer = Tokenizer.load(self.folder)
        return IdSpace(num_text=tokenizer.vocab_size, num_codes=self.config.codec.num_codes)

    def decoder(self) -> Decoder:
        """The decoder in training: at first the one to go on from, or fresh from the seed."""
        if self._decoder is None:
            decoder = (started_decoder(self.folder, self.model_config()) or self._fresh_decoder()).to(self.device)
            self._decoder = decoder.compile_layers() if self._compiles else decoder
        return self._decoder

    def _fresh_decoder(self) -> Decoder:
        first, seed = self.space().first_code, self.config.seed
        return fresh_decoder(self.model_config(), self.config.shape, self.config.codec, first, seed)

    @property
    def _compiles(self) -> bool:
        return self.config.compile and (self.device != "cpu" or can_compile())

    def workers(self) -> Workers | None:
        """The processes that train beside this one, if any; they live as long as the run."""
        if self._workers is None and self.processes > 1:
            build = functools.partial(
                _build, self.model_config(), self.space().first_code, self.config.code_weight, self._compiles
            )
            count, num_threads = self.processes - 1, self._threads_each()
            self._workers = Workers(
                self.decoder(), build, count, precision=self._train_precision, num_threads=num_threads
            )
        return self._workers

    def _threads_each(self) -> int:
        return max(1, (os.cpu_count() or 1) // self.processes)

    @property
    def _train_precision(self) -> Literal["float32", "bfloat16"]:
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    def loader(self, stage: str, num_steps: int) -> Loader:
        """Batches of one stage; pre-training spans the first part of the curriculum, tuning the rest."""
        config = LoaderConfig(
            num_rows=self.config.num_rows // self.processes,
            row_tokens=self.config.row_tokens,
            num_batches=num_steps * self.processes,
            seed=self.config.seed * 2 + (stage == "tune"),
            num_workers=self.config.num_workers,
        )
        begin, end = SPANS[stage]
        span = (max(begin, BEGUN) if self.config.start else begin, end)
        render = RenderExample(str(self.folder), self.config.media)
        return Loader(config, SpannedMixture(self.mixture, *span), render, pack)

    def train(self, stage: str) -> bool:
        """Pre-train, or tune from there on; False where Ctrl-C ended it early."""
        folder, done_path = self.folder / stage, self.folder / f"{stage}.json"
        decoder = self.decoder()
        if done_path.exists():
            self._take(decoder, folder)
            return True
        loss = next_token(decoder, self.space().first_code, self.config.code_weight)
        peak = measure_matrix_peak(self.device, self.precision)
        with threads(self._threads_each()) if self.processes > 1 else nullcontext():
            steps = getattr(self.config, f"{stage}_steps") or self._steps_that_fit(stage, decoder, loss)
            if stage == "tune" and not (folder / "state.safetensors").exists():
                self._take(decoder, self.folder / "pretrain")
            batches = self.loader(stage, steps).batches
            config = self._fit_config(stage, steps)
            result = fit(decoder, loss, batches, config, folder, title=stage, peak_flops=peak, workers=self.workers())
        if result.finished:
            save_json(done_path, dataclasses.asdict(result))
        return result.finished and not result.interrupted

    def _fit_config(self, stage: str, steps: int) -> FitConfig:
        return FitConfig(
            num_steps=steps,
            optim=self.config.optim,
            warmup=self.config.warmup,
            decay=self.config.decay,
            stretch=STRETCHES[stage],
            precision=self._train_precision,
            save_every_s=self.config.save_every_s,
        )

    def _steps_that_fit(self, stage: str, decoder: Decoder, loss: LossFunction) -> int:
        """Measured once, from a trial of the real loop, and for tuning from all of pre-training."""
        if "step_s" not in self.plan:
            self.say("measuring the speed of a step (the first ones compile)")
            batches = self.loader("pretrain", 10_000).batches
            step_s = seconds_per_step(decoder, loss, batches, self._fit_config("pretrain", 10_000), self.workers())
            self.note("step_s", round(step_s, 4))
        if stage == "pretrain":
            return max(10, round(60 * self.config.minutes * SHARES[stage] / self.plan["step_s"]))
        return self.plan.get("tune_steps") or self.note("tune_steps", self._steps_left())

    def _steps_left(self) -> int:
        """How many steps of tuning fit the time that pre-training left, at the speed that it had."""
        steps_s = [row["step_s"] for row in read_metrics(self.folder / "pretrain" / "metrics.jsonl")]
        left_s = 60 * self.config.minutes * (SHARES["pretrain"] + SHARES["tune"]) - sum(steps_s)
        return max(10, round(left_s / statistics.mean(steps_s)))

    def _take(self, decoder: Decoder, folder: Path) -> None:
        tensors = load_tensors(folder / "state.safetensors")
        decoder.load_state_dict(
            {name.partition("|")[2]: value for name, value in tensors.items() if name.startswith("model|")}
        )

    def model(self) -> Model:
        """The run's model as it stands, ready to answer."""
        codec = ImageCodec.load(self.folder).to(self.device)
        renderer = make_renderer(self.folder, self.config.media, codec)
        own = {path: Path(path).name for path in self.config.examples}  # no paths of this machine
        card = {
            "recipe": to_dict(self.config) | {"out": "", "data": "", "start": "", "examples": list(own.values())},
            "plan": {key: value for key, value in self.plan.items() if key != "sources"},
            "sources": sorted(own.get(name, name) for name in self.mixture.sources),
        } | start_card(self.folder)
        return Model(self.decoder(), renderer, codec, card=card)


def _build(config: ModelConfig, first_code: int, code_weight: float, compiled: bool) -> tuple[Decoder, LossFunction]:
    """A decoder without weights of its own and its loss, for a training process."""
    with torch.device("meta"):
        decoder = Decoder(config)
    if compiled:
        decoder.compile_layers()
    return decoder, next_token(decoder, first_code, code_weight)


def _texts(source: Mixture, seed: str) -> Iterator[str]:
    rng = random.Random(seed)
    example = source.draw(rng, rng.random())
    for message in example.messages:
        yield from (part.text for part in message.parts if isinstance(part, Text))


def _picture(source: Mixture, rng: random.Random) -> np.ndarray:
    """A picture from the mixture's own examples: three of four are drawings, the rest what is looked at.

    Photographs are kept few: with a fifth of them, drawings lost 3 dB in the same time.
    """
    looked_at = [name for name in ("image_question", "concepts", "text_reading") if name in source.sources]
    if not looked_at and "drawing" not in source.sources:
        raise ValueError(f"the image codec learns from drawings and pictures, and {list(source.sources)} have none")
    while True:
        drawn = rng.random() < 0.75 and "drawing" in source.sources or not looked_at
        name = "drawing" if drawn else looked_at[rng.randrange(len(looked_at))]
        example = source.sources[name].example(rng)
        for message in reversed(example.messages):
            for part in message.parts:
                if isinstance(part, Image):
                    return part.pixels()
