"""One answer, however it came about: alone, among others, in chunks, preempted, after a known beginning."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import numpy as np
import pytest
import torch

import castor
from castor.content import Audio, Image, Message, Text, Video
from castor.engine.engine import Engine, EngineConfig, QueueFull
from castor.engine.model import Model
from castor.engine.request import Request
from castor.engine.sample import Grammar, SamplingConfig, pick
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence


def picture(seed: int = 0, height: int = 40, width: int = 30) -> Image:
    rng = np.random.default_rng(seed)
    return Image.from_pixels(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def sound(seconds: float = 0.25) -> Audio:
    return Audio.from_samples(np.sin(np.arange(int(16000 * seconds), dtype=np.float32) / 9))


def sequence_of(model: Model, *parts: object) -> Sequence:
    said = [part if not isinstance(part, str) else Text(part) for part in parts]
    return model.renderer.encode([Message.user(*said)], reply=True)  # ty: ignore


@torch.inference_mode()
def plain_answer(model: Model, sequence: Sequence, sampling: SamplingConfig) -> tuple[list[int], list[float]]:
    """Ids and their log-probabilities by a whole forward for every id: no cache, no batch, no engine."""
    grammar = Grammar(model.renderer.space, may_draw=model.codec is not None)
    space, generator = model.renderer.space, torch.Generator().manual_seed(sampling.seed)
    said: list[int] = []
    logprobs: list[float] = []
    while len(said) < sampling.max_tokens or grammar.is_drawing(said):
        whole = sequence.followed_by(said)
        logits_V = model.decoder(collate([[whole]], len(whole)))[0, -1].float()
        allowed_V = grammar.allowed_V(said)
        is_code = bool(allowed_V[space.first_code : space.end].any())
        token_id = pick(logits_V.masked_fill(~allowed_V, -torch.inf), sampling, generator, is_code=is_code)
        if token_id == model.renderer.stop_id:
            break
        said.append(token_id)
        logprobs.append(float(logits_V.log_softmax(-1)[token_id]))
    return said, logprobs


def finish(engine: Engine, *, preempt_every: int = 0) -> None:
    """Step to the end, now and then preempting a request, and see that no block is lost."""
    for number in range(1, 10_000):
        goes_on = engine.step()
        if preempt_every and number % preempt_every == 0 and engine.scheduler.running:
            running = engine.scheduler.running
            engine.scheduler.preempt(running[number % len(running)])
        engine.scheduler.blocks.check([request.tables for request in engine.scheduler.running])
        if not goes_on:
            assert all(pool.num_free == pool.num_blocks - 1 for pool in engine.scheduler.blocks.pools.values())
            return
    raise AssertionError("the engine does not end")


def same(request: Request, answer: tuple[list[int], list[float]]) -> None:
    assert request.said_ids == answer[0]
    logprobs = [said.logprob for said in request.said]
    assert np.allclose(np.array(logprobs, dtype=float), np.array(answer[1]), atol=1e-4)


def every_way(model: Model, prompts: list[Sequence], samplings: list[SamplingConfig]) -> list[list[int]]:
    """Plain answers; the engine's equal them together, again, in chunks, with hardly any cache, preempted, alone."""
    answers = [plain_answer(model, prompt, how) for prompt, how in zip(prompts, samplings, strict=True)]

    def ask(engine: Engine, which: range, preempt_every: int = 0) -> list[Request]:
        asked = [engine.submit_tokens(prompts[i], dataclasses.replace(samplings[i], logprobs=0)) for i in which]
        finish(engine, preempt_every=preempt_every)
        for index, request in zip(which, asked, strict=True):
            same(request, answers[index])
        return asked

    everything = range(len(prompts))
    engine = Engine(model, EngineConfig(max_rows=8, cache_tokens=4096))
    first = ask(engine, everything)
    again = ask(engine, everything)
    assert sum(request.num_reused or 0 for request in again) > sum(request.num_reused or 0 for request in first)
    ask(Engine(model, EngineConfig(max_rows=3, token_budget=9, cache_tokens=4096, block_tokens=4)), everything)
    longest = max(len(prompt) + len(answer[0]) for prompt, answer in zip(prompts, answers, strict=True))
    ask(Engine(model, EngineConfig(max_rows=8, cache_tokens=longest + 8, block_tokens=4, token_budget=40)), everything)
    forgetful = EngineConfig(max_rows=8, cache_tokens=4096, reuse_prefixes=False)
    assert any(request.num_preempted for request in ask(Engine(model, forgetful), everything, preempt_every=6))
    ask(Engine(model, EngineConfig(max_rows=1, reuse_prefixes=False, cache_tokens=4096)), everything[-1:])
    return [said for said, _ in answers]


