"""Fine-tuning: a loaded model learns from a person's own examples; every weight, adapters, or adapters on four bits.

    check examples -> load -> measure on held-out ones -> train -> measure again -> model/ or adapter/

All examples are checked before the first step. A run that was ended, started again with the same command, goes on and
ends with the weights of one that was not. A model that makes vectors learns from pairs, a query and what it should
find (`own_pairs.py`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from castor.checkpoint import save_json
from castor.config import to_dict
from castor.data.epochs import EpochLoader, packed
from castor.data.own import OwnExamples
from castor.engine.model import SHIPPED, Model, load
from castor.log import LiveLine, read_metrics
from castor.models.adapter import save_adapter
from castor.models.codec import ImageCodec
from castor.models.extend import train_rows
from castor.models.packing import packing_of
from castor.nn.lora import ATTENTION, FEED_FORWARD, LoraConfig, add_adapters, merge_adapters
from castor.nn.lowbit import Form, quantise_linears, weight_bytes
from castor.recipes.held_out import HeldOut, told
from castor.recipes.own_pairs import packed_pairs, pair_loss, renders_pairs
from castor.recipes.senses import add_drawing
from castor.recipes.settings import Notes, keep_settings
from castor.runtime import available_bytes, best_precision, pick_device, prepare_cpu
from castor.tokens.embedding import EmbeddingRenderer
from castor.train.calibrate import seconds_per_step
from castor.train.fit import FitConfig, fit
from castor.train.gradients import LossFunction
from castor.train.objective import next_token
from castor.train.optim import OptimConfig, count_parameters

# Peak rates times the model's width: narrow models bear larger ones, and adapters about ten times those of whole
# weights (Schulman et al. 2025, "LoRA without regret").
RATES = {"full": 0.1, "lora": 1.0, "qlora": 1.0, "rows": 1.0}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a model learns from one's own examples. `castor train finetune examples=mine.jsonl` needs no more."""

    model: str = "atom"  # a shipped model, or a model's folder
    examples: tuple[str, ...] = ()  # files, one JSON object a line
    out: str = "runs/finetune"
    method: Literal["full", "lora", "qlora", "rows"] = "lora"  # rows: only what `senses` adds to the embedding
    epochs: float = 3.0  # times through the examples, unless steps or minutes are given
    steps: int = 0
    minutes: float = 0.0  # of training
    batch_size: int = 8  # examples a step
    row_tokens: int = 1024  # longest example; several short ones share a row
    learning_rate: float = 0.0  # peak; 0: by method and width (RATES)
    weight_decay: float = 0.0
    warmup: float = 0.05  # share of the steps; the rate falls over the rest
    code_weight: float = 1.0  # of a picture code in the loss
    rank: int = 16  # of adapters
    alpha: float = 32.0  # an adapter's product counts alpha / rank
    dropout: float = 0.0  # of what adapters see, in training
    targets: tuple[str, ...] = ATTENTION + FEED_FORWARD  # layers that are adapted; embed_tokens may be one
    bits: Form = "nf4"  # how qlora keeps the base: nf4 or int4
    group: int = 64  # weights that share a scale
    senses: Literal["", "draw"] = ""  # what the model is to learn anew; draw needs `codec`
    codec: str = ""  # folder or shipped model whose image codec is taken
    held_out: float = 0.1  # share of the examples that is kept for measuring
    answers: int = 16  # held-out prompts answered before and after
    max_tokens: int = 128  # of such an answer
    seed: int = 0
    device: str = "auto"
    save_every_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "row_tokens", "max_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")
        for name in ("steps", "minutes", "learning_rate", "weight_decay", "answers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and not negative")
        if self.steps and self.minutes:
            raise ValueError(f"steps={self.steps} and minutes={self.minutes}: give one of them")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be at least 0 and below 1")
        if bool(self.senses) != bool(self.codec):
            raise ValueError("senses=draw and codec=FOLDER go together")
        if self.method == "rows" and not self.senses:
            raise ValueError("method=rows trains the rows that senses=draw adds, and there are none")
        if self.senses and self.method != "full" and self.weight_decay:
            raise ValueError(f"weight_decay={self.weight_decay} would change the old rows; it must be 0 with senses")
        if self.senses and "embed_tokens" in self.targets:
            raise ValueError("targets: embed_tokens cannot be adapted while senses=draw trains its new rows")
        self.lora()

    def lora(self) -> LoraConfig:
        """The adapters' settings."""
        return LoraConfig(rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=self.targets)


