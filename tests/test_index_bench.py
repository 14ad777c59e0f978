"""The measurements of search and indexing run, at the smallest size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("usearch")

from indexing import write_model

BENCH = Path(__file__).parent.parent / "bench"


def said(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_search_is_measured() -> None:
    told = said(str(BENCH / "search.py"), "--count", "2000", "--dimensions", "32", "--queries", "4", "--threads", "1")
    for form in ("exact", "int8", "bits", "graph of bits", "graph of bfloat16"):
        (line,) = [line for line in told.splitlines() if line.startswith(form.ljust(18))]
        assert float(line.split("recall@10")[1].split()[0]) >= (1.0 if form == "exact" else 0.5)


def test_search_is_measured_on_vectors_of_a_model() -> None:
    told = said(str(BENCH / "search.py"), "--own", "600", "--queries", "8", "--threads", "1", "--forms", "int8,bits")
    assert "592 x 256 float16" in told
    for form in ("int8", "bits"):
        (line,) = [line for line in told.splitlines() if line.startswith(form)]
        assert float(line.split("recall@10")[1].split()[0]) >= 0.9


def test_indexing_is_measured(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    command = (str(BENCH / "index.py"), "--files", "12", "--model", str(model), "--threads", "1", "--readers", "1")
    lines = said(*command).splitlines()
    (again,) = [line for line in lines if line.startswith("second run")]
    (renamed,) = [line for line in lines if line.startswith("one in ten renamed")]
    assert ", 0 pieces" in again and ", 0 pieces" in renamed
    assert any(line.split()[:3] == ["video", "1", "files"] for line in lines)
