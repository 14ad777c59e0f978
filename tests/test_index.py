"""The index: what a folder becomes, how it is kept up to date, and that nothing is lost, whatever happens."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from indexing import NOTE, fill, write_model

import castor
from castor.index.build import RACY_NS
from castor.index.passages import passages
from castor.index.quantise import STORAGES, pack, unpack
from castor.index.reading import pieces_of
from castor.index.store import Store


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_folder: Path) -> castor.Model:
    return castor.load(model_folder, device="cpu")


@pytest.fixture()
def things(tmp_path: Path) -> Path:
    return fill(tmp_path / "things")


def everything(index: castor.Index) -> dict[str, list[tuple[str, str, bytes]]]:
    """Place, text and vector of every piece, by path: what a fresh index of the same folder must be equal to."""
    rows = index.store.rows(
        "SELECT path, place, text, vector FROM files JOIN pieces ON pieces.content = files.content "
        "JOIN vectors ON vectors.piece = pieces.id ORDER BY path, pieces.id"
    )
    found: dict[str, list[tuple[str, str, bytes]]] = {}
    for path, place, text, vector in rows:
        found.setdefault(path, []).append((place, text, np.frombuffer(vector, "<f4").round(4).tobytes()))
    return found


def same(a: castor.Index, b: castor.Index) -> bool:
    """Equal files, places and texts, and vectors but for the rounding of other batches; nothing without a file."""
    left, right = everything(a), everything(b)
    if {p: [r[:2] for r in rows] for p, rows in left.items()} != {
        p: [r[:2] for r in rows] for p, rows in right.items()
    }:
        return False
    for index in (a, b):
        orphans = index.store.rows(
            "SELECT count(*) FROM contents WHERE id NOT IN (SELECT content FROM files WHERE content NOT NULL)"
        )
        words = index.store.rows("SELECT count(*) FROM words")[0][0]
        texts = index.store.rows("SELECT count(*) FROM pieces WHERE text != ''")[0][0]
        if orphans[0][0] or words != texts:
            return False
    pairs = ((x[2], y[2]) for path in left for x, y in zip(left[path], right[path], strict=True))
    return all(np.abs(np.frombuffer(x, "<f4") - np.frombuffer(y, "<f4")).max() < 1e-3 for x, y in pairs)


def test_every_file_is_found_or_told(model: castor.Model, things: Path, tmp_path: Path) -> None:
    index = castor.Index(tmp_path / "index", model=model)
    report = index.update(things)
    assert report.num_new == 9 and not report.is_interrupted
    problems = {Path(path).name: why for path, why in report.problems}
    assert set(problems) == {"cut.wav", "data.bin"}
    assert "cut short" in problems["cut.wav"] and "(.bin)" in problems["data.bin"]
    counts = index.store.counts()
    assert {kind: files for kind, (files, _) in counts.items()} == dict.fromkeys(
        ("audio", "code", "document", "text", "video"), 1
    ) | {"image": 2}
    assert counts["image"][1] == 1  # a copy is one content
    stored = everything(index)
    assert stored[str(things / "scene.png")] == stored[str(things / "trips" / "copy.png")]


def test_vectors_are_those_of_the_model(model: castor.Model, things: Path, tmp_path: Path) -> None:
    """Of whole media `embed` gives the same; a passage is embedded in the published form, with its headings."""
    index = castor.Index(tmp_path / "index", model=model)
    index.update(things)
    (boats,) = [p for p in pieces_of(NOTE.encode(), "markdown", "boats.md") if p.title == "Boats > Repairs"]
    wanted = model.embed(
        [castor.Image(things / "scene.png")],
        [castor.Audio(things / "speech.wav")],
        [castor.Video(things / "clip.mp4")],
        f"title: Boats > Repairs | text: {boats.text}",
    ).numpy()
    paths = [things / "scene.png", things / "speech.wav", things / "clip.mp4", things / "trips" / "boats.md"]
    stored = everything(index)
    for path, vector in zip(paths, wanted, strict=True):
        found = [np.frombuffer(row[2], "<f4") for row in stored[str(path)]]
        assert min(np.abs(each - vector).max() for each in found) < 2e-4, path


def test_only_what_changed_is_embedded(model: castor.Model, things: Path, tmp_path: Path) -> None:
    index = castor.Index(tmp_path / "index", model=model)
    index.update(things)
    for path in things.rglob("*"):  # as if written a while ago
        os.utime(path, ns=(time.time_ns() - 10 * RACY_NS,) * 2)
    index.update(things)
    again = index.update(things)
    assert (again.num_same, again.num_pieces, again.seconds["decode"]) == (9, 0, 0.0)
    (things / "scene.png").rename(things / "trips" / "harbour.png")
    (things / "trips" / "copy.png").unlink()
    (things / "speech.wav").unlink()
    (things / "trips" / "boats.md").write_text(NOTE + "\n# Ships\n\nA ship.\n", encoding="utf-8")
    (things / "new.txt").write_text("A new thought.", encoding="utf-8")
    report = index.update()
    told = (report.num_new, report.num_changed, report.num_moved, report.num_dropped, report.num_same)
    assert told == (1, 1, 1, 2, 5)
    assert report.num_pieces == 1 + len(passages(NOTE + "\n# Ships\n\nA ship.\n", "markdown"))
    fresh = castor.Index(tmp_path / "fresh", model=model)
    fresh.update(things)
    assert same(index, fresh)
    assert [hit.path for hit in index.search(castor.Image(things / "trips" / "harbour.png"), k=1)] == [
        str(things / "trips" / "harbour.png")
    ]


def test_a_change_within_the_clocks_grain_is_seen(model: castor.Model, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    note = folder / "a.txt"
    note.write_text("one boat", encoding="utf-8")
    before = time.time_ns() + 30 * RACY_NS  # so that the look is within the grain, however slow this machine is
    os.utime(note, ns=(before, before))
    index = castor.Index(tmp_path / "index", model=model)
    index.update(folder)
    note.write_text("two dogs", encoding="utf-8")
    os.utime(note, ns=(before, before))  # same size, same time
    assert index.update(folder).num_changed == 1
    assert [text for (text,) in index.store.rows("SELECT text FROM pieces")] == ["two dogs"]


def test_a_folder_that_cannot_be_entered_loses_nothing(
    model: castor.Model, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the superuser, so that the refusal itself is made up here."""
    index = castor.Index(tmp_path / "index", model=model)
    index.update(things)
    before, scandir = everything(index), os.scandir

    def refuse(folder: str) -> object:
        if str(folder) == str(things / "trips"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    report = index.update(things)
    assert (str(things / "trips"), "Permission denied") in report.problems and report.num_dropped == 0
    assert everything(index) == before
    monkeypatch.setattr(os, "scandir", scandir)
    assert len(index.update(things).problems) == 2 and everything(index) == before


def test_links_are_passed_over_and_a_missing_folder_is_an_error(
    model: castor.Model, things: Path, tmp_path: Path
) -> None:
    index = castor.Index(tmp_path / "index", model=model)
    index.update(things)
    before = everything(index)
    (things / "trips").rename(tmp_path / "away")
    (things / "trips").symlink_to(tmp_path / "away")
    assert index.update(things).num_dropped == 2
    (things / "trips").unlink()
    (tmp_path / "away").rename(things / "trips")
    index.update(things)
    assert set(everything(index)) == set(before)
    with pytest.raises(ValueError, match="no such folder"):
        index.update(tmp_path / "unmounted")
    things.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="no such folder"):
        index.update()
    assert set(everything(index)) == set(before)


