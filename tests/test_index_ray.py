"""The indexing job on a local Ray cluster of two workers, one of which is killed half-way."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("transformers")

from indexing import fill, write_model
from test_index import same

import castor
from castor.index.build import Report, UpdateConfig
from castor.index.on_ray import update_on_ray

pytestmark = pytest.mark.slow


def actor_processes() -> list[int]:
    """The processes of this machine in which a FileWorker lives, by the names that Ray gives them."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                told = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if told.startswith(b"ray::") and (b"FileWorker" in told or b"MapWorker" in told):
                found.append(int(path.name))
    return found


def test_a_worker_killed_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is there once, with the vectors that one process makes."""
    import ray

    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH", "")])]))
    things, model_folder = fill(tmp_path / "things"), write_model(tmp_path / "model")
    for at in range(60):
        (things / f"note-{at:02}.txt").write_text(f"Note {at} of a boat.\n\n" * 40, encoding="utf-8")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        index = castor.Index(tmp_path / "index", model=str(model_folder))
        killed: list[int] = []

        def kill_one(done: int, total: int, report: Report) -> None:
            if not killed:
                assert 0 < done < total, "the job is to be under way"
                processes = actor_processes()
                assert len(processes) == 2, f"two workers, not {processes} ({sys.platform})"
                killed.append(processes[0])
                os.kill(processes[0], signal.SIGKILL)

        report = update_on_ray(index, str(things), "local", UpdateConfig(), num_workers=2, progress=kill_one)
        assert killed and not report.is_interrupted
        assert report.num_new == 69
        fresh = castor.Index(tmp_path / "fresh", model=str(model_folder))
        fresh.update(things)
        assert same(index, fresh)
        (doubled,) = index.store.rows("SELECT count(*) - count(DISTINCT key) FROM contents")[0]
        assert doubled == 0
        (things / "scene.png").rename(things / "harbour.png")
        again = update_on_ray(index, str(things), "local", UpdateConfig(), num_workers=1)
        assert (again.num_moved, again.num_dropped, again.num_new, again.num_pieces) == (1, 0, 0, 0)
    finally:
        ray.shutdown()
