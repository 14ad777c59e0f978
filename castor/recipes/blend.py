"""Several models of one shape as one: the weighted mean of their weights.

A model that went on learning something new, and the one that it came from, have a mean that keeps most of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from castor.engine.model import Model, find_folder, load
from castor.models.codec import ImageCodec
from castor.train.soup import average


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Which models, and how much of each."""

    models: tuple[str, ...] = ()  # by name or folder; tokenizer, codec and card are the last one's
    weights: tuple[float, ...] = ()  # one each; none: equal ones
    out: str = "runs/blend"

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.models):
            raise ValueError(f"weights={self.weights!r}: {len(self.models)} models need as many")


def run_blend(config: BlendConfig) -> Model:
    """Average the models and save the result below `out`; ValueError where they differ in more than their weights."""
    if len(config.models) < 2:
        raise ValueError("models= names fewer than two; give them as models=FIRST,SECOND")
    folders, out = [find_folder(name) for name in config.models], Path(config.out) / "model"
    if out.exists():
        raise ValueError(f"{out}: is there already")
    models = [load(folder, device="cpu") for folder in folders]
    last, shares = models[-1], list(config.weights) or [1.0] * len(models)
    for folder, model in zip(folders, models, strict=True):
        if model.tokenizer.model != last.tokenizer.model or not _same(model.codec, last.codec):
            raise ValueError(f"{folder}: its tokenizer or codec is another than that of {folders[-1]}")
    last.decoder.load_state_dict(average([model.decoder.state_dict() for model in models], shares))
    parts = [{"share": share / sum(shares), "card": model.card} for share, model in zip(shares, models, strict=True)]
    sources = {name for model in models for name in model.card.get("sources", ())}
    last.card = {"blend": parts, "sources": sorted(sources)}
    last.save(out)
    print(f"model saved in {out}")
    return last


def _same(first: ImageCodec | None, second: ImageCodec | None) -> bool:
    if first is None or second is None:
        return first is second
    states = first.state_dict(), second.state_dict()
    return first.config == second.config and all(torch.equal(states[0][name], states[1][name]) for name in states[1])
