"""Jobs of a study, a few at a time, each a process on cores of its own; what is done already is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from castor.checkpoint import load_json, save_json
from castor.config import to_dict
from castor.log import LiveLine
from castor.recipes.pipeline import STRETCHES, RunConfig

PROGRAM = Path(__file__).with_name("study_row.py")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to be done in the folder `config.out`."""

    name: str
    do: str  # a key of study_row.JOBS
    config: RunConfig
    more: dict[str, Any] = field(default_factory=dict)
    steps: int = 0  # of training, by which progress is shown
    step_cost: float = 1.0  # of one, where jobs differ

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    @property
    def cost(self) -> float:
        return self.step_cost * max(1, self.steps)

    @property
    def asked(self) -> dict[str, Any]:
        """All that its result depends on, as JSON values."""
        return {"do": self.do, "config": to_dict(self.config), **self.more}

    def result(self) -> dict[str, Any] | None:
        """What it came to; None where it is not done. ValueError where that was done with other settings."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        found = load_json(path)
        if found["asked"] != self.asked:
            raise ValueError(f"{path} was made with other settings; give them again, or another --out")
        return found

    def cost_done(self) -> float:
        """How much of its cost is behind it."""
        files = [self.folder / stage / "metrics.jsonl" for stage in STRETCHES]
        lines = sum(file.read_bytes().count(b"\n") for file in files if file.exists())
        return self.step_cost * min(lines, self.steps)


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """`count` jobs at once with `threads` threads each, pinned to cores of their own where there are several."""

    count: int = 2
    threads: int = 1

    def cores(self, lane: int) -> list[int]:
        """The cores of a lane; none, which is any, where it is the only one, or the system does not pin."""
        if self.count == 1 or not hasattr(os, "sched_getaffinity"):
            return []
        there = sorted(os.sched_getaffinity(0))
        if self.count * self.threads > len(there):
            raise ValueError(f"--lanes {self.count} of {self.threads} threads are more than {len(there)} cores")
        return there[lane * self.threads : (lane + 1) * self.threads]

    def run(self, jobs: Sequence[Job], title: str, on_done: Callable[[], None] = lambda: None) -> None:
        """Do the jobs that are not done, in their order; RuntimeError at the end where some failed."""
        waiting = [job for job in jobs if job.result() is None]
        line, total = LiveLine(title, sum(job.cost for job in jobs)), len(jobs)
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        failed: list[str] = []
        with _stop_on_terminate():
            try:
                while waiting or running:
                    for lane in range(self.count):
                        if lane not in running and waiting:
                            running[lane] = (waiting[0], self._start(waiting.pop(0), lane))
                    time.sleep(0.5)
                    for lane, (job, process) in list(running.items()):
                        if process.poll() is not None:
                            del running[lane]
                            failed += [] if job.result() else [_told(job, process.returncode)]
                            on_done()
                    left = {job.name for job in waiting} | {job.name for job, _ in running.values()}
                    done = sum(job.cost for job in jobs if job.name not in left)
                    now = ", ".join(job.name for job, _ in running.values())
                    done += sum(job.cost_done() for job, _ in running.values())
                    line.update(done, f"{total - len(left)} of {total} done; now {now}")
            except KeyboardInterrupt:
                for _, process in running.values():
                    process.send_signal(signal.SIGINT)
                    process.wait()
                raise
        line.close(f"{total - len(failed)} of {total} done")
        if failed:
            raise RuntimeError("\n".join(failed))

    def _start(self, job: Job, lane: int) -> subprocess.Popen[bytes]:
        folder, threads = job.folder, str(self.threads)
        folder.mkdir(parents=True, exist_ok=True)
        how = {"result": str(folder / "result.json"), "cores": self.cores(lane), "threads": self.threads}
        save_json(folder / "job.json", {"asked": job.asked, **how})
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
        with open(folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder / "job.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, **dict.fromkeys(names, threads)},
                start_new_session=True,  # Ctrl-C comes from here, once
            )


class _stop_on_terminate:
    """Inside, SIGTERM is as Ctrl-C: jobs are stopped with their states saved."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)


def _told(job: Job, code: int) -> str:
    lines = (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"{job.name} ended with exit code {code}; {job.folder / 'log.txt'} ends:", *lines[-6:]])


def results(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The jobs that are done, with what they came to."""
    for job in jobs:
        if (found := job.result()) is not None:
            yield job, found
