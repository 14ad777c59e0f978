"""An embedding run: a trained generating model gets a head for vectors, and learns to make them.

    load -> pre-fine-tuning -> (filter, mine) -> fine-tuning -> (writing) -> soup -> model/

Pre-fine-tuning and fine-tuning are those of Gemini Embedding 2 (`pairs.py`), one task a step. What the model could say
is kept exactly with `adapters`, as vectors then have changes of their own; nearly, where a share of the steps
(`generation`) or the last of them (`write_share`) go on writing. A run that was ended, started again with the same
command, goes on.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from castor.checkpoint import load_metadata, load_tensors, save_json
from castor.config import to_dict
from castor.data.loader import LoadedBatch, Loader, LoaderConfig
from castor.data.pairs import GENERATE, PairLoader, PairTask
from castor.data.real.pairs import RealPairs
from castor.engine.model import Model, find_folder, load
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.extend import train_vectors_alone, with_embedding_head, with_vector_adapters, with_vectors_of
from castor.recipes.curriculum import SpannedMixture, mixture
from castor.recipes.embed_config import STAGES, EmbedConfig
from castor.recipes.mining import PoolMiner
from castor.recipes.pairs import RenderPair, pair_sources, pair_tasks
from castor.recipes.real import real_data, real_sources
from castor.recipes.rendering import RenderExample
from castor.recipes.settings import Notes, keep_settings
from castor.recipes.synthetic import SyntheticPairs, synthetic_pairs
from castor.runtime import best_precision, can_compile, pick_device, prepare_cpu, threads
from castor.tokens.batch import Batch
from castor.tokens.embedding import EmbeddingRenderer
from castor.tokens.pack import pack
from castor.tokens.pairs import pack_pairs
from castor.tokens.render import Renderer
from castor.train.calibrate import seconds_per_step
from castor.train.contrastive import contrastive
from castor.train.fit import STATE_FILE, FitConfig, fit
from castor.train.gather import SharedGather
from castor.train.gradients import LossFunction, LossTerms
from castor.train.objective import next_token
from castor.train.soup import average
from castor.train.workers import Workers

__all__ = ["EmbedConfig", "EmbedRun", "run_embedding", "soup_marks", "take_weights", "weights_in"]


def run_embedding(config: EmbedConfig, say: Callable[[str], None] = print) -> Model | None:
    """Train the vectors; gives the model, or None where Ctrl-C ended it early (saved, to be gone on with)."""
    with EmbedRun(config, say) as run:
        for stage in STAGES:
            if not run.train(stage):
                return None
        model = run.finished()
    model.save(run.folder / "model")
    say(f"model saved in {run.folder / 'model'}; score it: castor eval --embedding --model {run.folder / 'model'}")
    return model


class EmbedRun:
    """One run's folder, the model in training, and the stages."""

    def __init__(self, config: EmbedConfig, say: Callable[[str], None] = print) -> None:
        self.config, self.say, self.folder = config, say, Path(config.out)
        self.device = pick_device(config.device)
        prepare_cpu()
        self.base = find_folder(config.model)
        self.model = load(self.base, device="cpu")
        if not isinstance(self.model.renderer, Renderer | EmbeddingRenderer):
            raise ValueError(f"model={config.model!r}: only our own models and embedding_gemma2 learn to make vectors")
        if (config.writes or config.synthetic) and not isinstance(self.model.renderer, Renderer):
            raise ValueError(f"generation, write_share or synthetic: {config.model!r} does not write")
        decoder = trained_decoder(self.model.decoder, config).to(self.device)
        _teacher(config, self.model)  # refused here, before anything is begun
        self.compiles = config.compile and (self.device != "cpu" or can_compile())
        self.decoder = decoder.compile_layers() if self.compiles else decoder
        data = real_data(config.data)
        self.sources: dict[str, Any] = chosen_sources(pair_sources(config.seed, data), config.tasks)
        self.folder.mkdir(parents=True, exist_ok=True)  # from here on the folder is bound to these settings
        keep_settings(self.folder, config)
        self.notes = Notes(self.folder / "plan.json")
        say(f"pairs from Diorama and {len(data.sources)} real sets" if data.sources else "pairs from Diorama alone")
        if config.synthetic:
            self.sources |= self._synthetic()
        self.processes = int(self.notes.once("processes", self._num_processes))
        self._gather: SharedGather | None = None
        self._workers: Workers | None = None

    def __enter__(self) -> EmbedRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._workers.close()

    def _num_processes(self) -> int:
        if self.device != "cpu":
            return 1
        return self.config.processes or min(4, os.cpu_count() or 1)

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What products are taken in while training."""
        return "bfloat16" if best_precision(self.device) == "bfloat16" else "float32"

    def gather(self) -> SharedGather | None:
        """What brings the processes' vectors together, if there are several."""
        if self._gather is None and self.processes > 1:
            most = max(task.pairs for stage in STAGES for task in self.tasks(stage).values())
            self._gather = SharedGather(self.processes, most // self.processes + 1, self.config.loss.dimensions[0])
        return self._gather

    def workers(self) -> Workers | None:
        """The processes that train beside this one."""
        if self._workers is None and self.processes > 1:
            args = (self.decoder.config, self._first_code, self.config, self.compiles, self.gather(), str(self.base))
            count, each = self.processes - 1, max(1, (os.cpu_count() or 1) // self.processes)
            self._workers = Workers(
                self.decoder, functools.partial(_build, *args), count, precision=self.precision, num_threads=each
            )
        return self._workers

    @property
    def _first_code(self) -> int:
        if self.model.codec is None:  # no codes
            return self.decoder.config.text.vocab_size
        return self.model.renderer.space.first_code

    def tasks(self, stage: str) -> dict[str, Any]:
        """The stage's tasks."""
        if stage == "write":
            return {GENERATE: PairTask(rate=1.0, pairs=1)}
        config = self.config
        return pair_tasks(
            self.sources, fine=stage == "fine", generation=config.generation, batch_scale=config.batch_scale
        )

    def loader(self, stage: str, num_steps: int) -> PairLoader:
        """Batches of one stage."""
        config, renderer = self.config, self.model.renderer
        if isinstance(renderer, Renderer):  # vectors need no codec, which would travel to every process
            renderer = Renderer(renderer.tokenizer, renderer.space, renderer.config, limits=renderer.limits)
        hard = stage == "fine" and config.hard_negatives != "none"
        shape, tasks = self._loader_config(stage, num_steps), self.tasks(stage)
        return PairLoader(
            shape,
            self.sources,
            tasks,
            RenderPair(renderer, config.task_strings, hard),
            pack_pairs,
            num_parts=self.processes,
            mixed=config.mixed_tasks,
            generation=self._generation(stage, num_steps) if GENERATE in tasks else None,
        )

    def _loader_config(self, stage: str, num_steps: int) -> LoaderConfig:
        config = self.config
        return LoaderConfig(
            num_rows=config.num_rows,
            row_tokens=config.row_tokens,
            num_batches=num_steps * self.processes,
            seed=config.seed * 3 + STAGES.index(stage),
            num_workers=config.num_workers,
        )

    def _generation(self, stage: str, num_steps: int) -> Loader:
        """What the model was trained to write, as at the end of its own run."""
        real, _ = real_sources(self.config.data)
        shape = LoaderConfig(
            num_rows=8 // self.processes or 1,
            row_tokens=320,
            num_batches=num_steps * self.processes,
            seed=977 + STAGES.index(stage),
        )
        renderer = self.model.renderer
        assert isinstance(renderer, Renderer)
        learned = SpannedMixture(mixture(self.config.seed, real), 0.9, 1.0)
        return Loader(shape, learned, RenderExample(str(self.base), renderer.config), pack)

    def _synthetic(self) -> dict[str, Any]:
        """Pairs from the answers of the model that the run begins with."""
        real, _ = real_sources(self.config.data)
        sources = mixture(self.config.seed, real).sources
        model = load(self.base, device=self.device)
        return synthetic_pairs(model, sources, self.config.synthetic, self.folder / "synthetic", self.say)

    def train(self, stage: str) -> bool:
        """One stage; False where Ctrl-C ended it early."""
        begin, end = self.config.stretch(stage)
        share, folder = end - begin, self.folder / stage
        done = self.folder / f"{stage}.json"
        if not share:
            return True
        if not self.tasks(stage):
            self.say(f"{stage}: none of the chosen tasks is learned in this stage, which is left out")
            return True
        if done.exists():
            take_weights(self.decoder, folder / STATE_FILE)
            return True
        loss = _loss(self.decoder, self._first_code, self.config, self.gather(), _teacher(self.config, self.model))
        each = max(1, (os.cpu_count() or 1) // self.processes)
        with threads(each) if self.processes > 1 else nullcontext():
            if stage == "fine" and (self.config.filter or self.config.hard_negatives == "mined"):
                self._mine()
            steps = max(2, round(share * (self.config.steps or 60 * self.config.minutes / self._step_s(loss))))
            finished = self._fit(stage, loss, steps)
        if finished:
            save_json(done, {"steps": steps})
        return finished

    def _fit(self, stage: str, loss: LossFunction, steps: int) -> bool:
        batches = self._batches(stage, steps)
        marks = soup_marks(steps, self.config.soup) if stage == "fine" else [steps]
        for mark in marks:
            if self._reached(stage) < mark:
                result = fit(
                    self.decoder, loss, batches, self._fit_config(stage, steps), self.folder / stage,
                    title=stage, stop_after=mark, workers=self.workers(),
                )  # fmt: skip
                if result.step < mark or result.interrupted:
                    return False
            kept = self.folder / f"soup-{mark}.safetensors"
            if len(marks) > 1 and self._reached(stage) == mark and not kept.exists():
                kept.write_bytes((self.folder / stage / STATE_FILE).read_bytes())
        take_weights(self.decoder, self.folder / stage / STATE_FILE)
        return True

    def _reached(self, stage: str) -> int:
        """The step of the stage's saved state."""
        path = self.folder / stage / STATE_FILE
        return int(load_metadata(path)["step"]) if path.exists() else 0

    def _batches(self, stage: str, steps: int) -> Callable[..., Iterator[LoadedBatch]]:
        return self.loader(stage, steps).batches

    def _fit_config(self, stage: str, steps: int) -> FitConfig:
        config = self.config
        return FitConfig(
            num_steps=steps,
            optim=config.optim,
            warmup=config.warmup,
            decay=0.8,
            stretch=config.stretch(stage),
            precision=self.precision,
            save_every_s=config.save_every_s,
        )

    def _step_s(self, loss: LossFunction) -> float:
        """Seconds of a step, measured once on the tasks of fine-tuning."""

        def measure() -> float:
            self.say("measuring the speed of a step (the first ones compile)")
            config = self._fit_config("fine", 10_000)
            return seconds_per_step(self.decoder, loss, self._batches("fine", 10_000), config, self.workers())

        return float(self.notes.once("step_s", measure))

    def _mine(self) -> None:
        """Hard negatives and filtered pairs of the real sets, found once with the model as it stands."""
        miner = PoolMiner(self.model_now(), self.config.mine_rank, self.folder / "mined", self.say)
        for name, source in self.sources.items():
            if isinstance(source, RealPairs | SyntheticPairs):  # a finite set
                self.sources[name] = miner.source(
                    name, source, negatives=self.config.hard_negatives == "mined", filtered=self.config.filter
                )

    def model_now(self) -> Model:
        """The model with the weights as they stand, and layers for batches of any shape."""
        with torch.device("meta"):
            decoder = Decoder(self.decoder.config)
        decoder.load_state_dict(self.decoder.state_dict(), assign=True)
        return Model(decoder, self.model.renderer, self.model.codec, card=self.model.card)

    def finished(self) -> Model:
        """The trained model, its soup taken."""
        kept = sorted(self.folder.glob("soup-*.safetensors"))
        if len(kept) > 1:
            put_weights(self.decoder, average([weights_in(path) for path in kept]))
            self.say(f"averaged {len(kept)} states of the last quarter")
        names = {name: Path(getattr(self.config, name)).name for name in ("model", "start")}
        names |= {"out": "", "data": ""}  # no paths of this machine
        model = self.model_now()
        model.card = self.model.card | {
            "embedding": to_dict(self.config) | names | {"sources": sorted(self.sources)},
        }
        return model


def soup_marks(steps: int, count: int) -> list[int]:
    """The steps whose states are averaged: `count`, spread over the last quarter, the last one among them."""
    first = steps - steps // 4 if count > 1 else steps
    return sorted({first + (steps - first) * i // max(1, count - 1) for i in range(count)} | {steps})


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a state file."""
    tensors = load_tensors(path).items()
    return {name.partition("|")[2]: value for name, value in tensors if name.startswith("model|")}


def take_weights(decoder: Decoder, path: Path) -> None:
    """Load them; what was frozen is not in a state file, and stays."""
    put_weights(decoder, weights_in(path))


def put_weights(decoder: Decoder, weights: Mapping[str, torch.Tensor]) -> None:
    """Some or all of the weights in place of those there are."""
    decoder.load_state_dict({**decoder.state_dict(), **weights})


def chosen_sources(sources: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The sources of these tasks, or all; ValueError for a task that cannot be learned here."""
    if unknown := sorted(set(tasks) - set(sources)):
        raise ValueError(f"tasks: no pairs of {unknown[0]!r} here; there are: {', '.join(sources)}")
    return {name: source for name, source in sources.items() if not tasks or name in tasks}


def trained_decoder(decoder: Decoder, config: EmbedConfig) -> Decoder:
    """The decoder with a head for vectors, and adapters where the settings ask for them; what is to learn can."""
    decoder = with_embedding_head(decoder, config.loss.dimensions[0], config.seed)
    if config.adapters:
        decoder = with_vector_adapters(decoder, config.adapters, config.seed)
    if config.start:
        decoder = with_vectors_of(decoder, load(find_folder(config.start), device="cpu").decoder)
    if config.adapters or config.last_layers:
        train_vectors_alone(decoder, config.last_layers, config.stems)
    return decoder


def _teacher(config: EmbedConfig, student: Model) -> Decoder | None:
    """The model whose similarities are learned; ValueError for one that takes other sequences, or makes no vectors."""
    if not config.teacher:
        return None
    teacher = load(find_folder(config.teacher), device="cpu")
    teacher.check_dimensions(None)
    own, other = student.renderer, teacher.renderer
    is_same = type(own) is type(other) and own.config == other.config and own.tokenizer.model == other.tokenizer.model
    if not is_same:
        raise ValueError(f"teacher={config.teacher!r} has another tokenizer, or lays media out in another way")
    return teacher.decoder.to(student.device).requires_grad_(False)


def _loss(
    decoder: Decoder, first_code: int, config: EmbedConfig, gather: SharedGather | None, teacher: Decoder | None
) -> Any:
    """Contrastive for pairs, next-token for what is written."""
    pairs = contrastive(decoder, config.loss, gather, teacher=teacher, teaching=config.teaching)
    writing = next_token(decoder, first_code, config.code_weight)

    def loss(batch: Any) -> LossTerms:
        return writing(batch) if isinstance(batch, Batch) else pairs(batch)

    return loss


def _build(
    model: ModelConfig, first_code: int, config: EmbedConfig, compiles: bool, gather: SharedGather | None, base: str
) -> tuple[Decoder, Any]:
    """A decoder without weights of its own and its loss, for a training process."""
    with torch.device("meta"):
        decoder = Decoder(model)
    if config.adapters or config.last_layers:
        train_vectors_alone(decoder, config.last_layers, config.stems)
    if compiles:
        decoder.compile_layers()
    teacher = _teacher(config, load(base, device="cpu")) if config.teacher else None
    return decoder, _loss(decoder, first_code, config, gather, teacher)
