"""An index at its edges: names that are no text, folders that go, processes that write meanwhile, nothing in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from indexing import fill, write_model

import castor
from castor.index import examples, groups, snapshot
from castor.index import index as index_file
from castor.index.graph import Graph
from castor.index.hits import Hit
from castor.index.passages import passages
from castor.index.piece import Place
from castor.index.reading import pieces_of
from castor.index.store import Entry, FileState, Header, Store
from castor.index.walk import root_of, walk


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> castor.Model:
    return castor.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture()
def index(model: castor.Model, tmp_path: Path) -> Iterator[castor.Index]:
    made = castor.Index(tmp_path / "index", model=model)
    made.update(fill(tmp_path / "things"))
    yield made
    made.close()


class Another:
    """Another process's view of the same index, which drops the file with the newest piece."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)
        query = "SELECT path, files.content FROM files JOIN pieces ON pieces.content = files.content "
        self.path, content = self.store.rows(query + "ORDER BY pieces.id DESC LIMIT 1")[0]
        self.paths = [path for (path,) in self.store.rows("SELECT path FROM files WHERE content = ?", (content,))]

    def drops(self) -> None:
        self.store.forget(self.paths)
        self.store.sweep()


def test_names_that_are_not_text_are_told(model: castor.Model, tmp_path: Path) -> None:
    """Of a file or of a folder above it: no store can keep such a path."""
    folder = tmp_path / "things"
    below = os.fsencode(folder) + b"/caf\xe9"
    os.makedirs(below)
    for path in (below + b"/menu.txt", os.fsencode(folder) + b"/\xff.txt", os.fsencode(folder) + b"/fine.txt"):
        with open(path, "wb") as file:
            file.write(b"Soup.")
    index = castor.Index(tmp_path / "index", model=model)
    for _ in range(2):
        report = index.update(folder)
        assert {path.removeprefix(f"{folder}/"): why for path, why in report.problems} == {
            "caf\\xe9/menu.txt": "its name is not UTF-8",
            "\\xff.txt": "its name is not UTF-8",
        }
        assert index.store.counts() == {"text": (1, 1)}
    with pytest.raises(ValueError, match=r"caf\\xe9: its name is not UTF-8"):
        root_of(os.fsdecode(below))


def test_a_folder_may_go_while_it_is_walked(tmp_path: Path) -> None:
    things, last = tmp_path / "things", tmp_path / "things" / "z"
    last.mkdir(parents=True)
    (things / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "index").mkdir()
    found = walk(str(things), index=tmp_path / "index")
    first = next(found)
    last.rmdir()
    told = [(each.path, each.problem) for each in (first, *found)]
    assert told == [(str(things / "a.txt"), None), (str(last), "No such file or directory")]


def test_a_folder_is_forgotten_last(index: castor.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its files are dropped, the folder is still one of the index's, to be dropped or updated again."""
    count = len(index.store.files())

    def killed(self: Store, paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            index.forget(tmp_path / "things")
    assert index.store.roots() == [str(tmp_path / "things")]
    assert index.forget(tmp_path / "things") == count and not index.store.roots() and not index.store.files()


def test_what_is_not_embedded_is_not_counted(index: castor.Index, tmp_path: Path) -> None:
    (tmp_path / "things" / "new.txt").write_text("A new thought.", encoding="utf-8")
    (tmp_path / "things" / "other.txt").write_text("Another one.", encoding="utf-8")
    embedder = index.embedder
    real = embedder.pieces

    def pieces(some: list) -> np.ndarray:
        if any("new" in piece.text for piece in some):
            raise ValueError("not this one")
        return real(some)

    embedder.pieces = pieces  # ty: ignore
    report = index.update()
    assert report.num_pieces == 1 and (str(tmp_path / "things" / "new.txt"), "line 1: not this one") in report.problems


def test_files_may_go_while_they_are_searched(index: castor.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the ranking and the hits: what is gone is no hit, and the others are what they are without it."""
    another, by_words = Another(index.folder), index_file.by_words

    def dropping(*asked: object) -> list[int]:
        found = by_words(*asked)  # ty: ignore
        another.drops()
        return found

    monkeypatch.setattr(index_file, "by_words", dropping)
    before = {hit.path for hit in index.search("return math pi boat", k=20)}
    after = {hit.path for hit in index.search("return math pi boat", k=20)}
    assert before == after and another.path not in before and len(before) >= 3


def test_files_may_go_while_they_are_grouped(index: castor.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    another, vectors = Another(index.folder), index.vectors

    def dropping() -> object:
        found = vectors()
        another.drops()
        return found

    monkeypatch.setattr(index, "vectors", dropping)
    with pytest.raises(ValueError, match="another process changed this index"):
        groups.duplicates(index)
    assert groups.duplicates(index, 1.0)


def test_pieces_may_go_while_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "WORTH_IT", 10)
    store = Store.open(tmp_path / "index", Header(model="none", identity="none", dimensions=4))
    vectors = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    entries = [
        Entry(key=bytes([at]), kind="text", pieces=[(Place(), "", "")], vectors_NE=vector[None])
        for at, vector in enumerate(vectors)
    ]
    states = [FileState(path=f"/f{at}", size_bytes=1, modified_ns=0, checked_ns=1) for at in range(40)]
    store.write(entries, [(state, entry.key) for state, entry in zip(states, entries, strict=True)])
    another, all_of = Store.open(tmp_path / "index"), Store.vectors

    def dropping(self: Store, *asked: object) -> object:
        another.forget(["/f7"])
        another.sweep()
        return all_of(self, *asked)  # ty: ignore

    monkeypatch.setattr(Store, "vectors", dropping)
    for _ in range(2):  # without a copy, then with one
        found = snapshot.vectors_of(store)
        assert np.array_equal(found.take(np.arange(39)), np.delete(vectors, 7, axis=0)) and len(found) == 39
    assert isinstance(found.parts[0], np.memmap)


def test_an_example_is_embedded_some_pieces_at_a_time(
    index: castor.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "TOGETHER", 2)
    text = "\n".join(f"# Part {at}\n\nOf boats and of birds." for at in range(5))
    (tmp_path / "long.md").write_text(text, encoding="utf-8")
    vector, content = examples.example_vector(index, tmp_path / "long.md")
    wanted = index.embedder.pieces(list(pieces_of(text.encode(), "markdown", "long.md"))).mean(axis=0)
    assert content is None and len(passages(text, "markdown")) == 5 and np.abs(vector - wanted).max() < 1e-5


@pytest.mark.parametrize(("date_s", "year"), [(1e12, 9999), (-1e12, 1), (0.0, 1970)])
def test_a_file_may_claim_any_year(date_s: float, year: int) -> None:
    hit = Hit(path="/f", kind="image", place=Place(), score=1.0, date_s=date_s)
    assert abs(hit.date.year - year) <= 1 and hit.to_json()["date"].startswith(f"{hit.date.year:04d}-")


def test_what_cannot_be_asked_is_said(model: castor.Model, index: castor.Index, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        index.search("a boat", k=0)
    (tmp_path / "odd" / "index.db").mkdir(parents=True)
    with pytest.raises(ValueError, match="index.db: cannot be opened"):
        castor.Index(tmp_path / "odd", model=model)
    empty = castor.Index(tmp_path / "empty", model=model)
    (tmp_path / "empty" / "writer.db").mkdir()
    with pytest.raises(ValueError, match="empty: cannot be written to"):
        empty.update(tmp_path / "things")
    assert empty.search("a boat") == []
    with pytest.raises(ValueError, match="this index has none"):
        Graph.build(empty.store, empty.vectors())
