"""The contrastive loss against its slow formula; its gradients in chunks, in parts and in processes are the same."""

from __future__ import annotations

import dataclasses
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from castor.content import Message
from castor.engine.model import Model
from castor.models.decoder import Decoder
from castor.models.extend import with_embedding_head
from castor.tokens.pairs import PairBatch, Rendered, pack_pairs
from castor.train.contrastive import ContrastiveConfig, PairVectors, contrastive, divergence, pair_losses, vectors_of
from castor.train.gather import RankGather, SharedGather

CONFIG = ContrastiveConfig(temperature=0.1, dimensions=(12, 4))


def random_vectors(num: int, dim: int = 12, seed: int = 0) -> PairVectors:
    generator = torch.Generator().manual_seed(seed)
    query, target, negative = (torch.randn(num, dim, generator=generator) for _ in range(3))
    has = torch.arange(num) % 3 != 1
    return PairVectors(query, target, negative, has, torch.arange(2 * num).reshape(2, num).T.contiguous())


def slow_loss(vectors: PairVectors, temperature: float, dim: int, i: int) -> float:
    """The paper's formula, one exponential after the other."""

    def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a[:dim].double(), b[:dim].double()
        return math.exp(float(a @ b / a.norm() / b.norm()) / temperature)

    query, keys = vectors.query_NE[i], vectors.keys_N2.tolist()
    own = similarity(query, vectors.target_NE[i])
    total = own + (similarity(query, vectors.negative_NE[i]) if vectors.has_negative_N[i] else 0.0)
    for j, key in enumerate(keys):
        if key[0] != keys[i][0] and key[1] != keys[i][1]:
            total += similarity(query, vectors.target_NE[j])
    return -math.log(own / total)


def test_equals_the_slow_formula_with_duplicates_and_missing_negatives() -> None:
    vectors = random_vectors(7)
    vectors.keys_N2[3, 0] = vectors.keys_N2[1, 0]  # the same query
    vectors.keys_N2[5, 1] = vectors.keys_N2[2, 1]  # the same target
    config = dataclasses.replace(CONFIG, both_ways=False)
    found, _ = pair_losses(vectors, config)
    for i in range(7):
        wanted = sum(slow_loss(vectors, 0.1, dim, i) for dim in (12, 4)) / 2
        assert float(found[i]) == pytest.approx(wanted, rel=1e-5)


def test_both_ways_adds_the_other_direction_without_negatives() -> None:
    vectors = random_vectors(5)
    turned = PairVectors(
        vectors.target_NE, vectors.query_NE, vectors.negative_NE, torch.zeros(5, dtype=torch.bool), vectors.keys_N2
    )
    one_way = dataclasses.replace(CONFIG, both_ways=False)
    wanted = (pair_losses(vectors, one_way)[0] + pair_losses(turned, one_way)[0]) / 2
    torch.testing.assert_close(pair_losses(vectors, CONFIG)[0], wanted)


def test_without_the_mask_duplicates_are_negatives() -> None:
    vectors = random_vectors(4)
    vectors.keys_N2[1] = vectors.keys_N2[0]
    free = dataclasses.replace(CONFIG, duplicate_mask=False)
    assert (pair_losses(vectors, free)[0][:2] > pair_losses(vectors, CONFIG)[0][:2]).all()


def test_same_tower_adds_those_of_ones_own_side() -> None:
    """Against a sum of exponentials, one after the other."""
    vectors = random_vectors(5)
    vectors.keys_N2[3, 1] = vectors.keys_N2[1, 1]
    config = dataclasses.replace(CONFIG, dimensions=(12,), same_tower=True)
    q, t, n = (torch.nn.functional.normalize(x.double(), dim=1) for x in dataclasses.astuple(vectors)[:3])
    keys = vectors.keys_N2.tolist()
    for i, found in enumerate(pair_losses(vectors, config)[0].tolist()):
        others = [j for j in range(5) if keys[j][0] != keys[i][0] and keys[j][1] != keys[i][1]]
        own = math.exp(float(q[i] @ t[i]) / 0.1)
        hard = math.exp(float(q[i] @ n[i]) / 0.1) if vectors.has_negative_N[i] else 0.0
        there = own + hard + sum(math.exp(float(q[i] @ x[j]) / 0.1) for j in others for x in (q, t))
        back = own + sum(math.exp(float(t[i] @ x[j]) / 0.1) for j in others for x in (q, t))
        assert found == pytest.approx(-(math.log(own / there) + math.log(own / back)) / 2, rel=1e-4)


