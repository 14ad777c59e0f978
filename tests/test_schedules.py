"""Random schedules through the real scheduler, blocks and cache with a tiny decoder: nothing lost, nothing changed."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from castor.content import Audio, Image, Message, Text
from castor.engine.blocks import Blocks
from castor.engine.engine import Engine, EngineConfig, QueueFull
from castor.engine.model import Model
from castor.engine.prefix import Prefix, media_of
from castor.engine.request import Request
from castor.engine.sample import Grammar, SamplingConfig, pick
from castor.models.config import ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.tokens.pack import collate
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt, how to answer it, and the answer by whole forwards."""

    sequence: Sequence
    sampling: SamplingConfig
    answer: list[int]


@pytest.fixture(scope="module")
def silent(tiny_config: ModelConfig, renderer: Renderer) -> Model:
    """A decoder of width 8 with a window of 6, which does not draw."""
    text = dataclasses.replace(
        tiny_config.text,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        head_dim=4,
        global_head_dim=4,
        sliding_window=6,
    )
    vision = VisionConfig(patch_size=8, pooling_kernel_size=1, mm_embed_dim=8, mm_posemb_size=32)
    return Model(Decoder(dataclasses.replace(tiny_config, text=text, vision=vision)).init_weights(3), renderer, None)


@torch.inference_mode()
def plain_ids(model: Model, sequence: Sequence, sampling: SamplingConfig) -> list[int]:
    grammar = Grammar(model.renderer.space, may_draw=False)
    generator = torch.Generator().manual_seed(sampling.seed)
    said: list[int] = []
    while len(said) < sampling.max_tokens:
        whole = sequence.followed_by(said)
        logits_V = model.decoder(collate([[whole]], len(whole)))[0, -1].float()
        token_id = pick(logits_V.masked_fill(~grammar.allowed_V(said), -torch.inf), sampling, generator)
        if token_id == model.renderer.stop_id:
            break
        said.append(token_id)
    return said


@pytest.fixture(scope="module")
def pool(silent: Model) -> list[Asked]:
    """Prompts that share beginnings, some with pictures of 9 to 16 tokens and sound."""
    rng = np.random.default_rng(0)
    pictures = [Image.from_pixels(rng.integers(0, 256, (8 * h, 24, 3), dtype=np.uint8)) for h in (3, 5)]
    sound = Audio.from_samples(rng.normal(size=3000).astype(np.float32) / 9)
    prompts: list[list] = [
        ["a"],
        ["how many red circles are there"],
        ["how many red circles are there, and how many blue squares"],
        [pictures[0], "red"],
        [pictures[0], "red circle"],
        [pictures[1], "red"],
        [sound, "red"],
        ["x", pictures[1], "y", sound, pictures[0]],
    ]
    asked = []
    for index, parts in enumerate(prompts * 2):
        message = Message.user(*(Text(part) if isinstance(part, str) else part for part in parts))
        sequence = silent.renderer.encode([message], reply=True)
        how = SamplingConfig(max_tokens=1 + index * 5 % 13, temperature=index % 3 / 2, seed=index)
        asked.append(Asked(sequence, how, plain_ids(silent, sequence, how)))
    return asked


