"""Progress of an evaluation: how far, how fast, how long still; a live bar on a terminal, lines in a log."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # (task, answers so far over all tasks, answers wanted over all tasks)

LOG_EVERY_S = 10.0


def silent(task: str, num_done: int, num_total: int) -> None:
    """Reports nothing."""


@contextmanager
def show_progress() -> Generator[Progress]:
    """A progress reporter for the terminal, or for a log when standard error is not one."""
    if sys.stderr.isatty():
        with _live_bar() as progress:
            yield progress
    else:
        yield _LineProgress()


@contextmanager
def _live_bar() -> Generator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    start_s = time.monotonic()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        handle = bar.add_task("starting", total=None, rate=0.0)

        def progress(task: str, num_done: int, num_total: int) -> None:
            rate = num_done / max(1e-9, time.monotonic() - start_s)
            bar.update(handle, description=task, completed=num_done, total=num_total, rate=rate)

        yield progress


class _LineProgress:
    """Writes a line to standard error at most every ten seconds, and one at the end."""

    def __init__(self) -> None:
        self.start_s = self.last_s = time.monotonic()

    def __call__(self, task: str, num_done: int, num_total: int) -> None:
        now_s = time.monotonic()
        if now_s - self.last_s < LOG_EVERY_S and num_done < num_total:
            return
        self.last_s = now_s
        rate = num_done / max(1e-9, now_s - self.start_s)
        left_s = (num_total - num_done) / max(1e-9, rate)
        print(
            f"{task}: {num_done}/{num_total} answers, {rate:.1f}/s, {left_s:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