def test_a_teacher_is_learned(embedder: Model) -> None:
    """Its own similarities cost nothing; another's are a divergence, by hand, whose gradient is the student's alone."""
    own, other = random_vectors(4), random_vectors(4, seed=1)
    assert divergence(own, own, 0.1).abs().max() < 1e-6
    rows = []
    for vectors in (own, other):
        q, t = (torch.nn.functional.normalize(x.double(), dim=1) for x in (vectors.query_NE, vectors.target_NE))
        rows.append((q @ t.T / 0.1).softmax(1))
    wanted = (rows[1] * (rows[1] / rows[0]).log()).sum(1)
    torch.testing.assert_close(divergence(own, other, 0.1).double(), wanted, rtol=1e-4, atol=1e-5)
    batch = pack_pairs(rendered(embedder, 6), num_rows=2, row_tokens=40)
    plain, taught = (
        contrastive(embedder.decoder, CONFIG, teacher=teacher, teaching=0.5) for teacher in (None, embedder.decoder)
    )
    assert float(taught(batch)[0]) == pytest.approx(float(plain(batch)[0]), rel=1e-5)
    assert float(taught(batch)[2]["apart_count"]) == 6


def test_nearest_is_what_argmax_says() -> None:
    vectors = random_vectors(6)
    has = torch.zeros(6, dtype=torch.bool)
    vectors = dataclasses.replace(vectors, target_NE=vectors.query_NE.roll(1, 0), has_negative_N=has)
    assert not pair_losses(vectors, CONFIG)[1].any()
    assert pair_losses(dataclasses.replace(vectors, target_NE=vectors.query_NE), CONFIG)[1].all()


def rendered(model: Model, num: int, first: int = 0) -> list[Rendered]:
    words = ["red", "blue", "circle", "square", "how", "many", "are", "there"]

    def encode(i: int) -> Any:
        return model.renderer.encode_task([Message.user(" ".join(words[(i + k * k) % 8] for k in range(2 + i % 4)))])

    return [
        Rendered(encode(i), encode(i + 4), encode(i + 5) if i % 3 else None, i, 100 + i)
        for i in range(first, first + num)
    ]


@pytest.fixture()
def embedder(model: Model) -> Model:
    return Model(with_embedding_head(model.decoder, 12), model.renderer, model.codec)