def test_an_answer_is_the_same_every_way(model: Model) -> None:
    prompts = [
        sequence_of(model, "how many red circles?"),
        sequence_of(model, picture(), "what is it?"),
        sequence_of(model, "a much longer text about red circles and blue squares, so that rows differ", sound()),
        sequence_of(model, picture(1), picture(2), "which?"),
        sequence_of(model, Video.from_frames([picture(i).pixels() for i in range(4)], fps=1.0), "what moves?"),
    ]
    every_way(model, prompts, [SamplingConfig(max_tokens=18, temperature=i % 3 / 2, seed=i) for i in range(5)])


def test_a_drawing_is_the_same_every_way(model: Model) -> None:
    with torch.no_grad():  # drawings become likely
        model.decoder.language_model.embed_tokens.weight[model.renderer.space.special("<|draw>")] *= 6
    prompts = [sequence_of(model, "draw it"), sequence_of(model, picture(), "draw")]
    samplings = [SamplingConfig(max_tokens=14, temperature=1.0, seed=seed) for seed in (9, 27)]
    for said in every_way(model, prompts, samplings):
        assert 40 < len(said) < 80 and any(model.renderer.space.is_code(token_id) for token_id in said)


def test_a_request_may_forbid_drawing(model: Model) -> None:
    with torch.no_grad():  # a drawing at once, where it may be
        model.decoder.language_model.embed_tokens.weight[model.renderer.space.special("<|draw>")] *= 50
    engine = Engine(model)
    free, bound = (
        engine.submit_tokens(
            sequence_of(model, "draw it"), SamplingConfig(max_tokens=14, temperature=1.0, seed=9, may_draw=may_draw)
        )
        for may_draw in (True, False)
    )
    while engine.step():
        pass
    num_text = model.renderer.space.num_text
    assert any(token_id >= num_text for token_id in free.said_ids)
    assert bound.said_ids and all(token_id < num_text for token_id in bound.said_ids)


VARIANTS = {
    "shared keys and per-layer inputs": {
        "num_hidden_layers": 6,
        "layer_types": ("sliding_attention", "full_attention") * 3,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 64,
    },
    "experts, and keys that are values": {
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 2,
        "global_head_dim": 32,
    },
    "full layers alone": {"layer_types": ("full_attention", "full_attention")},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_decoder(model: Model, tiny_config: ModelConfig, variant: str) -> None:
    options = dict(VARIANTS[variant])
    if "vocab_size_per_layer_input" in options:
        options["vocab_size_per_layer_input"] = tiny_config.text.vocab_size
    text = dataclasses.replace(tiny_config.text, **options)
    config = dataclasses.replace(tiny_config, text=text, model_type="castor")
    model = Model(Decoder(config).init_weights(1), model.renderer, model.codec)
    prompts = [sequence_of(model, picture(), "x" * 30, picture(3)), sequence_of(model, "red " * 12, sound(0.1))]
    every_way(model, prompts, [SamplingConfig(max_tokens=12, temperature=1.0, seed=i) for i in range(2)])


def test_the_shipped_model_answers_the_same_every_way() -> None:
    """Text, picture, sound and film in, words and drawings out; greedy and drawn."""
    model = castor.load("atom", device="cpu")
    film = Video.from_frames([picture(i, 64, 64).pixels() for i in range(6)], fps=2.0)
    prompts = [
        sequence_of(model, "What is 17 + 25?"),
        sequence_of(model, picture(1, 64, 64), "How many red shapes are there?"),
        sequence_of(model, sound(2.0), "What do you hear?"),
        sequence_of(model, film, "What moves, and where to?"),
        sequence_of(model, "Draw a red circle."),
    ]
    samplings = [SamplingConfig(max_tokens=8, temperature=i % 2 * 0.8, seed=i) for i in range(len(prompts))]
    drawn = every_way(model, prompts, samplings)[-1]
    assert sum(model.renderer.space.is_code(token_id) for token_id in drawn) >= 16


def test_alternatives_are_the_likeliest(model: Model) -> None:
    prompt = sequence_of(model, "x")
    engine = Engine(model, EngineConfig(cache_tokens=512))
    request = engine.submit_tokens(prompt, SamplingConfig(max_tokens=3, logprobs=4))
    finish(engine)
    with torch.inference_mode():
        logits_V = model.decoder(collate([[prompt]], len(prompt)))[0, -1].float()
    best = logits_V.log_softmax(-1).topk(4)
    first = request.result().said[0]
    assert [token_id for token_id, _ in first.alternatives] == best.indices.tolist()
    assert np.allclose([logprob for _, logprob in first.alternatives], best.values.numpy(), atol=1e-5)


def test_a_known_beginning_is_not_computed_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=2048, block_tokens=4))
    embedded = []
    embed = model.decoder.embed
    monkeypatch.setattr(
        model.decoder,
        "embed",
        lambda batch: embedded.append((len(batch.patch_at_P), batch.ids_BT.numel())) or embed(batch),
    )
    shared = [picture(), "a beginning of many tokens that both prompts have, word for word, "]
    for index, parts in enumerate(([*shared, "one"], [*shared, "another"], [picture(9), *shared[1:], "one"])):
        embedded.clear()
        sequence = sequence_of(model, *parts)
        request = engine.submit_tokens(sequence, SamplingConfig(max_tokens=1))
        finish(engine)
        num_patches, num_tokens = sum(patches for patches, _ in embedded), embedded[0][1]
        assert num_tokens == len(sequence) - request.result().num_reused_tokens
        if index == 1:
            assert num_patches == 0 and num_tokens < 24
        else:  # the first prompt, and one that differs in its picture alone
            assert num_patches > 0 and request.num_reused == 4 * (index == 2)