CHILD = """
import sys
import castor
castor.Index(sys.argv[1], model=sys.argv[2]).update(sys.argv[3])
"""


def test_killed_at_any_moment(model: castor.Model, model_folder: Path, things: Path, tmp_path: Path) -> None:
    """SIGKILL at several moments of the job; the store is whole every time, and the end is a fresh index's."""
    for at in range(40):
        (things / f"note-{at}.txt").write_text(f"Note {at} of a boat.\n\n" * 30, encoding="utf-8")
    index_folder = tmp_path / "index"
    command = [sys.executable, "-c", CHILD, str(index_folder), str(model_folder), str(things)]
    seen = []
    for wanted in (0, 1, 30, 60):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while child.poll() is None and num_stored(index_folder) < wanted + (wanted > 0):
            time.sleep(0.01)
        if wanted == 0:
            time.sleep(0.5)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (index_folder / "index.db").is_file() and num_stored(index_folder) >= 0:
            with sqlite3.connect(index_folder / "index.db") as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            seen.append(num_stored(index_folder))
    assert any(count > 0 for count in seen)
    index, fresh = castor.Index(index_folder, model=model), castor.Index(tmp_path / "fresh", model=model)
    index.update(things)
    fresh.update(things)
    assert same(index, fresh)


def num_stored(folder: Path) -> int:
    """Vectors in a store that another process writes; -1 before there are tables."""
    if not (folder / "index.db").is_file():
        return -1
    try:
        with sqlite3.connect(f"file:{folder / 'index.db'}?mode=ro", uri=True, timeout=5) as database:
            return database.execute("SELECT count(*) FROM vectors").fetchone()[0]
    except sqlite3.OperationalError:
        return -1