def run_finetune(config: FinetuneConfig, say: Callable[[str], None] = print) -> dict[str, Any] | None:
    """Fine-tune; gives the report that `report.json` holds, or None where Ctrl-C ended it early (saved)."""
    run = Finetune(config, say)
    before = run.notes.once("before", run.measure)
    if not run.train():
        return None
    after = run.measure()
    report = {
        "method": config.method,
        "trained": run.num_trained,
        "base_bytes": run.base_bytes,
        "seconds": round(sum(row["step_s"] for row in read_metrics(run.stage / "metrics.jsonl")), 1),
        "before": before,
        "after": after,
        "files": run.save(),
    }
    save_json(run.folder / "report.json", report)
    for line in told(before, after):
        say(line)
    say(f"saved in {run.folder / 'model'}" if run.is_whole else run.adapter_told())
    return report


class Finetune:
    """One run: its folder, its examples and the model in the form in which it is trained."""

    def __init__(self, config: FinetuneConfig, say: Callable[[str], None] = print) -> None:
        self.config, self.say, self.folder = config, say, Path(config.out)
        self.stage = self.folder / "tune"
        self.device = pick_device(config.device)
        prepare_cpu()
        self.is_whole = config.method == "full" or bool(config.senses)  # what is kept is a model, not an adapter
        model, is_new_V = self._load()
        self.makes_vectors = isinstance(model.renderer, EmbeddingRenderer)
        pack = packed_pairs if self.makes_vectors else packed
        self.examples = self._read(model)
        indices = list(range(len(self.examples)))
        random.Random(f"{config.seed}/held out").shuffle(indices)
        num_held = min(len(indices) - 1, math.ceil(config.held_out * len(indices)))
        self.held_out = HeldOut(self.examples, sorted(indices[:num_held]), pack)
        self.loader = EpochLoader(
            self.examples, sorted(indices[num_held:]), batch_size=config.batch_size, seed=config.seed, pack=pack
        )
        self.model = self._prepare(model, is_new_V)
        self.folder.mkdir(parents=True, exist_ok=True)  # from here on the folder is bound to these settings
        keep_settings(self.folder, config)
        self.notes = Notes(self.folder / "plan.json")
        if self.notes.once("examples", lambda: self.examples.digest) != self.examples.digest:
            raise ValueError(f"{self.notes.path}: the examples have changed since this run was begun")
        self.say(self._told(num_held))

    def _load(self) -> tuple[Model, torch.Tensor | None]:
        """The model, with the senses asked for, and the ids that they add."""
        is_light = self.device.startswith("cuda") and not self.is_whole  # weights that stay as they are
        model = load(self.config.model, device="cpu", precision="bfloat16" if is_light else "float32")
        if packing_of(model.decoder) is not None:
            raise ValueError(
                f"model={self.config.model!r}: packed weights cannot be trained; start from the whole ones"
            )
        if not self.config.senses:
            return model, None
        places = (Path(self.config.codec), SHIPPED / self.config.codec)
        folder = next((at for at in places if (at / "codec.safetensors").is_file()), None)
        if folder is None:
            raise ValueError(f"codec={self.config.codec!r}: neither a folder with an image codec nor a shipped model")
        return add_drawing(model, ImageCodec.load(folder), self.config.seed)

    def _read(self, model: Model) -> OwnExamples:
        """All examples, checked."""
        row_tokens = min(self.config.row_tokens, model.decoder.config.text.max_position_embeddings)
        line, renderer = LiveLine("examples", 1.0), model.renderer
        render: Any = lambda example: renderer.encode(example.messages)  # noqa: E731
        examples = OwnExamples(
            self.config.examples,
            renders_pairs(renderer) if isinstance(renderer, EmbeddingRenderer) else render,
            row_tokens=row_tokens,
            progress=lambda share: line.update(share, "checking"),
        )
        line.close(f"{len(examples)} checked, {sum(examples.lengths):,} tokens")
        return examples

    def _prepare(self, model: Model, is_new_V: torch.Tensor | None) -> Model:
        """The model on its device, with what is trained trainable and the rest frozen."""
        config, decoder = self.config, model.decoder
        self.whole_bytes = weight_bytes(decoder)
        if config.method == "qlora":
            quantise_linears(decoder, config.bits, config.group)
        self.base_bytes = weight_bytes(decoder)
        if config.method in ("lora", "qlora"):
            add_adapters(decoder, config.lora(), config.seed)
        else:
            decoder.requires_grad_(config.method == "full")
        decoder.to(self.device)
        self._check_memory(decoder)
        if model.codec is not None:
            model.codec.to(self.device)
        self.num_trained = count_parameters(p for p in decoder.parameters() if p.requires_grad)
        if is_new_V is not None and config.method != "full":
            train_rows(decoder, is_new_V)
            self.num_trained += int(is_new_V.sum()) * decoder.config.text.hidden_size
        return model

    def _check_memory(self, decoder: torch.nn.Module) -> None:
        """ValueError where gradients and AdamW's two means of what is trained are more than the memory that is free."""
        needed = 3 * sum(parameter.nbytes for parameter in decoder.parameters() if parameter.requires_grad)
        available = available_bytes(self.device)
        if available is not None and needed > available:
            hint = "; method=lora trains fewer numbers" if self.config.method == "full" else ""
            raise ValueError(
                f"method={self.config.method}: gradients and optimizer need {needed / 1e9:,.1f} GB beside the weights, "
                f"{available / 1e9:,.1f} GB are free on {self.device}{hint}"
            )

    def _told(self, num_held: int) -> str:
        base = f"{self.base_bytes / 1e6:.1f} MB of weights"
        if self.base_bytes < self.whole_bytes:
            base += f" ({self.whole_bytes / 1e6:.1f} MB before {self.config.bits})"
        return (
            f"{self.config.method}: {self.num_trained:,} numbers are trained beside {base}; "
            f"{len(self.loader.chosen)} examples to learn from, {num_held} held out; "
            f"learning rate {self.learning_rate:.1e}"
        )

    @property
    def learning_rate(self) -> float:
        """The peak rate."""
        return self.config.learning_rate or RATES[self.config.method] / self.model.decoder.config.text.hidden_size

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """What products are taken in while training."""
        return "bfloat16" if best_precision(self.device) == "bfloat16" else "float32"

    def loss(self) -> LossFunction:
        """The loss of a batch: the model's turns alone; of a model of vectors, each query among the batch's targets."""
        model = self.model
        if self.makes_vectors:
            return pair_loss(model.decoder)
        first_code = model.decoder.config.text.vocab_size  # without a codec, no codes
        if model.codec is not None:
            first_code = model.renderer.space.first_code
        return next_token(model.decoder, first_code, self.config.code_weight)

    def fit_config(self, num_steps: int) -> FitConfig:
        """How the loop goes."""
        rate = self.learning_rate
        return FitConfig(
            num_steps=num_steps,
            optim=OptimConfig(
                name="adamw",
                learning_rate=rate,
                other_learning_rate=rate,
                weight_decay=self.config.weight_decay,
                beta2=0.99,
            ),
            warmup=self.config.warmup,
            decay=1.0,
            precision=self.precision,
            save_every_s=self.config.save_every_s,
        )

    def num_steps(self) -> int:
        """Steps of the run: as given, as many as fit the minutes, or what the epochs come to."""
        config = self.config
        if config.minutes:
            return max(1, round(60 * config.minutes / self.notes.once("step_s", self._step_s)))
        return config.steps or max(1, round(config.epochs * self.loader.num_batches))

    def _step_s(self) -> float:
        config = self.fit_config(10_000)
        return seconds_per_step(self.model.decoder, self.loss(), self.loader.batches, config, num_measured=8)

    def train(self) -> bool:
        """Train to the end; False where Ctrl-C ended it early."""
        steps = self.num_steps()
        torch.manual_seed(self.config.seed)  # of dropout; a resumed run takes up the saved state
        result = fit(
            self.model.decoder,
            self.loss(),
            self.loader.batches,
            self.fit_config(steps),
            self.stage,
            title=self.config.method,
        )
        self.model.decoder.eval()
        return result.finished and not result.interrupted

    def measure(self) -> dict[str, Any]:
        """Loss and answers on the held-out examples; empty where there are none."""
        self.model.decoder.eval()
        found = self.held_out.loss(self.loss(), self.device, self.precision)
        if self.makes_vectors:
            return found
        return found | self.held_out.answers(self.model, self.config.answers, self.config.max_tokens)

    def adapter_told(self) -> str:
        """How to use what was saved."""
        model, adapter = self.config.model, self.folder / "adapter"
        verb = "embed" if self.makes_vectors else "chat"
        return f"adapter saved: castor {verb} --model {model} --adapter {adapter}"

    def save(self) -> dict[str, int]:
        """Write the adapter, or the whole model; gives the bytes of what was written, by name."""
        folder = self.folder / ("model" if self.is_whole else "adapter")
        if self.is_whole:
            merge_adapters(self.model.decoder)
            config = self.config
            names = {"out": "", "model": Path(config.model).name, "codec": Path(config.codec).name}
            names["examples"] = [Path(path).name for path in config.examples]  # no paths of this machine
            self.model.card = self.model.card | {"finetune": to_dict(config) | names}
            self.model.save(folder)
        else:
            save_adapter(self.model.decoder, folder, self.config.lora(), self.config.model)
        return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