def test_a_window_holds_no_more_than_it_needs(model: Model) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=512, block_tokens=4, token_budget=20))
    engine.submit_tokens(sequence_of(model, "1" * 200), SamplingConfig(max_tokens=100))
    most = 0
    while engine.step():
        for request in engine.scheduler.running:
            assert len(request.tables["full_attention"].blocks) == -(-request.num_computed // 4)
            most = max(most, len(request.tables["sliding_attention"].blocks))
    assert most == 24 // 4 + 1  # the window of the tiny model, and where it begins within a block


def test_priority_and_arrival_make_the_order(model: Model) -> None:
    engine = Engine(model, EngineConfig(max_rows=1, cache_tokens=512))
    ended: list[int] = []
    requests = [
        engine.submit_tokens(sequence_of(model, "x"), SamplingConfig(max_tokens=2), priority=p) for p in (0, 0, 5)
    ]
    while engine.step():
        ended += [i for i, request in enumerate(requests) if request.reason is not None and i not in ended]
    ended += [i for i in range(3) if i not in ended]
    assert ended == [2, 0, 1]


def test_deadlines_and_cancelling_keep_what_was_said(model: Model) -> None:
    now_s = 0.0
    engine = Engine(model, EngineConfig(max_rows=2, cache_tokens=512), clock=lambda: now_s)
    how = SamplingConfig(max_tokens=60, temperature=1.0)
    late, dropped, waits = (engine.submit_tokens(sequence_of(model, "x"), how, deadline_s=d) for d in (3.0, None, 2.0))
    whole = plain_answer(model, late.sequence, how)[0]
    for _ in range(4):
        engine.step()
        now_s += 1.0
    dropped.cancel()
    finish(engine)
    assert (late.result().reason, dropped.result().reason, waits.result().reason) == (
        "deadline",
        "cancelled",
        "deadline",
    )
    assert late.said_ids == whole[:3] and dropped.said_ids == whole[:4] and waits.said_ids == []
    assert late.result().total_s == 3.0 and late.result().first_s == 0.0


def test_what_cannot_be_answered_is_refused(model: Model) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=128, max_waiting=2))
    with pytest.raises(ValueError, match=r"\d+ tokens and an answer of up to 500 do not fit the engine's cache"):
        engine.submit([Message.user("x")], SamplingConfig(max_tokens=500))
    with pytest.raises(ValueError, match="are more than the 2048 that this model takes"):
        engine.submit([Message.user("x")], SamplingConfig(max_tokens=5000))
    for _ in range(2):
        engine.submit([Message.user("x")], SamplingConfig(max_tokens=2))
    with pytest.raises(QueueFull, match="2 requests wait already"):
        engine.submit([Message.user("x")], SamplingConfig(max_tokens=2))
    blind = Decoder(dataclasses.replace(model.decoder.config, vision=None)).init_weights(0)
    with pytest.raises(ValueError, match="a picture for a model without vision"):
        Engine(Model(blind, model.renderer, model.codec)).submit([Message.user(picture())])
    for options, message in (({"max_rows": 0}, "max_rows=0"), ({"token_budget": 16}, "token_budget=16 must be more")):
        with pytest.raises(ValueError, match=message):
            EngineConfig(**options)


