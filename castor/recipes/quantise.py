"""A model packed into 4 or 8 bits and written to a folder: rounded to the nearest, or by what examples show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from castor.data.epochs import packed
from castor.data.own import OwnExamples
from castor.diorama.speech import speech_available
from castor.diorama.spoken import NEEDS_SPEECH
from castor.diorama.world import World
from castor.engine.model import Model, find_folder
from castor.log import LiveLine
from castor.models.calibrate import pack_calibrated
from castor.models.packing import PackConfig, pack_decoder
from castor.recipes.curriculum import WORLD_WEIGHTS
from castor.tokens.batch import Batch
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.sequence import Sequence as Tokens

METHODS = ("nearest", "gptq")
TEXT_TASKS = ("translation", "arithmetic", "reasoning")  # that any model reads
ROW_TOKENS, BATCH_SIZE = 1024, 16


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig:
    """How a model is packed."""

    bits: int = 4
    table_bits: int = 0  # of embedding tables; 0: as `bits`
    method: str = "gptq"
    examples: tuple[str, ...] = ()  # files of your own to calibrate with; without them, the small world
    count: int = 256  # examples to calibrate with
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is not one of {', '.join(METHODS)}")
        if self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")

    def packing(self) -> PackConfig:
        """The form of the weights."""
        return PackConfig(bits=self.bits, table_bits=self.table_bits or self.bits)


def quantise(name: str, out: str | Path, config: QuantiseConfig, say: Callable[[str], None] = print) -> Path:
    """Pack the model of that name or folder, and write it to `out`; ValueError before any work for what is wrong."""
    folder, out = find_folder(name), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already")
    packing = config.packing()
    model = Model.load(folder)
    pack_model(model, packing, calibration(model, config) if config.method == "gptq" else None)
    card = {"bits": packing.bits, "table_bits": packing.table_bits, "method": config.method, "from": Path(name).name}
    model.card = model.card | {"quantised": card}
    model.save(out)
    size, was = (_num_bytes(at) for at in (out, folder))
    say(f"{was / 1e6:,.1f} MB of weights before, {size / 1e6:,.1f} MB now")
    return out


def pack_model(model: Model, packing: PackConfig, batches: Sequence[Batch] | None) -> None:
    """Pack a loaded model in place; `batches` None: to the nearest."""
    if batches is None:
        pack_decoder(model.decoder, packing)
        return
    line = LiveLine("quantise", 1.0)
    pack_calibrated(model.decoder, packing, batches, lambda done, total: line.update(done / total, f"layer {done}"))
    line.close(f"{sum(batch.num_tokens for batch in batches):,} tokens seen")


def calibration(model: Model, config: QuantiseConfig) -> list[Batch]:
    """Examples as batches."""
    if config.examples:
        row_tokens = min(ROW_TOKENS, model.decoder.config.text.max_position_embeddings)
        own = OwnExamples(
            config.examples, lambda example: model.renderer.encode(example.messages), row_tokens=row_tokens
        )
        sequences = [own.sequence(index) for index in range(min(len(own), config.count))]
    else:
        sequences = world_sequences(model, config.count, config.seed, split="train")
    longest = max(len(sequence) for sequence in sequences)
    groups = (sequences[at : at + BATCH_SIZE] for at in range(0, len(sequences), BATCH_SIZE))
    return [packed(group, max(ROW_TOKENS, longest)) for group in groups]


def world_sequences(model: Model, count: int, seed: int, *, split: str) -> list[Tokens]:
    """Examples of every task of the small world that the model can read, in turn."""
    speech = speech_available()
    names: Iterator[str] | list[str] = [name for name in WORLD_WEIGHTS if speech or name not in NEEDS_SPEECH]
    if isinstance(model.renderer, GemmaRenderer):
        names = list(TEXT_TASKS)
    world = World(seed=seed, split=split, speech=speech)
    names = list(names)
    chosen = [world.example(names[index % len(names)], index // len(names)) for index in range(count)]
    return [model.renderer.encode(example.messages) for example in chosen]


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
