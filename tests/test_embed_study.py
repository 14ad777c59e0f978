"""The study of the embedding recipe: a row runs by command, stands when it is asked for again, and is in the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench" / "embed_study.py"


def test_a_row_runs_once_and_is_told(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--out", str(tmp_path), "--written", "1"]
    done = subprocess.run([*command, "--rows", "before"], capture_output=True, text=True, timeout=600)
    assert "before: done" in done.stdout, done.stderr
    path = tmp_path / "rows" / "before.json"
    row, made_ns = json.loads(path.read_text("utf-8")), path.stat().st_mtime_ns
    assert set(row["writing"]) >= {"caption", "translation", "drawing", "video_caption"}
    other = row | {"name": "adapters", "recall_1": {"image_text": [0.5, 0.25], "composed": [0.7, 0.35]}}
    other["writing"] = {task: loss + 0.125 for task, loss in row["writing"].items()}
    (tmp_path / "rows" / "adapters.json").write_text(json.dumps(other), encoding="utf-8")
    again = subprocess.run([*command, "--rows", "before"], capture_output=True, text=True, timeout=600)
    assert path.stat().st_mtime_ns == made_ns and "done" not in again.stdout
    (line,) = [line for line in again.stdout.splitlines() if line.startswith("| adapters |")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2:] == ["60.0", "-", "-", "-", "-", "30.0"] + ["+0.125"] * 5
    wrong = subprocess.run([*command, "--rows", "everything"], capture_output=True, text=True, timeout=600)
    assert wrong.returncode != 0 and "'everything' is not one of before, recipe" in wrong.stderr
