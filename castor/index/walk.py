"""The files below a folder. Hidden files, folders that programs fill, links and the index itself are passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

FILLED_BY_PROGRAMS = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file that is there; `problem` says why it cannot even be looked at."""

    path: str
    size_bytes: int = 0
    modified_ns: int = 0
    problem: str | None = None


def root_of(folder: str | Path) -> str:
    """A folder as the absolute path by which it is known; ValueError unless it is one."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"{folder}: {'not a folder' if path.exists() else 'no such folder'}")
    found = str(path.resolve())
    if found != _shown(found):
        raise ValueError(f"{_shown(found)}: its name is not UTF-8")
    return found


def walk(root: str, *, index: Path | None = None, exclude: Sequence[str] = ()) -> Iterator[Found]:
    """Every file below `root` by sorted path. `exclude` are patterns of names or of paths below the root.

    A folder that may not be entered is one `Found` with a problem.
    """
    folders, passed_over = [root], _identity(index)
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Found(path=_shown(folder), problem=error.strerror or str(error))
            continue
        below = []
        for entry in entries:
            if _is_passed_over(entry, root, exclude):
                continue
            if entry.is_dir(follow_symlinks=False):
                if passed_over is None or _identity(entry.path) != passed_over:
                    below.append(entry.path)
            else:
                found = _found(entry)
                if found is not None:
                    yield found
        folders += reversed(below)


def _is_passed_over(entry: os.DirEntry[str], root: str, exclude: Sequence[str]) -> bool:
    if entry.name.startswith(".") or entry.is_symlink() or entry.name in FILLED_BY_PROGRAMS:
        return True
    inside = os.path.relpath(entry.path, root)
    return any(fnmatch(entry.name, pattern) or fnmatch(inside, pattern.rstrip("/")) for pattern in exclude)


def _identity(path: str | Path | None) -> tuple[int, int] | None:
    """By which a folder is the same under any name; None where there is none, or no longer."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _shown(path: str) -> str:
    """The path; where it is not UTF-8, with those bytes as escapes, as no store could keep it otherwise."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _found(entry: os.DirEntry[str]) -> Found | None:
    shown = _shown(entry.path)
    if shown != entry.path:  # its own name, or that of a folder above it
        return Found(path=shown, problem="its name is not UTF-8")
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:  # gone meanwhile, or not ours to see
        return Found(path=entry.path, problem=error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode):
        return None
    return Found(path=entry.path, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
