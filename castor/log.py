"""What a run prints and keeps: a live line with rate and time left, and metrics as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class MetricsFile:
    """Appends one JSON object a line; reopening at a step drops what a killed run wrote past it."""

    def __init__(self, path: str | Path, resume_step: int = 0) -> None:
        """Keep the lines of `path` whose "step" is at most `resume_step`; a torn last line goes too."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row.get("step", 0) <= resume_step] if resume_step else []
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        self._file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a line at once, so that a reader can follow."""
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a torn last line is left out."""
    rows = []
    if Path(path).is_file():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


class LiveLine:
    """One status line: rewritten in place on a terminal, printed now and then elsewhere."""

    def __init__(self, title: str, total: float, *, every_s: float = 20.0) -> None:
        """`total` is the amount of work in any unit; `every_s` is the pause between lines where no one looks live."""
        self.title, self.total = title, total
        self._start_s = self._last_s = time.monotonic()
        self._done_at_start: float | None = None
        self._is_terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._is_terminal else every_s

    def update(self, done: float, text: str = "", *, force: bool = False) -> None:
        """Show `done` of `total` with the time left, and `text` behind it."""
        now_s = time.monotonic()
        if self._done_at_start is None:
            self._done_at_start = done
        if not force and now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        progress, elapsed_s = done - self._done_at_start, now_s - self._start_s
        left = clock(elapsed_s * (self.total - done) / progress) if progress > 0 else "--:--"
        line = f"{self.title} {100 * done / max(self.total, 1e-9):5.1f} %  {text}  {clock(elapsed_s)} gone, {left} left"
        if self._is_terminal:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self, text: str = "") -> None:
        """End the line, with a last word."""
        elapsed = clock(time.monotonic() - self._start_s)
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr)
        print(
            f"{self.title}: {text} in {elapsed}" if text else f"{self.title}: {elapsed}",
            file=sys.stderr,
            flush=True,
        )


def clock(seconds: float) -> str:
    """ "mm:ss", or "h:mm:ss" from an hour up."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"
