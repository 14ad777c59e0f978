"""The settings of an embedding run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from castor.train.contrastive import ContrastiveConfig
from castor.train.optim import OptimConfig

STAGES = ("pre", "fine", "write")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How a model learns to make vectors. `castor train embed model=FOLDER` needs no more."""

    model: str = "atom"  # a shipped model, or a model's folder
    out: str = "runs/embed"
    minutes: float = 15.0  # of training, both stages together
    steps: int = 0  # of both stages together, instead of minutes
    seed: int = 0
    data: str = ""  # folder of real data; empty: the variable CASTOR_DATA, or Diorama alone
    tasks: tuple[str, ...] = ()  # kinds of pairs that are learned (`pairs.py`); empty: all that can be made here
    pre_share: float = 0.3  # of the run in pre-fine-tuning; 0 leaves it out
    generation: float = 0.0  # share of the steps that go on writing
    write_share: float = 0.0  # of the run, at its end, in writing alone
    adapters: int = 0  # rank of changes that hold only where vectors are made, all else frozen; 0: every weight learns
    start: str = ""  # a model of the same shape whose vectors are gone on from: its head, and its adapters; empty: none
    stems: bool = True  # whether adapters of what turns media into tokens learn; a third of a step's time on pictures
    last_layers: int = 0  # so many last layers and the head learn, all else is frozen; 0: every weight learns
    task_strings: float = 0.5  # share of the pairs of texts that carry the words of their task
    hard_negatives: Literal["made", "mined", "none"] = "made"  # mined: also those of real pairs, before fine-tuning
    mine_rank: int = 4  # the neighbour that a mined negative is
    filter: bool = False  # leave out real and synthetic pairs whose target is not near, before fine-tuning
    synthetic: int = 0  # answers of the model's own, of each kind, that become pairs (`synthetic.py`)
    soup: int = 1  # states of the last quarter of fine-tuning that are averaged; 1: the last one alone
    batch_scale: float = 1.0  # on the pairs of every task's step
    mixed_tasks: bool = False  # pairs of all tasks in every step, instead of one task's
    teacher: str = ""  # a model of the same layout whose similarities are learned beside the pairs; empty: none
    teaching: float = 1.0  # weight of that part of the loss
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=3e-3, other_learning_rate=1.5e-3))
    warmup: float = 0.05
    code_weight: float = 0.5  # of a picture code in the loss of writing
    num_rows: int = 8  # of a chunk
    row_tokens: int = 256  # the longest film with its sound fits
    device: str = "auto"
    num_workers: int = 1  # that make batches, for each training process
    processes: int = 0  # 0: on a CPU as many as its cores, up to 4
    compile: bool = True
    save_every_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("minutes", "batch_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("pre_share", "generation", "write_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        for name in ("soup", "mine_rank", "num_rows", "row_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("steps", "processes", "num_workers", "adapters", "last_layers", "teaching", "synthetic"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.pre_share + self.write_share >= 1:
            raise ValueError(f"pre_share={self.pre_share} and write_share={self.write_share} leave no fine-tuning")
        if self.write_share and self.soup > 1:
            raise ValueError(f"soup={self.soup} averages states of fine-tuning, which write_share would change further")
        if self.adapters and (self.writes or self.last_layers):
            raise ValueError(f"adapters={self.adapters}: what writes is frozen; leave out generation and last_layers")

    @property
    def writes(self) -> bool:
        """Whether any step is of writing."""
        return bool(self.generation or self.write_share)

    def stretch(self, stage: str) -> tuple[float, float]:
        """Where a stage begins and ends, as shares of the run."""
        ends = {"pre": (0.0, self.pre_share), "write": (1.0 - self.write_share, 1.0)}
        return ends.get(stage, (self.pre_share, 1.0 - self.write_share))
