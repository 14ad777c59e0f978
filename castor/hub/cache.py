"""The Hub's cache on this machine, read without its library: models--ORG--NAME/{refs,snapshots,blobs}."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where pulled models lie: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    home = environment.get("HF_HOME")
    if not home:
        home = os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def model_folder(name: str, cache: Path | None = None) -> Path:
    """Where the cache keeps a model; ValueError where `name` is not ORG/NAME."""
    if not NAME.fullmatch(name) or ".." in name or name.endswith((".", "-", "/")):
        raise ValueError(f"{name!r} is not the name of a model on the Hub; such a name is ORG/NAME")
    return (cache or cache_folder()) / f"models--{name.replace('/', '--')}"


def find_pulled(name: str, revision: str = "main", cache: Path | None = None) -> Path | None:
    """The folder of a pulled model, or None: the snapshot of a branch, tag or commit that has a config.json."""
    try:
        folder = model_folder(name, cache)
    except ValueError:
        return None
    reference = folder / "refs" / revision
    commit = revision
    if not COMMIT.fullmatch(revision):
        if not reference.resolve().is_relative_to((folder / "refs").resolve()) or not reference.is_file():
            return None
        commit = reference.read_text(encoding="ascii", errors="replace").strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if COMMIT.fullmatch(commit) and (snapshot / "config.json").is_file() else None