def test_an_interrupt_keeps_what_is_finished(model: castor.Model, things: Path, tmp_path: Path) -> None:
    index = castor.Index(tmp_path / "index", model=model)
    for at in range(64):
        (things / f"note-{at:02}.txt").write_text(f"Note {at}.", encoding="utf-8")

    def interrupt(done: int, total: int, report: object) -> None:
        if index.store.rows("SELECT count(*) FROM vectors")[0][0] > 0:
            raise KeyboardInterrupt

    report = index.update(things, progress=interrupt)
    assert report.is_interrupted
    (kept,) = index.store.rows("SELECT count(*) FROM vectors")[0]
    assert 0 < kept < 64
    rest = index.update(things)
    assert not rest.is_interrupted and rest.num_pieces > 0
    fresh = castor.Index(tmp_path / "fresh", model=model)
    fresh.update(things)
    assert same(index, fresh)


def test_two_models_do_not_mix(model: castor.Model, things: Path, tmp_path: Path) -> None:
    castor.Index(tmp_path / "index", model=model, dimensions=8).close()
    other = castor.load(write_model(tmp_path / "other"), device="cpu")
    import torch

    with torch.no_grad():
        next(other.decoder.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="cannot be compared with those of"):
        castor.Index(tmp_path / "index", model=other, dimensions=8)
    with pytest.raises(ValueError, match="vectors of 8 numbers, not 16"):
        castor.Index(tmp_path / "index", model=model, dimensions=16)
    with pytest.raises(ValueError, match="stores vectors as float32, not int8"):
        castor.Index(tmp_path / "index", model=model, storage="int8")
    with pytest.raises(ValueError, match="there is no index here"):
        castor.Index(tmp_path / "nothing")
    with pytest.raises(ValueError, match="storage='float8' is not one of float32, float16, int8"):
        castor.Index(tmp_path / "third", model=model, storage="float8")


def test_killed_before_there_are_tables(model: castor.Model, things: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.db").touch()
    with pytest.raises(ValueError, match="there is no index here"):
        castor.Index(tmp_path / "index")
    assert castor.Index(tmp_path / "index", model=model).update(things).num_new == 9


def test_one_writer_at_a_time(model: castor.Model, things: Path, tmp_path: Path) -> None:
    index, other = (castor.Index(tmp_path / "index", model=model) for _ in range(2))
    index.update(things)
    with index.store.writing():
        with pytest.raises(ValueError, match="another process is writing"):
            other.update(things)
        assert other.search("a boat")  # reading goes on


def test_what_cannot_be_embedded_is_told(model: castor.Model, things: Path, tmp_path: Path) -> None:
    """A model without ears: the recording is named with the reason, all else is there."""
    import published

    deaf_folder = tmp_path / "deaf"
    deaf_folder.mkdir()
    published.write_tower_checkpoint(deaf_folder, "embedding_gemma2")
    deaf = castor.load(deaf_folder, device="cpu")
    real = deaf.embed

    def embed(*prompts: object, **options: object) -> object:
        for prompt in prompts:
            if isinstance(prompt, list) and any(isinstance(part, castor.Audio) for part in prompt):
                raise ValueError("this model reads no sound")
        return real(*prompts, **options)

    deaf.embed = embed  # ty: ignore
    index = castor.Index(tmp_path / "index", model=deaf)
    report = index.update(things)
    problems = {Path(path).name: why for path, why in report.problems}
    assert problems["speech.wav"] == "00:00–00:01: this model reads no sound"
    assert "audio" not in index.store.counts() and index.store.counts()["image"] == (2, 1)
    deaf.embed = real  # ty: ignore
    assert index.update(things).num_pieces == 0
    assert index.update(things, retry=True).num_pieces == 1
    assert index.store.counts()["audio"] == (1, 1)


@pytest.mark.parametrize("storage", STORAGES)
def test_storage(storage: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    again = unpack(pack(vectors, storage), storage, 96)
    bound = {"float32": 0.0, "float16": 5e-4, "int8": 0.5 / 127}[storage]
    assert np.abs(again - vectors).max() <= bound * np.abs(vectors).max()
    zero = np.zeros((1, 96), np.float32)
    assert (unpack(pack(zero, storage), storage, 96) == zero).all()


def test_a_store_of_a_later_format_is_refused(model: castor.Model, tmp_path: Path) -> None:
    castor.Index(tmp_path / "index", model=model).close()
    with sqlite3.connect(tmp_path / "index" / "index.db") as database:
        (text,) = database.execute("SELECT value FROM meta WHERE name = 'header'").fetchone()
        database.execute(
            "UPDATE meta SET value = ? WHERE name = 'header'", (text.replace('"format": 1', '"format": 2'),)
        )
    with pytest.raises(ValueError, match="format 2"):
        Store.open(tmp_path / "index")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match="not a usable index"):
        Store.open(tmp_path / "broken")
