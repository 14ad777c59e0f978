"""Scores of vectors against slow formulas and mteb's own numbers; storage against packed bytes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from castor.cli import main
from castor.diorama.pairs import WorldPairs
from castor.engine.model import Model
from castor.evals.retrieval import STORAGES, Pool, int8, measure, ranked, report_of, scores, unit
from castor.models.extend import with_embedding_head
from castor.recipes.retrieval import evaluate_embedding, pool_of


def random_pool(num: int = 40, dim: int = 64, noise: float = 1.0) -> Pool:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((num, dim)).astype(np.float32)
    query = target + noise * rng.standard_normal((num, dim)).astype(np.float32)
    right = np.eye(num, dtype=bool)
    right[0, 1] = right[1, 0] = True
    slices = {"even": np.arange(num) % 2 == 0, "nobody": np.zeros(num, dtype=bool)}
    return Pool("random", unit(query), unit(target), right, slices)


def test_scores_equal_their_slow_formulas() -> None:
    pool = random_pool(noise=3.0)
    order = ranked(pool, 64)
    found = scores(order, pool.is_right_QN)
    for q in range(40):
        by_hand = sorted(range(40), key=lambda n: -float(pool.query_QE[q] @ pool.target_NE[n]))[:10]
        assert order[q].tolist() == by_hand
        gains = [1 / math.log2(place + 2) for place, n in enumerate(by_hand) if pool.is_right_QN[q, n]]
        ideal = sum(1 / math.log2(place + 2) for place in range(int(pool.is_right_QN[q].sum())))
        assert found["ndcg_10"][q] == pytest.approx(sum(gains) / ideal)
        assert bool(found["recall_1"][q]) == bool(pool.is_right_QN[q, by_hand[0]])
        assert bool(found["recall_5"][q]) == any(pool.is_right_QN[q, n] for n in by_hand[:5])


def test_binary_is_hamming_then_bytes() -> None:
    """Bits packed and compared by exclusive or; the shortlist is ordered by bytes."""
    pool = random_pool(num=80)
    query, target = (np.packbits(x > 0, axis=1) for x in (pool.query_QE, pool.target_NE))
    kept = int8(pool.target_NE)
    for q, order in enumerate(ranked(pool, 64, "binary")):
        distance = np.unpackbits(query[q] ^ target, axis=1).sum(1)
        short = sorted(range(80), key=lambda n: (distance[n], n))[:50]
        by_hand = sorted(short, key=lambda n: (-float(pool.query_QE[q] @ kept[n]), n))[:10]
        assert order.tolist() == by_hand


def test_bytes_are_near_and_few() -> None:
    pool = random_pool()
    kept = int8(pool.target_NE)
    step = np.abs(pool.target_NE).max() / 127
    assert np.abs(kept - pool.target_NE).max() <= step / 2 + 1e-7
    assert len(np.unique(np.round(kept / step))) <= 255


def test_a_prefix_is_scored_as_a_vector() -> None:
    pool = random_pool(noise=0.5)
    cut = Pool("cut", unit(pool.query_QE[:, :16]), unit(pool.target_NE[:, :16]), pool.is_right_QN)
    assert (ranked(pool, 16) == ranked(cut, 16)).all()
    with pytest.raises(ValueError, match="storage='int4'"):
        ranked(pool, 16, "int4")


def test_report_has_slices_sizes_and_chance() -> None:
    report = report_of([random_pool()], (64, 16), {"seed": 0})
    assert [row.slice for row in report.main()] == ["all", "even"]
    assert set(report.kept()) == {(dim, storage) for dim in (64, 16) for storage in STORAGES}
    row = report.main()[0]
    assert row.low <= row.recall_1 <= row.high and row.chance == pytest.approx((40 + 2) / 1600)
    again = json.loads(report.dumps())
    assert len(again["rows"]) == len(report.rows) and "| random |" in report.to_markdown()
    (alone,) = measure(random_pool(), 64)
    assert alone == row


@pytest.fixture()
def embedder(model: Model) -> Model:
    return Model(with_embedding_head(model.decoder, 64), model.renderer, model.codec)


def test_pool_of_pairs_knows_duplicates_and_slices(embedder: Model) -> None:
    pairs = [WorldPairs("image_text", 0, "test").at(i) for i in (0, 1, 2, 0)]
    pool = pool_of(embedder, "pool", pairs)
    assert pool.is_right_QN[0, 3] and pool.is_right_QN[3, 0] and pool.is_right_QN.sum() == 6
    for i, pair in enumerate(pairs):
        np.testing.assert_allclose(pool.query_QE[i], embedder.embed([pair.query])[0].numpy(), atol=1e-5)
    if "unseen_combination" in pool.slices:
        assert (pool.slices["seen_combination"] ^ pool.slices["unseen_combination"]).all()


def test_evaluation_runs_end_to_end(embedder: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)
    monkeypatch.setattr("castor.recipes.retrieval.speech_available", lambda: False)
    said: list[str] = []
    report = evaluate_embedding(embedder, limit=3, say=said.append)
    pools = {row.pool for row in report.rows}
    assert {"image_text", "composed", "text_video", "text_audio", "translated", "docstring_code"} <= pools
    assert "speech_image" not in pools and any("synth" in line for line in said)


def test_command_line_refuses_what_has_no_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--embedding", "--slices"]) == 2
    assert main(["eval", "--embedding", "--limit", "2", "--model", "atom"]) == 2
    assert "castor train embed" in capsys.readouterr().err
