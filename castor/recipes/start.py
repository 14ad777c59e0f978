"""A run that begins with a model instead of nothing: its tokenizer, codec and weights become the run's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, write_atomically
from castor.config import to_dict
from castor.engine.model import load
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model
from castor.models.packing import packing_of
from castor.tokens.render import Renderer

FOLDER = "start"


def take_start(name: str, folder: Path, **settings: Any) -> None:
    """Copy the model called `name` to `folder`/start once, and its tokenizer and codec to where a run has its own.

    `settings` are the run's `codec` and `renderer`: ValueError names what differs, for what a model has learned to
    read and write is not changed by the way.
    """
    if (folder / FOLDER / "castor.json").exists():  # written last
        return
    model = load(name, device="cpu")
    if not isinstance(model.renderer, Renderer) or model.codec is None or packing_of(model.decoder) is not None:
        raise ValueError(f"start={name!r}: a run goes on from whole weights that such a run has made")
    for part, has in (("codec", model.codec.config), ("renderer", model.renderer.config)):
        if changed := _changed(has, settings[part]):
            raise ValueError(f"start={name!r}: its {part}.{changed} is other than this run's; give {part}.{changed}=…")
    write_atomically(folder / model.tokenizer.FILE, model.tokenizer.model)
    model.codec.save(folder)
    model.save(folder / FOLDER, precision="float32")


def started_decoder(folder: Path, config: ModelConfig) -> Decoder | None:
    """The copied model's decoder, or None for a run that begins with nothing; `config` is what the run expects."""
    if not (folder / FOLDER).exists():
        return None
    decoder = load_model(folder / FOLDER, dtype=None)
    if changed := _changed(decoder.config, config):
        raise ValueError(f"{folder / FOLDER}: {changed} is other than this run's size makes it")
    return decoder


def start_card(folder: Path) -> dict[str, Any]:
    """What the copied model's card says, for the card of the one that it becomes."""
    path = folder / FOLDER / "castor.json"
    return {"start": load_json(path)["card"]} if path.exists() else {}


def _changed(has: Any, wanted: Any) -> str | None:
    """The first setting that differs."""
    before, now = to_dict(has), to_dict(wanted)
    return next((field.name for field in dataclasses.fields(has) if before[field.name] != now[field.name]), None)
