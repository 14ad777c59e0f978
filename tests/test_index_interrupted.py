"""What a person does: index a folder by command, killed half-way, files renamed, changed and deleted; right answers.

With the shipped model and with a random checkpoint in EmbeddingGemma 2's layout. Commands that are killed run as
processes of their own.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from indexing import fill, write_model

from castor.cli import main
from castor.diorama.pairs import WorldPairs
from castor.example import Pair

NUM_NOTES, NUM_PICTURES = 300, 6
ANIMALS = ("heron", "badger", "otter", "lynx", "marten", "beaver")


def captioned() -> list[Pair]:
    """Captions in English and what they describe, all different, from held-out Diorama."""
    pairs = (WorldPairs("text_image", 0, "test").at(number) for number in range(100))
    chosen = {pair.target_key: pair for pair in pairs if pair.language == "en"}
    return list(chosen.values())[:NUM_PICTURES]


def write_things(folder: Path) -> list[Pair]:
    """The files of every kind, many notes, and pictures 0.png, 1.png, ... of the pairs given back."""
    fill(folder)
    for at in range(NUM_NOTES):
        animal = ANIMALS[at] if at < len(ANIMALS) else "crow"
        (folder / f"note-{at:03}.txt").write_text(f"Day {at}: a {animal} by the river.", encoding="utf-8")
    pairs = captioned()
    for at, pair in enumerate(pairs):
        (folder / f"{at}.png").write_bytes(pair.target.images[0].data)
    return pairs


def num_stored(index: Path) -> int:
    """Vectors that are committed; -1 before there are tables."""
    if not (index / "index.db").is_file():
        return -1
    try:
        with sqlite3.connect(f"file:{index / 'index.db'}?mode=ro", uri=True, timeout=5) as database:
            return database.execute("SELECT count(*) FROM vectors").fetchone()[0]
    except sqlite3.OperationalError:
        return -1


def killed(index: Path, *arguments: str) -> tuple[int, int]:
    """`castor index`, killed once it has committed something more; vectors before and after."""
    before = max(0, num_stored(index))
    command = [sys.executable, "-m", "castor.cli", "index", *arguments, "--index", str(index)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and num_stored(index) <= before:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before it could be killed"
    with sqlite3.connect(index / "index.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return before, num_stored(index)


def tidy(folder: Path) -> None:
    """Renames, moves, deletions, a change and a new file."""
    (folder / "0.png").rename(folder / "renamed.png")
    (folder / "1.png").rename(folder / "trips" / "1.png")
    (folder / "2.png").unlink()
    (folder / "scene.png").unlink()  # its copy stays
    (folder / "note-000.txt").rename(folder / "first.txt")
    (folder / "note-001.txt").unlink()
    (folder / "note-002.txt").write_text("Nothing was seen but a wolverine.", encoding="utf-8")
    (folder / "late.txt").write_text("A capercaillie called at dusk.", encoding="utf-8")


@pytest.mark.parametrize("name", ["atom-vectors", "embedding_gemma2"])
def test_killed_renamed_deleted_and_still_right(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = name if name == "atom-vectors" else str(write_model(tmp_path / "model"))
    things, index = tmp_path / "things", tmp_path / "index"
    pairs = write_things(things)

    def found(*question: str, at: Path = index) -> list[dict]:
        assert main(["search", *question, "--json", "--index", str(at)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def paths(*question: str) -> list[str]:
        return [str(Path(row["path"]).relative_to(things)) for row in found(*question)]

    _, first = killed(index, str(things), "--model", model)
    assert 0 < first < NUM_NOTES
    assert found("a river")  # what was committed answers already
    tidy(things)
    before, second = killed(index)
    assert before == first and second < NUM_NOTES + 20
    assert main(["index", "--index", str(index), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path, _ in told["problems"]} == {"cut.wav", "data.bin"}

    assert paths("--image", str(things / "renamed.png"))[0] == "renamed.png"
    assert paths("--image", str(things / "trips" / "1.png"))[0] == "trips/1.png"
    assert paths("--image", str(things / "trips" / "copy.png"))[0] == "trips/copy.png"
    assert paths("heron", "--kind", "text")[0] == "first.txt"
    assert "words" not in {by for row in found("badger") for by in row["found_by"]}  # its note is gone
    assert "words" not in {by for row in found("otter") for by in row["found_by"]}  # and this one changed
    assert paths("wolverine", "--kind", "text")[0] == "note-002.txt"
    assert paths("capercaillie", "--kind", "text")[0] == "late.txt"
    if name == "atom-vectors":  # the other one's weights are random
        for at, path in ((0, "renamed.png"), (1, "trips/1.png"), (3, "3.png"), (4, "4.png"), (5, "5.png")):
            assert paths(pairs[at].query.text)[0] == path

    fresh = tmp_path / "fresh"
    assert main(["index", str(things), "--index", str(fresh), "--model", model, "--json"]) == 0
    capsys.readouterr()
    assert kinds(index, capsys) == kinds(fresh, capsys)
    for question in (("a heron by the river",), ("--image", str(things / "3.png")), ("a red circle",)):
        ours, theirs = (found(*question, "--no-words", at=at) for at in (index, fresh))
        assert sorted(row["score"] for row in ours) == pytest.approx(sorted(row["score"] for row in theirs), abs=2e-3)


def kinds(index: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, int]]:
    """Files and pieces by kind, as the status tells."""
    assert main(["index", "--status", "--json", "--index", str(index)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["kinds"]