def gradients(decoder: Decoder, run: Any) -> dict[str, torch.Tensor]:
    decoder.zero_grad()
    run()
    return {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted) and any(value.abs().max() > 1e-4 for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_packed_vectors_are_those_of_each_alone(embedder: Model) -> None:
    pairs = rendered(embedder, 7)
    batch = pack_pairs(pairs, num_rows=2, row_tokens=40)
    assert len(batch.chunks) > 1 and {tuple(chunk.ids_BT.shape) for chunk in batch.chunks} == {(2, 40)}
    with torch.no_grad():
        vectors = vectors_of(embedder.decoder, batch)
        for i, pair in enumerate(pairs):
            alone = vectors_of(embedder.decoder, pack_pairs([pair], num_rows=1, row_tokens=40))
            torch.testing.assert_close(vectors.query_NE[i], alone.query_NE[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(vectors.target_NE[i], alone.target_NE[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(vectors.negative_NE[i], alone.negative_NE[0], atol=1e-5, rtol=1e-4)
    assert batch.num_tokens == sum(len(pair) for pair in pairs)


def test_chunks_run_twice_give_the_same_gradients(embedder: Model) -> None:
    decoder, batch = embedder.decoder, pack_pairs(rendered(embedder, 9), num_rows=2, row_tokens=40)
    held = contrastive(decoder, dataclasses.replace(CONFIG, hold_chunks=99))
    twice = contrastive(decoder, dataclasses.replace(CONFIG, hold_chunks=0))
    torch.testing.assert_close(held(batch)[0], twice(batch)[0])
    same(gradients(decoder, lambda: twice(batch)[0].backward()), gradients(decoder, lambda: held(batch)[0].backward()))


class Fixed:
    """A gather in one process: the other parts' vectors as they are."""

    def __init__(self, parts: list[PairVectors]) -> None:
        self.parts, self.num_parts = parts, len(parts)

    def __call__(self, part: PairVectors, rank: int) -> list[PairVectors]:
        return [part if other == rank else one for other, one in enumerate(self.parts)]


def test_parts_add_up_to_the_whole(embedder: Model) -> None:
    decoder, pairs = embedder.decoder, rendered(embedder, 8)
    whole = contrastive(decoder, CONFIG)
    wanted = gradients(decoder, lambda: whole(pack_pairs(pairs, num_rows=2, row_tokens=40))[0].backward())
    batches = [
        pack_pairs(pairs[:5], num_rows=2, row_tokens=40), pack_pairs(pairs[5:], num_rows=2, row_tokens=40, rank=1)
    ]  # fmt: skip
    with torch.no_grad():
        gather = Fixed([vectors_of(decoder, batch) for batch in batches])
    loss = contrastive(decoder, CONFIG, gather)
    same(gradients(decoder, lambda: [loss(batch)[0].backward() for batch in batches]), wanted)
    total, count = (sum(float(loss(batch)[k].detach()) for batch in batches) for k in (0, 1))
    whole_total, whole_count, _ = whole(pack_pairs(pairs, num_rows=2, row_tokens=40))
    assert (total, count) == (pytest.approx(float(whole_total.detach())), whole_count)


def _gather_both_ways(rank: int, shared: SharedGather, port: int, folder: str) -> None:
    """Body of a process: two steps of parts of unequal length, through shared memory and through gloo."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for step in range(2):
        part = random_vectors(3 + 2 * rank + step, seed=10 * step + rank)
        for name, gather in (("shared", shared), ("ranks", RankGather())):
            joined = PairVectors.joined(gather(part, rank))
            torch.save(dataclasses.asdict(joined), Path(folder) / f"{name}-{step}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_see_all_parts(tmp_path: Path) -> None:
    shared = SharedGather(2, capacity=8, dim=12)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    arguments = (shared, port, str(tmp_path))
    processes = [context.Process(target=_gather_both_ways, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for step in range(2):
        wanted = PairVectors.joined([random_vectors(3 + 2 * rank + step, seed=10 * step + rank) for rank in range(2)])
        for name in ("shared-{}-0", "shared-{}-1", "ranks-{}-0", "ranks-{}-1"):
            found = torch.load(tmp_path / f"{name.format(step)}.pt")
            assert all(torch.equal(found[key], value) for key, value in dataclasses.asdict(wanted).items())


def test_a_part_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 2"):
        SharedGather(1, capacity=2, dim=12)(random_vectors(3), 0)


def test_it_learns_to_tell_four_pairs_apart(embedder: Model) -> None:
    decoder = embedder.decoder
    batch: PairBatch = pack_pairs(rendered(embedder, 4), num_rows=2, row_tokens=60)
    loss = contrastive(decoder, CONFIG)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        total, count, metrics = loss(batch)
        (total / count).backward()
        optimizer.step()
    assert float(total / count) < 0.05 and float(metrics["nearest"] / count) == 1.0


def test_settings_are_checked() -> None:
    for wrong, message in (({"temperature": 0.0}, "temperature=0.0"), ({"dimensions": (32, 64)}, "must fall")):
        with pytest.raises(ValueError, match=message):
            ContrastiveConfig(**wrong)
