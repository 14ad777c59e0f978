"""Recipes: functions that return a full config; each docstring says command, hardware, time and what it reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from castor.config import override
from castor.recipes.blend import BlendConfig, run_blend
from castor.recipes.embedding import EmbedConfig, run_embedding
from castor.recipes.finetune import FinetuneConfig, run_finetune
from castor.recipes.pipeline import RunConfig, run_pipeline
from castor.recipes.plots import plot_run


def atom() -> RunConfig:
    """The shipped size: 4.3M parameters, an hour on two CPU cores (`castor train atom`)."""
    return RunConfig(minutes=60.0, out="runs/atom")


def micro() -> RunConfig:
    """The next size up, 50M parameters, for a GPU or a long night (`castor train micro minutes=600`)."""
    return RunConfig(size="micro", minutes=600.0, num_rows=16, out="runs/micro")


def finetuned() -> FinetuneConfig:
    """A model learns from your own examples, in minutes (`castor train finetune examples=mine.jsonl method=lora`)."""
    return FinetuneConfig()


def embedding() -> EmbedConfig:
    """A model that writes learns to make vectors, 15 minutes on two CPU cores (`castor train embed model=FOLDER`)."""
    return EmbedConfig()


def blended() -> BlendConfig:
    """The weighted mean of models of one shape, in seconds (`castor train blend models=atom,DIR weights=0.2,0.8`)."""
    return BlendConfig()


Config = RunConfig | FinetuneConfig | EmbedConfig | BlendConfig
RECIPES: dict[str, Callable[[], Config]] = {
    "atom": atom,
    "micro": micro,
    "finetune": finetuned,
    "embed": embedding,
    "blend": blended,
}


def run(name: str, overrides: Sequence[str] = ()) -> bool:
    """Train a recipe by name with key=value settings; False where Ctrl-C ended it early.

    ValueError names the nearest key or the recipes there are.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    config = override(RECIPES[name](), overrides)
    if isinstance(config, BlendConfig):
        run_blend(config)
        return True
    if isinstance(config, EmbedConfig):
        result: object = run_embedding(config)
    else:
        result = run_finetune(config) if isinstance(config, FinetuneConfig) else run_pipeline(config)
    for path in plot_run(config.out):
        print(path)
    return result is not None
