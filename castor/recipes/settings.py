"""What a run's folder keeps of how the run was begun: its settings, and what was measured once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, save_json
from castor.config import to_dict


def keep_settings(folder: Path, config: Any, free: tuple[str, ...] = ("out", "save_every_s")) -> None:
    """Write `config.json`, or hold the run to the one that is there; the `free` settings may change."""
    path, now = folder / "config.json", to_dict(config)
    if path.exists():
        before = load_json(path)
        changed = [key for key in now if before.get(key) != now[key] and key not in free]
        if changed:
            raise ValueError(
                f"{path}: this run was begun with {changed[0]}={before.get(changed[0])!r}, not "
                f"{now[changed[0]]!r}; give the same settings to go on, or another out= folder"
            )
    save_json(path, now)


class Notes:
    """`plan.json`: values found once and kept for good, so that a resumed run agrees with itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = load_json(path) if path.exists() else {}

    def once(self, key: str, find: Callable[[], Any]) -> Any:
        """The value noted under `key`; found and noted where there is none."""
        if key not in self.values:
            self.values[key] = find()
            save_json(self.path, self.values)
        return self.values[key]