def play(silent: Model, pool: list[Asked], seed: int) -> dict[str, int]:
    """One schedule: arrivals, cancellations and deadlines under too little memory; counts of what happened."""
    rng = random.Random(seed)
    chosen = [rng.choice(pool) for _ in range(rng.randint(1, 7))]
    longest = max(len(asked.sequence) + asked.sampling.max_tokens for asked in chosen)
    max_rows = rng.randint(1, 5)
    config = EngineConfig(
        max_rows=max_rows,
        token_budget=max_rows + rng.choice((1, 4, 12, 60)),
        block_tokens=rng.choice((1, 3, 4, 8)),
        cache_tokens=longest + rng.choice((8, 20, 60, 200)),
        max_waiting=rng.choice((2, 100)),
        reuse_prefixes=rng.random() < 0.7,
        num_guesses=rng.choice((0, 2, 5)),
    )
    step = 0
    engine = Engine(silent, config, clock=lambda: float(step))
    arrivals = sorted((rng.randint(0, 12), index) for index in range(len(chosen)))
    cancels = {index: rng.randint(0, 30) for index in range(len(chosen)) if rng.random() < 0.2}
    running: dict[int, Request] = {}
    counts = {"refused": 0, "preempted": 0, "reused": 0, "cut": 0, "whole": 0, "guessed": 0}
    while True:
        while arrivals and arrivals[0][0] <= step:
            index = arrivals.pop(0)[1]
            deadline_s = float(rng.randint(0, 40)) if rng.random() < 0.15 else None
            try:
                running[index] = engine.submit_tokens(
                    chosen[index].sequence,
                    chosen[index].sampling,
                    deadline_s=deadline_s,
                    priority=rng.choice((0, 0, 1)),
                )
            except QueueFull:
                counts["refused"] += 1
        for index, at in cancels.items():
            if at == step and index in running:
                running[index].cancel()
        left = [request for request in running.values() if request.reason is None]
        earliest = min(left, key=lambda request: request.order, default=None)
        before = earliest.num_preempted if earliest is not None else 0
        goes_on = engine.step()
        assert earliest is None or earliest.num_preempted == before, "the earliest never gives way"
        engine.scheduler.blocks.check([request.tables for request in engine.scheduler.running])
        assert len(engine.scheduler.running) <= max_rows
        step += 1
        if not goes_on and not arrivals:
            break
        assert step < 1000, "somebody starves"
    for index, request in running.items():
        assert request.reason is not None
        answer = chosen[index].answer
        is_whole = request.reason in ("stop", "length")
        assert request.said_ids == (answer if is_whole else answer[: len(request.said)]), (seed, index)
        assert is_whole or index in cancels or request.deadline_at_s is not None
        counts["whole" if is_whole else "cut"] += 1
        counts["preempted"] += request.num_preempted
        counts["reused"] += bool(request.num_reused)
        counts["guessed"] += request.lookup.num_right
    assert all(
        block_pool.num_free == block_pool.num_blocks - 1 for block_pool in engine.scheduler.blocks.pools.values()
    )
    return counts


def play_many(silent: Model, pool: list[Asked], seeds: range) -> None:
    totals: dict[str, int] = {}
    for seed in seeds:
        for name, count in play(silent, pool, seed).items():
            totals[name] = totals.get(name, 0) + count
    assert all(count > len(seeds) // 20 for count in totals.values()), totals  # everything happened, and often


def test_hundreds_of_schedules(silent: Model, pool: list[Asked]) -> None:
    play_many(silent, pool, range(200))


@pytest.mark.slow
def test_ten_thousand_schedules(silent: Model, pool: list[Asked]) -> None:
    play_many(silent, pool, range(1000, 11_000))


def test_blocks_are_found_only_where_a_window_still_sees_them() -> None:
    blocks = Blocks({"sliding": 20, "full": 20}, {"sliding": 4, "full": None}, block_tokens=2)
    keys = [bytes([index]) for index in range(6)]
    tables = blocks.new_tables()
    assert blocks.grow(tables, 12)
    blocks.name(tables, keys)
    blocks.slide(tables, 12)  # a token at 12 sees 9 and later
    assert (tables["sliding"].first, len(tables["sliding"].blocks), len(tables["full"].blocks)) == (4, 2, 6)
    again = blocks.new_tables()
    assert blocks.reuse(again, keys) == 12
    assert again["sliding"].blocks == tables["sliding"].blocks and again["full"].blocks == tables["full"].blocks
    blocks.check([tables, again])
    shorter = blocks.new_tables()
    assert blocks.reuse(shorter, keys[:5]) == 10  # blocks 0-3 are free, not forgotten
    blocks.check([tables, again, shorter])
    for table in (tables, again, shorter):
        blocks.release(table)
    taken = [blocks.pools["sliding"].take() for _ in range(19 - 4)]
    assert len(set(taken)) == 15 and blocks.reuse(again, keys) == 12, "what was used last is kept longest"


def test_keys_tell_pictures_apart_and_splits_spare_them(renderer: Renderer) -> None:
    def sequence(seed: int) -> Sequence:
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        return renderer.encode([Message.user("red", Image.from_pixels(pixels), "blue circle")], reply=True)

    one, other = sequence(0), sequence(1)
    assert one.ids_T.tolist() == other.ids_T.tolist()
    ((first, stop, *_),) = media_of(one)
    ids = one.ids_T.tolist()
    keys, others = (Prefix(s, 4).keys(ids, len(ids)) for s in (one, other))
    assert [a == b for a, b in zip(keys, others, strict=True)] == [4 * (i + 1) <= first for i in range(len(keys))]
    prefix = Prefix(one, 4)
    assert [at for at in range(len(ids)) if not prefix.may_split(at)] == list(range(first + 1, stop))
    assert prefix.longest_picture == stop - first
