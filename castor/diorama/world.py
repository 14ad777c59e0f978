"""The world: every task by name, and one call that makes any example of any of them.

Each module of this package may have a dict `TASKS` of makers; they are gathered here at the first use, so
that a task is added by writing a module and nothing else.
"""

import dataclasses
import importlib
import pkgutil
from functools import cache

from castor.diorama.draw import LANGUAGES, SPLITS, Maker, draw_for
from castor.diorama.render import DRAWING_PX
from castor.example import Example


@cache
def all_tasks() -> dict[str, Maker]:
    """Every task of the world: name -> maker, sorted by name."""
    package = importlib.import_module("castor.diorama")
    found: dict[str, Maker] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        if module_info.name == "world":
            continue
        module = importlib.import_module(f"castor.diorama.{module_info.name}")
        for name, maker in getattr(module, "TASKS", {}).items():
            if name in found and found[name] is not maker:
                raise ValueError(f"two modules make the task {name!r}; the second is {module.__name__}")
            found[name] = maker
    return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class World:
    """Examples as a pure function of (seed, split, task, index)."""

    seed: int = 0
    split: str = "train"
    languages: tuple[str, ...] = LANGUAGES
    speech: bool = True
    drawing_px: int = DRAWING_PX  # side of a drawing, a multiple of 3 so that its places are alike

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {self.split!r}")
        if not 24 <= self.drawing_px <= 256 or self.drawing_px % 3:
            raise ValueError(f"drawing_px={self.drawing_px} must be a multiple of 3 from 24 to 255")
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown or not self.languages:
            raise ValueError(f"languages must be some of {LANGUAGES}, got {self.languages!r}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(all_tasks())

    def example(self, task: str, index: int) -> Example:
        """Example number `index` of a task; an unknown task name raises ValueError."""
        if task not in all_tasks():
            raise ValueError(f"no task {task!r}; there are {', '.join(all_tasks())}")
        draw = draw_for(self.seed, self.split, task, index, self.languages, self.speech, self.drawing_px)
        return all_tasks()[task](draw)