def test_a_drawing_that_outgrows_the_cache_ends(model: Model) -> None:
    with torch.no_grad():
        model.decoder.language_model.embed_tokens.weight[model.renderer.space.special("<|draw>")] *= 50
    engine = Engine(model, EngineConfig(cache_tokens=48))
    asked = [
        engine.submit([Message.user("draw")], SamplingConfig(max_tokens=8, temperature=2.0, seed=s)) for s in range(4)
    ]
    finish(engine)
    assert "memory" in {request.result().reason for request in asked}
    assert all(len(request.ids) <= 49 for request in asked)


def test_threads_and_loops_follow_a_running_engine(model: Model) -> None:
    whole = model.generate(["draw", picture()], max_tokens=40, temperature=1.5, seed=4)
    how = SamplingConfig(max_tokens=40, temperature=1.5, seed=4)
    got: list[list] = []

    async def follow(engine: Engine) -> None:
        got.append([part async for part in engine.submit(messages, how).aparts()])
        leaver = engine.submit(messages, how)
        stream = leaver.__aiter__()
        await anext(stream)
        await stream.aclose()
        assert (await asyncio.wait_for(leaver.aresult(), 60)).reason in ("cancelled", "stop", "length")

    messages = [Message.user("draw", picture())]
    with Engine(model, EngineConfig(cache_tokens=4096)) as engine:
        threads = [
            threading.Thread(target=lambda: got.append(list(engine.submit(messages, how).parts()))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        asyncio.run(follow(engine))
        for thread in threads:
            thread.join(60)
        assert engine.submit(messages, how).result(60).message.to_json() == whole.to_json()
    for parts in got:
        assert "".join(part.text for part in parts if isinstance(part, Text)) == whole.text
    assert len(got) == 4
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(messages, how)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_an_engine_that_failed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=512))

    def fail(_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(engine.forward, "run", fail)
    request = engine.submit([Message.user("x")])
    with engine, pytest.raises(RuntimeError, match="ended by an error"):
        request.result(60)
    with Engine(model, EngineConfig(cache_tokens=512)) as engine:
        left = engine.submit([Message.user("x")], SamplingConfig(max_tokens=400, temperature=1.0))
        with pytest.raises(TimeoutError):
            left.result(0)
    assert left.result(0).reason in ("cancelled", "stop", "length")


def test_closing_without_a_thread_ends_what_is_left(model: Model) -> None:
    engine = Engine(model, EngineConfig(max_rows=1, cache_tokens=512))
    asked = [engine.submit([Message.user("x")], SamplingConfig(max_tokens=9, temperature=1.0)) for _ in range(2)]
    engine.step()
    unseen = engine.submit([Message.user("x")])
    engine.close()
    assert [request.result().reason for request in (*asked, unseen)] == ["cancelled"] * 3
    assert [len(request.said) for request in (*asked, unseen)] == [1, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_guesses_change_the_number_of_steps_alone(model: Model, temperature: float) -> None:
    """Text that repeats itself, and drawings: the ids and log-probabilities of whole forwards, in fewer steps."""
    with torch.no_grad():  # drawings become likely, and so do a few words
        weight = model.decoder.language_model.embed_tokens.weight
        weight[model.renderer.space.special("<|draw>")] *= 6
        weight[model.tokenizer.encode("red circle red circle")] *= 8
    for index, prompt in enumerate(
        (sequence_of(model, "red circle red"), sequence_of(model, picture(), "red red red"))
    ):
        sampling = SamplingConfig(max_tokens=40, temperature=temperature, seed=index, logprobs=0)
        answer = plain_answer(model, prompt, sampling)
        steps, right = {}, {}
        for num_guesses in (0, 2, 4):
            engine = Engine(model, EngineConfig(cache_tokens=512, block_tokens=4, num_guesses=num_guesses))
            request = engine.submit_tokens(prompt, sampling)
            steps[num_guesses] = 1
            while engine.step():
                steps[num_guesses] += 1
                engine.scheduler.blocks.check([request.tables for request in engine.scheduler.running])
            same(request, answer)
            right[num_guesses] = request.lookup.num_right
        assert right[0] == 0 and min(right[2], right[4]) > 0
        assert all(steps[0] - right[number] <= steps[number] < steps[0] for number in (2, 4))


def test_guesses_are_not_made_for_many(model: Model) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=2048, num_guesses=4))
    asked = [engine.submit_tokens(sequence_of(model, "red " * 9), SamplingConfig(max_tokens=30)) for _ in range(3)]
    for _ in range(20):
        engine.step()
        assert len(engine.scheduler.running) == 3
    assert not any(request.lookup.num_tried for request in asked)
    with pytest.raises(ValueError, match="guess=-1"):
        EngineConfig(num_guesses=-1)
