"""Searching: equal to brute force over the model's own vectors, filtered, by words, by examples, grouped, on pages."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from indexing import fill, write_model

import castor
from castor.cli import main
from castor.index import index as index_file
from castor.index import neighbours, snapshot
from castor.index.answer import answer
from castor.index.filters import seconds_of
from castor.index.fuse import fused, hybrid
from castor.index.graph import Graph
from castor.index.groups import classify, clusters, duplicates, k_means, plane
from castor.index.neighbours import Vectors, candidates_of, exact, recall, rescored
from castor.index.page import map_page, results_page
from castor.index.store import Entry, FileState, Header, Store
from castor.index.textual import shares_of, telling_terms


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("all") / "things")
    os.utime(folder / "page.pdf", (seconds_of("2020-05-17"),) * 2)
    return folder


@pytest.fixture(scope="module")
def index(model_folder: Path, things: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[castor.Index]:
    made = castor.Index(tmp_path_factory.mktemp("index"), model=str(model_folder))
    made.update(things)
    yield made
    made.close()


def names(hits: list) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def clustered(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count // 50 + 1, dimensions))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.6 * rng.standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_meaning_is_brute_force(index: castor.Index, things: Path) -> None:
    """Any mix of media as a question, against products with all stored vectors."""
    ids, vectors = index.store.all_vectors()
    texts = dict(index.store.rows("SELECT pieces.id, text FROM pieces"))
    kinds = dict(index.store.rows("SELECT pieces.id, kind FROM pieces JOIN contents ON contents.id = content"))
    for question in (
        ["a red boat"],
        [castor.Audio(things / "speech.wav")],
        ["in blue", castor.Image(things / "scene.png")],
    ):
        bare = index.embedder.model.embed(question)[0].numpy()
        task = "Retrieval-query" if isinstance(question[0], str) else None
        for_texts = index.embedder.model.embed(question, task=task)[0].numpy()
        scores = np.where([kinds[i] in ("text", "code") for i in ids], vectors @ for_texts, vectors @ bare)
        order = np.argsort(-scores, kind="stable")[:6]
        for form in ("auto", "exact", "int8", "bits"):
            hits = index.search(*question, k=6, words=False, per_file=False, form=form)
            assert [hit.piece for hit in hits] == ids[order].tolist()
            assert np.allclose([hit.score for hit in hits], scores[order], atol=1e-4)
            assert all(hit.text == texts[hit.piece] for hit in hits)


def test_several_questions_are_fused(index: castor.Index, things: Path) -> None:
    questions = ["a red boat", castor.Image(things / "scene.png")]
    single = [[hit.piece for hit in index.search(each, k=50, words=False, per_file=False)] for each in questions]
    together = [hit.piece for hit in index.search(*questions, k=50, each=True, words=False, per_file=False)]
    assert together == list(fused((1.0, ranking) for ranking in single))
    assert fused([(1.0, [7, 8]), (2.0, [8])]) == {8: 1 / 62 + 2 / 61, 7: 1 / 61}


def test_words_and_names_are_found(index: castor.Index) -> None:
    hits = index.search("mended mast", k=1, kinds=("text",), per_file=False)
    assert hits[0].title == "Boats > Repairs" and "words" in hits[0].found_by
    ending = index.search("masts mending", k=1, kinds=("text",), per_file=False)  # in any form of the words
    assert ending[0].piece == hits[0].piece and "words" in ending[0].found_by
    assert index.search("红色", k=1, kinds=("text",), per_file=False)[0].title == "Boats > Repairs"
    assert "name" in next(hit for hit in index.search("speech", k=20) if hit.kind == "audio").found_by
    assert index.search('"; DROP TABLE files; -- AND OR NEAR(', k=3)  # only words, whatever they spell
    assert "mast" in hits[0].snippet(["mast"], length=30)


def test_words_count_by_evidence() -> None:
    """A text with few of the words moves little, one with all of them stands beside the nearest; pictures stay."""
    meaning = [1, 2, 3, 4, 5, 6, 7]
    assert list(hybrid([meaning], [], {})) == meaning
    assert list(hybrid([meaning], [7, 5], {7: 0.1, 5: 0.1})) == meaning
    assert list(hybrid([meaning], [7, 5], {7: 1.0, 5: 0.1}))[:3] == [7, 1, 2]
    assert list(hybrid([[1, 2]], [9], {9: 1.0})) == [9, 1, 2]  # too far by meaning to be ranked at all
    assert list(hybrid([[1, 2]], [9], {9: 0.4})) == [1, 2, 9]
    assert list(hybrid([[8, 4, 6]], [6, 4], {6: 0.4, 4: 0.02})) == [8, 6, 4]  # texts change places with texts
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = rng.permutation(12)[:5].tolist()
        shares = dict(zip(words, rng.random(5).tolist(), strict=True))
        found, before = hybrid([meaning, meaning[::-1]], words, shares), fused([(1.0, meaning), (1.0, meaning[::-1])])
        assert all(found[piece] == score for piece, score in before.items() if piece not in words)
        assert sum(found.values()) >= sum(before.values())


def test_the_share_of_a_question_that_a_text_has(index: castor.Index) -> None:
    """By rareness as in BM25, counted by hand."""
    texts = dict(index.store.rows("SELECT id, text FROM pieces WHERE text != ''"))
    has = {term: {piece for piece, text in texts.items() if term in text.lower().split()} for term in ("boat", "heron")}
    weight = {term: np.log1p((len(texts) - len(own) + 0.5) / (len(own) + 0.5)) for term, own in has.items()}
    for piece, share in shares_of(index.store, ["boat", "heron"], list(texts)).items():
        wanted = sum(weight[term] for term, own in has.items() if piece in own) / sum(weight.values())
        assert share == pytest.approx(wanted)
    assert all(has.values())


def test_a_picture_is_found_before_a_text_that_shares_a_word(tmp_path: Path) -> None:
    """The shipped model: pictures that a question describes, and notes with one of its words."""
    from castor.diorama.pairs import WorldPairs
    from castor.diorama.scene import COLOURS

    folder = tmp_path / "things"
    folder.mkdir()
    pairs = [WorldPairs("text_image", 0, "test").at(number) for number in range(16)]
    pairs = [pair for pair in pairs if pair.language == "en"][:4]
    for number, pair in enumerate(pairs):
        (folder / f"{number}.png").write_bytes(pair.target.images[0].data)
    for colour in COLOURS:
        (folder / f"note-{colour}.txt").write_text(f"We painted the old {colour} fence in spring.", encoding="utf-8")
    index = castor.Index(tmp_path / "index", model="atom-vectors")
    index.update(folder)
    assert len(pairs) == 4
    for number, pair in enumerate(pairs):
        first, *others = index.search(pair.query.text, k=10)
        assert first.path == str(folder / f"{number}.png")
        assert any("words" in hit.found_by for hit in others)
    assert names(index.search("the old red fence", k=1)) == ["note-red.txt"]
    index.close()


def test_filters(index: castor.Index, things: Path) -> None:
    assert {hit.kind for hit in index.search("x", k=50, kinds=("image", "code"))} == {"image", "code"}
    assert names(index.search("x", k=50, paths=("trips/*.md",))) == ["boats.md"]
    (copy,) = index.search("x", k=50, paths=("trips/*.png",))
    assert names([copy]) == ["copy.png"] and copy.also == (str(things / "scene.png"),)
    assert names(index.search("x", k=50, paths=("*.pdf",))) == ["page.pdf"]
    assert names(index.search("x", k=50, paths=(f"{things}/s*",), kinds=("code",))) == ["sums.py"]
    assert names(index.search("x", k=50, before="2021")) == ["page.pdf"]
    assert "page.pdf" not in names(index.search("x", k=50, after="2020-05-18"))
    assert names(index.search("x", k=50, after="2020-05-17", before="2020-05-18")) == ["page.pdf"]
    assert index.search("x", kinds=("image",), before="1990") == []
    with pytest.raises(ValueError, match="kind='pictures' is not one of image, audio"):
        index.search("x", kinds=("pictures",))
    with pytest.raises(ValueError, match="'May 5' is no date"):
        index.search("x", after="May 5")


def test_like_and_unlike(index: castor.Index, things: Path, tmp_path: Path) -> None:
    """By stored vectors of the examples; they are no answer themselves, under whatever name."""
    scene, clip = things / "scene.png", things / "clip.mp4"
    stored = {path: vectors for path, vectors in ((p, vector_of(index, p)) for p in (scene, clip))}
    query = stored[scene] - 0.5 * stored[clip]
    hits = index.search(like=[scene], unlike=[clip], k=3, per_file=False)
    ids, vectors = index.store.all_vectors()
    wanted = [i for i in ids[np.argsort(-(vectors @ query))] if i not in (id_of(index, scene), id_of(index, clip))]
    assert [hit.piece for hit in hits] == wanted[:3]
    outside = tmp_path / "outside.png"
    outside.write_bytes(scene.read_bytes())
    assert index.search(like=[outside], k=3)[0].path != str(scene)
    with pytest.raises(ValueError, match="nothing to search for"):
        index.search(unlike=[clip])


def id_of(index: castor.Index, path: Path) -> int:
    query = "SELECT pieces.id FROM pieces JOIN files ON files.content = pieces.content WHERE path = ?"
    return index.store.rows(query, (str(path),))[0][0]


def vector_of(index: castor.Index, path: Path) -> np.ndarray:
    return index.store.all_vectors([id_of(index, path)])[1][0]


@pytest.mark.parametrize("form", ["int8", "bits"])
def test_quantised_candidates_are_scored_again(form: str) -> None:
    """Scores are exact; with as many candidates as vectors so are the answers, with fewer nearly."""
    vectors = clustered(6000, 128)
    many = Vectors(np.arange(6000) * 3 + 5, [vectors[:2500], vectors[2500:]])
    queries = vectors[:40] + 0.05 * np.random.default_rng(1).standard_normal((40, 128)).astype(np.float32)
    wanted, scores = exact(many, queries, 10)
    assert (wanted == np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]).all()
    candidates = candidates_of(form, many)
    assert candidates is not None
    found, found_scores = rescored(many, candidates, queries, 10)
    assert recall(found, wanted) >= 0.95
    for row, row_scores, query in zip(found, found_scores, queries, strict=True):
        assert np.allclose(row_scores, vectors[row] @ query, atol=1e-5)
    few = np.sort(np.random.default_rng(2).choice(6000, 150, replace=False))
    assert (rescored(many, candidates, queries, 10, few)[0] == exact(many, queries, 10, few)[0]).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_scans_name_the_nearest_codes(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slow formulas, and so does the plain form where nothing is compiled."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((50_001, 104)).astype(np.float32)
    many, queries = Vectors(np.arange(len(vectors)), [vectors]), vectors[:3] + 0.1
    rows = np.sort(rng.choice(len(vectors), 33_000, replace=False))
    signs = (vectors > 0).astype(np.float32)
    equal_QN = np.stack([(signs == (query > 0)).sum(1) for query in queries]).astype(np.float32)
    scale_N = np.abs(vectors).max(1) / 127
    codes, query_codes = np.rint(vectors / scale_N[:, None]), np.rint(queries / np.abs(queries).max(1)[:, None] * 127)
    product_QN = (query_codes @ codes.T) * scale_N
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for form, score_QN in (("bits", equal_QN), ("int8", product_QN)):
            for compiled in (True, False):
                with monkeypatch.context() as patch:
                    if not compiled:
                        patch.setattr(neighbours, f"nearest_{'bits' if form == 'bits' else 'bytes'}", lambda *_: None)
                    candidates = candidates_of(form, many)
                    assert candidates is not None
                    for of in (None, rows):
                        allowed = np.arange(len(vectors)) if of is None else of
                        for found, score_N in zip(candidates.near(queries, 25, of), score_QN, strict=True):
                            assert len(set(found)) == 25 and np.isin(found, allowed).all()
                            best = np.sort(score_N[allowed])[-25:]
                            np.testing.assert_allclose(np.sort(score_N[found]), best, rtol=1e-4)
    finally:
        torch.set_num_threads(torch_threads)


def test_a_graph_finds_nearly_all_and_follows_changes(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    vectors = clustered(4000, 128)
    store = made_store(tmp_path / "index", vectors[:3900])
    facts = Graph.build(store, snapshot.vectors_of(store))
    assert facts.recall_10 >= 0.95 and facts.count == 3900
    store.forget(f"/f{at}" for at in range(50))
    store.sweep()
    add(store, vectors[3900:], start=3900)
    now = snapshot.vectors_of(store)
    assert len(now) == 3950
    graph, queries = Graph.of(store, now), vectors[3900:3960]
    wanted, _ = exact(now, queries, 10)
    found, _ = rescored(now, graph, queries, 10)
    assert recall(found, wanted) >= 0.95
    rows = np.arange(0, 3950, 7)
    within, _ = rescored(now, graph, queries, 10, rows)
    assert np.isin(within[within >= 0], rows).all() and recall(within, exact(now, queries, 10, rows)[0]) >= 0.9


def made_store(folder: Path, vectors: np.ndarray) -> Store:
    header = Header(model="none", identity="none", dimensions=vectors.shape[1])
    store = Store.open(folder, header)
    add(store, vectors, start=0)
    return store


def add(store: Store, vectors: np.ndarray, start: int) -> None:
    from castor.index.piece import Place

    entries, files = [], []
    for at, vector in enumerate(vectors, start=start):
        key = at.to_bytes(4, "big")
        entries.append(Entry(key=key, kind="text", pieces=[(Place(), "", "")], vectors_NE=vector[None]))
        files.append((FileState(path=f"/f{at}", size_bytes=1, modified_ns=0, checked_ns=1), key))
    store.write(entries, files)


def test_a_kept_copy_of_the_vectors_follows_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "WORTH_IT", 100)
    vectors = clustered(400, 32)
    store = made_store(tmp_path / "index", vectors[:380])
    assert isinstance(snapshot.vectors_of(store).parts[0], np.memmap)
    add(store, vectors[380:], start=380)
    store.forget(["/f3"])
    store.sweep()
    now = snapshot.vectors_of(store)
    there = now.rows_of(store.piece_ids())
    assert len(now.parts) == 2 and len(there) == 399  # the one that is gone lies in the copy, and is passed over
    wanted = np.delete(vectors, 3, axis=0)
    assert np.abs(now.take(there) - wanted).max() == 0
    store.forget(f"/f{at}" for at in range(100, 200))
    store.sweep()
    again = snapshot.vectors_of(store)
    assert len(again.parts) == 1 and len(again) == 299
    next((tmp_path / "index" / "scan").glob("vectors-*.ids.npy")).write_bytes(b"cut")
    assert len(snapshot.vectors_of(store)) == 299


def test_large_indexes_search_by_bits_unless_told(index: castor.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "GRAPH_FROM", 5)
    exactly = index.search("a red boat", form="exact", words=False)
    assert [hit.piece for hit in index.search("a red boat", words=False)] == [hit.piece for hit in exactly]
    with pytest.raises(ValueError, match="no graph is kept"):
        index.search("a red boat", form="graph")
    with pytest.raises(ValueError, match="form='fast' is not one of auto, exact"):
        index.search("a red boat", form="fast")


def test_duplicates(index: castor.Index) -> None:
    (copies,) = [group for group in duplicates(index, 1.0) if group.score == 1.0]
    assert {Path(path).name for hit in copies.hits for path in (hit.path, *hit.also)} == {"scene.png", "copy.png"}
    with pytest.raises(ValueError, match="likeness=2"):
        duplicates(index, 2)


def test_duplicates_are_all_pairs(tmp_path: Path, index: castor.Index) -> None:
    vectors = clustered(120, 16)
    vectors[60] = vectors[7] + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    other = castor.Index(tmp_path / "other", model=index.embedder.model)
    other.store.close()
    other.store = made_store(tmp_path / "made", vectors)
    likeness = 0.9
    groups = [sorted(int(hit.path[2:]) for hit in group.hits) for group in duplicates(other, likeness)]
    near = vectors @ vectors.T >= likeness
    wanted, left = [], set(range(120))
    while left:
        group, grown = {min(left)}, {-1}
        while group != grown:
            grown = set(group)
            group = group | {int(b) for a in grown for b in np.flatnonzero(near[a])}
        left -= group
        wanted += [sorted(group)] if len(group) > 1 else []
    assert sorted(groups) == sorted(wanted) and any({7, 60} <= set(group) for group in groups)


def test_labels_are_nearest_by_cosine(index: castor.Index) -> None:
    labels = ["a picture", "a song", "a page"]
    wanted = index.embedder.model.embed(*labels).numpy()  # media: without words for a task
    for each in classify(index, labels, kinds=("image", "audio", "video")):
        cosines = vector_of(index, Path(each.hit.path)) @ wanted.T
        assert each.label == labels[int(cosines.argmax())] and each.hit.score == pytest.approx(cosines.max(), abs=1e-5)
        assert each.margin == pytest.approx(np.sort(cosines)[-1] - np.sort(cosines)[-2], abs=1e-5)
    with pytest.raises(ValueError, match="at least two"):
        classify(index, ["one"])


def test_clusters_and_the_plane(index: castor.Index) -> None:
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((16, 3)))[0].T
    truth = rng.integers(3, size=90)
    vectors = centres[truth] + 0.1 * rng.standard_normal((90, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    which, _ = k_means(vectors, 3)
    assert all(len(set(which[truth == at])) == 1 for at in range(3)) and len(set(which)) == 3
    xy, share = plane(vectors)
    centred = vectors - vectors.mean(axis=0)
    _, sizes, _ = np.linalg.svd(centred)
    assert share == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), abs=1e-5)
    assert np.abs(xy).max() == pytest.approx(1.0)
    chart = clusters(index, 3)
    assert sum(len(group.hits) for group in chart.groups) == len(chart.places) == 6
    shown = map_page(chart)
    assert shown.count("<circle") == 6 and "https://" not in shown.replace("http://www.w3.org", "")


def test_groups_are_named_by_things(model_folder: Path, tmp_path: Path) -> None:
    """Of notes that all begin alike, what holds a sentence together names nothing."""
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(4):
        (notes / f"{number}.md").write_text(f"This is not the only one of the boats, and {number} is all.")
    index = castor.Index(tmp_path / "index", model=str(model_folder))
    index.update(notes)
    (group,) = clusters(index, 1).groups
    index.close()
    assert group.name == "boats"


def test_a_page_shows_what_was_found(index: castor.Index, things: Path) -> None:
    shown = results_page(["<boat> & more"], index.search("boat", k=20))
    assert "&lt;boat&gt; &amp; more" in shown and "<boat>" not in shown
    assert shown.count("data:image/jpeg;base64,") == 3 and shown.count('class="wave"') == 1  # picture, clip, page
    assert (things / "sums.py").as_uri() in shown
    lost = dataclasses.replace(index.search("boat", k=1)[0], kind="image", path="/nowhere/x.png")
    assert "x.png" in results_page(["a"], [lost])


def test_ask_shows_sources_to_a_model_that_writes(index: castor.Index, model: castor.Model) -> None:
    """A tiny writer of random weights: what it is given, and that only numbers of sources count as citations."""
    given: list = []
    real = model.generate

    def generate(prompt: list, **options: object) -> castor.Message:
        given.append(prompt)
        real(prompt, **options)
        return castor.Message.model("The mast [2], see [9] and [1].")

    model.generate = generate  # ty: ignore
    found = answer(index, model, ["Who mended the mast?"], k=3, max_tokens=4, kinds=("text", "image"))
    assert found.cited == (1, 2) and len(found.sources) == 3
    texts = "".join(part.text for part in given[0] if isinstance(part, castor.Text))
    for number, hit in enumerate(found.sources, start=1):
        assert f"[{number}] {Path(hit.path).name}" in texts and hit.text in texts
    assert texts.endswith("Question: Who mended the mast?")
    assert [hit["number"] for hit in found.to_json()["sources"]] == [1, 2, 3]
    with pytest.raises(ValueError, match="nothing in this index"):
        answer(index, model, ["?"], before="1990")


def test_command_line(
    model_folder: Path,
    things: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CASTOR_INDEX", str(tmp_path / "index"))
    assert main(["search", "a"]) == 2 and "there is no index here" in capsys.readouterr().err
    assert main(["index", str(things), "--model", str(model_folder)]) == 0
    told = capsys.readouterr().out
    assert "9 new" in told and "cut.wav" in told and ".bin" in told
    assert main(["index", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same"] == 9 and report["new"] == 0 and len(report["problems"]) == 2
    page = tmp_path / "found.html"
    asked = ["search", "boat", "--image", str(things / "scene.png"), "--json", "--count", "4", "--page", str(page)]
    assert main(asked) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4 and all({"path", "score", "kind", "date"} <= set(row) for row in rows) and page.is_file()
    assert main(["search", "boat", "--kind", "text,code", "--pieces"]) == 0
    assert "lines 5–7" in capsys.readouterr().out
    for extra, wanted in ((["--duplicates"], "copy.png"), (["--labels", "boat,bird"], "scene.png")):
        assert main(["search", *extra]) == 0
        assert wanted in capsys.readouterr().out
    assert main(["search", "--map", str(tmp_path / "map.html"), "--clusters", "2"]) == 0
    things.rename(things.with_name("away"))
    assert main(["index"]) == 2 and "is not there, its files are kept" in capsys.readouterr().err
    things.with_name("away").rename(things)
    assert main(["index", "--status", "--json"]) == 0
    about = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert about["dimensions"] == 24 and about["kinds"]["image"] == {"files": 2, "pieces": 1}
    for wrong, why in (
        (["search"], "nothing to search for"),
        (["search", "a", "--map", "m.png"], "must end in .html"),
        (["search", "--duplicates", "--labels", "a,b"], "leave out --labels"),
        (["index", str(tmp_path / "none")], "no such folder"),
        (["ask"], "nothing to answer"),
        (["index", "--forget", str(tmp_path)], "not one of the folders"),
    ):
        assert main(wrong) == 2 and why in capsys.readouterr().err
    assert main(["index", "--forget", str(things)]) == 0
    assert "9 files dropped" in capsys.readouterr().out
    assert main(["index", "--status", "--json"]) == 0
    about = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert about["roots"] == [] and about["kinds"] == {} and about["problems"] == []


def test_words_that_make_a_question_do_not_find_texts(tmp_path: Path) -> None:
    store = made_store(tmp_path / "index", clustered(3, 16))
    assert telling_terms(store, "When does the lease end?") == ["lease", "end"]
    assert telling_terms(store, "Where is it?") == ["where", "is", "it"]  # rather than nothing
