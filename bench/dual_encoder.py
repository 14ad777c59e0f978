"""A dual encoder in the manner of CLIP at equal compute: the same pairs, minutes and cores as `castor train embed`.

    python bench/dual_encoder.py --minutes 15 --tokenizer castor/weights/atom --out /tmp/dual.json

Two towers that share nothing but the space (Radford et al. 2021; the layout is open_clip's): pictures through the same
convolutions in front of a transformer, texts through a transformer of their own, sounds through a third; each as wide
and as deep as `atom`, so that together they are about three times as large. The symmetric in-batch loss with a learned
temperature, AdamW with weight decay, our rates and sizes of batches, data made by a process beside, one thread a core.
It starts from nothing, as CLIP does; `--pretrained-minutes` adds the minutes that our model had before. Films and
composed queries are left out: there is no tower for them. Every pool is scored by `castor.evals.retrieval`, so that
figures stand beside those of `castor eval`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from castor.content import Audio, Image, Message, Text
from castor.data.loader import LoaderConfig
from castor.data.pairs import PairLoader
from castor.data.real import RealData
from castor.engine.model import find_folder, load
from castor.evals.retrieval import Pool, report_of
from castor.example import Pair
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.extend import with_embedding_head
from castor.recipes.pairs import RenderPair, pair_sources, pair_tasks
from castor.recipes.real import real_data
from castor.recipes.retrieval import real_pools, world_pools
from castor.runtime import best_precision, hardware, prepare_cpu
from castor.tokens.pack import collate
from castor.tokens.pairs import Rendered
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence
from castor.train.optim import count_parameters

TOWERS = {Text: "text", Image: "image", Audio: "audio"}
WITHOUT_TOWERS = ("composed", "video_text", "text_video", "concepts/film_name")
DIM = 256


class DualEncoder(nn.Module):
    """One transformer a medium, each with its own head into one space."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.towers = nn.ModuleDict()
        for number, name in enumerate(TOWERS.values()):
            vision, audio = (config.vision if name == "image" else None), (config.audio if name == "audio" else None)
            tower = Decoder(dataclasses.replace(config, vision=vision, audio=audio)).init_weights(seed + number)
            self.towers[name] = with_embedding_head(tower, DIM, seed + number)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def vectors(self, medium: str, sequences: list[Sequence]) -> torch.Tensor:
        """float32 [N, DIM], of length 1, in the order given: padded, as a dual encoder's batches are."""
        batch = collate([[sequence] for sequence in sequences], max(map(len, sequences)))
        tower = self.towers[medium]
        assert isinstance(tower, Decoder)
        return tower.vectors(batch)

    def loss(self, query_NE: torch.Tensor, target_NE: torch.Tensor) -> torch.Tensor:
        """The symmetric cross-entropy over the batch."""
        logits_NN = self.log_scale.exp().clamp(max=100) * query_NE @ target_NE.T
        own_N = torch.arange(len(logits_NN))
        return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2


def medium_of(message: Message) -> str | None:
    """The tower of a message; None where it has several parts, or a film."""
    kinds = {type(part) for part in message.parts}
    return TOWERS.get(next(iter(kinds))) if len(message.parts) == 1 else None


@dataclasses.dataclass(frozen=True)
class TowerPair:
    """A rendered pair and the towers of its sides."""

    rendered: Rendered
    kind: tuple[str, str]

    @property
    def sequences(self) -> list[Sequence]:
        """Both sides."""
        return self.rendered.sequences

    def __len__(self) -> int:
        return len(self.rendered)


@dataclasses.dataclass(frozen=True)
class WithTowers:
    """A source's pairs, those with a film or several parts passed over."""

    source: Any

    def pair(self, rng: random.Random) -> Pair:
        """The first pair of a hundred that two towers can take."""
        for _ in range(100):
            pair = self.source.pair(rng)
            if medium_of(pair.query) and medium_of(pair.target):
                return pair
        raise ValueError("no pair here is for two towers")


@dataclasses.dataclass
class RenderTowers:
    """Pair -> sequences and towers."""

    render: RenderPair

    def __call__(self, pair: Pair, rng: random.Random) -> TowerPair:
        return TowerPair(self.render(pair, rng), (str(medium_of(pair.query)), str(medium_of(pair.target))))


@dataclasses.dataclass(frozen=True)
class Step:
    """The pairs of a step."""

    pairs: list[TowerPair]

    @property
    def chunks(self) -> list[Any]:
        """What the loader counts; towers pad their own rows."""
        return [self.pairs]


def all_different(found: list[TowerPair], **_: object) -> Step:
    """The pairs of a step, one of each meaning: this loss takes every other target for wrong."""
    return Step(list({pair.rendered.target_key: pair for pair in found}.values()))


