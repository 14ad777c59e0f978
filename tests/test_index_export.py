"""An index as a Lance table: LanceDB itself finds in it what the index finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb")
pytest.importorskip("transformers")

import lancedb
from indexing import fill, write_model

import castor
from castor.cli import main
from castor.index.filters import Filter
from castor.index.hits import hits_of


def test_lancedb_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things = fill(tmp_path / "things")
    (things / "again.py").write_bytes((things / "sums.py").read_bytes())
    index = castor.Index(tmp_path / "index", model=str(write_model(tmp_path / "model")))
    index.update(things)
    place = tmp_path / "out" / "things.lance"
    words = ["index", "--index", str(tmp_path / "index"), "--export"]
    for _ in range(2):  # the second replaces the first
        assert main([*words, str(place)]) == 0
    assert f"{len(index.store.piece_ids())} rows" in capsys.readouterr().out
    table = lancedb.connect(place.parent).open_table("things")
    rows = {row["id"]: row for row in table.to_arrow().to_pylist()}
    hits = hits_of(index.store, dict.fromkeys(index.store.piece_ids().tolist(), 1.0), Filter())
    for hit in hits:
        row = rows.pop(hit.piece)
        assert (row["path"], row["kind"], row["text"], row["also"]) == (hit.path, hit.kind, hit.text, list(hit.also))
        assert {name: row[name] for name in hit.place.values()} == pytest.approx(hit.place.values())
        assert abs(row["date"].timestamp() - hit.date.timestamp()) < 1
    assert not rows and any(hit.also for hit in hits)
    assert table.schema.metadata[b"identity"].decode() == index.store.header.identity
    question_E = index.embedder.question([castor.Text("a red boat")])[-1]
    found = table.search(question_E).where("kind = 'image'").limit(3).to_list()
    wanted = index.search("a red boat", k=3, kinds=("image",), words=False)
    assert [row["path"] for row in found] == [hit.path for hit in wanted]
    cosines = [1 - row["_distance"] / 2 for row in found]
    np.testing.assert_allclose(cosines, [hit.score for hit in wanted], atol=1e-5)
    assert main([*words, str(tmp_path / "things")]) == 2
    assert "ends with .lance" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert main([*words, str(tmp_path / "file" / "things.lance")]) == 2
    assert "cannot be written" in capsys.readouterr().err