def batches_of(
    sources: dict[str, Any], render: RenderPair, batch_scale: float, seed: int = 0
) -> Generator[list[TowerPair]]:
    """Steps of one task each at our rates of fine-tuning, made in a process beside the training."""
    tasks = pair_tasks(sources, fine=True, generation=0.0, batch_scale=batch_scale)
    tasks = {name: task for name, task in tasks.items() if name not in WITHOUT_TOWERS}
    config = LoaderConfig(num_rows=1, row_tokens=1024, num_batches=10**6, seed=seed, num_workers=1)
    towered = {name: WithTowers(sources[name]) for name in tasks}
    loader = PairLoader(config, towered, tasks, RenderTowers(render), all_different)
    return (loaded.batch.pairs for loaded in loader.batches())


def train(
    model: DualEncoder, sources: dict[str, Any], render: RenderPair, minutes: float, batch_scale: float, rate: float
) -> int:
    """Steps until the minutes are over; gives how many there were. Waiting for the first batch does not count."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, betas=(0.9, 0.98))
    stream = batches_of(sources, render, batch_scale)
    pairs, step, share, start_s = next(stream), 0, 0.0, time.monotonic()
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        losses = []
        for kind in sorted({pair.kind for pair in pairs}):
            own = [pair.rendered for pair in pairs if pair.kind == kind]
            if len(own) < 2:
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=best_precision("cpu") == "bfloat16"):
                query_NE = model.vectors(kind[0], [one.query for one in own])
                target_NE = model.vectors(kind[1], [one.target for one in own])
            losses.append(model.loss(query_NE.float(), target_NE.float()) * len(own) / len(pairs))
            losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        share = (time.monotonic() - start_s) / (60 * minutes)
        if step % 25 == 0 or share >= 1:
            loss = sum(float(loss.detach()) for loss in losses)
            print(f"step {step}  {100 * share:.0f} %  {pairs[0].kind}  loss {loss:.3f}", flush=True)
        pairs = next(stream)
    stream.close()
    return step


@torch.inference_mode()
def pool_vectors(model: DualEncoder, render: RenderPair, messages: list[Message]) -> np.ndarray:
    """Vectors of one side of a pool, 64 at a time."""
    found: list[tuple[int, torch.Tensor]] = []
    for first in range(0, len(messages), 64):
        part = messages[first : first + 64]
        for medium in sorted({str(medium_of(message)) for message in part}):
            at = [number for number, message in enumerate(part) if medium_of(message) == medium]
            made = model.vectors(medium, [render.renderer.encode_task([part[number]]) for number in at])
            found += zip([first + number for number in at], made, strict=True)
    return torch.stack([vector_E for _, vector_E in sorted(found, key=lambda item: item[0])]).float().numpy()


def score(model: DualEncoder, render: RenderPair, pools: dict[str, list[Pair]]) -> Any:
    """The pools that two towers can take, in a report of ours."""
    made = []
    for name, pairs in pools.items():
        if any(medium_of(message) is None for pair in pairs for message in (pair.query, pair.target)):
            continue
        keys = np.array([pair.target_key for pair in pairs])
        sides = [pool_vectors(model, render, [getattr(pair, side) for pair in pairs]) for side in ("query", "target")]
        made.append(Pool(name, sides[0], sides[1], keys[:, None] == keys[None]))
    return report_of(made, (DIM,), {"hardware": hardware()})


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--pretrained-minutes", type=float, default=0.0, help="minutes our model was trained before")
    parser.add_argument("--tokenizer", default="atom", help="model whose tokenizer and size are taken")
    parser.add_argument("--batch-scale", type=float, default=1.0, help="on the pairs of a step, which are ours")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=1000, help="pairs of a pool")
    parser.add_argument("--data", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="dual_encoder.json")
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    base = load(find_folder(arguments.tokenizer), device="cpu")
    assert isinstance(base.renderer, Renderer)
    model = DualEncoder(base.decoder.config, seed=0)
    render = RenderPair(base.renderer, 0.0, hard_negatives=False)
    data: RealData = real_data(arguments.data)
    print(f"{count_parameters(model.parameters()):,} parameters; {hardware()}")
    minutes = arguments.minutes + arguments.pretrained_minutes
    steps = train(model, pair_sources(0, data), render, minutes, arguments.batch_scale, arguments.rate)
    model.eval()
    report = score(model, render, world_pools(arguments.limit, 0) | real_pools(data, arguments.limit))
    print(report.to_markdown())
    settings = {"minutes": minutes, "steps": steps, "parameters": count_parameters(model.parameters())}
    Path(arguments.out).write_text(json.dumps(settings | json.loads(report.dumps()), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
