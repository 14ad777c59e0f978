"""Vectors beside answers in one engine: the same as each alone, and neither waits for the other."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from castor.content import Message
from castor.engine.embed import embed_sequences
from castor.engine.engine import Engine, EngineConfig, QueueFull
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.tokens.render import Renderer
from castor.tokens.sequence import Sequence


@pytest.fixture()
def both(tiny_config: ModelConfig, renderer: Renderer) -> Model:
    """A tiny model that answers and has a head for vectors."""
    text = dataclasses.replace(tiny_config.text, embedding_dim=24)
    return Model(
        Decoder(dataclasses.replace(tiny_config, text=text, model_type="castor")).init_weights(0),
        copy.copy(renderer),
        None,
    )


def prompts(model: Model, count: int) -> list[Sequence]:
    return [model.renderer.encode([Message.user(f"red circle {at} " * (1 + at % 5))]) for at in range(count)]


def test_vectors_are_those_of_each_alone(both: Model) -> None:
    sequences = prompts(both, 21)
    engine = Engine(both, EngineConfig(token_budget=64))
    first, second = engine.submit_vectors(sequences[:19]), engine.submit_vectors(sequences[19:])
    while engine.step():
        pass
    got = torch.cat([first.result(0), second.result(0)])
    alone = torch.cat([embed_sequences(both.decoder, [one], both.device) for one in sequences])
    assert got.shape == (21, 24)
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=0)


def test_neither_answers_nor_vectors_wait_for_the_other(both: Model) -> None:
    """Between two shares of vectors every answer gets on by a token; a small request overtakes a large one."""
    asked = both.renderer.encode([Message.user("how many")], reply=True)
    sampling = SamplingConfig(max_tokens=12)
    alone = Engine(both)
    plain = alone.submit_tokens(asked, sampling)
    while alone.step():
        pass
    engine = Engine(both, EngineConfig(token_budget=64))
    answer = engine.submit_tokens(asked, sampling)
    large, small = engine.submit_vectors(prompts(both, 200)), engine.submit_vectors(prompts(both, 2))
    said = []
    for _ in range(12):
        engine.step()
        said.append(len(answer.said))
    assert small.done() and not large.done()
    assert [b - a for a, b in zip(said, said[1:], strict=False)] == [1] * 11
    while engine.step():
        pass
    assert len(large.result(0)) == 200
    assert answer.said_ids == plain.said_ids


def test_cancelled_and_refused(both: Model, model: Model) -> None:
    engine = Engine(both, EngineConfig(token_budget=64, max_waiting=2))
    left, kept = engine.submit_vectors(prompts(both, 50)), engine.submit_vectors(prompts(both, 1))
    with pytest.raises(QueueFull):
        engine.submit_vectors(prompts(both, 1))
    assert left.cancel()
    engine.step()
    assert kept.done() and not engine.step()
    long = both.renderer.encode([Message.user("red " * 3000)])
    with pytest.raises(ValueError, match="tokens"):
        engine.submit_vectors([long])
    with pytest.raises(ValueError, match="no embedding head"):
        Engine(model).submit_vectors(prompts(model, 1))


def test_a_thread_computes_them_and_closing_ends_them(both: Model) -> None:
    with Engine(both) as engine:
        assert engine.submit_vectors(prompts(both, 3)).result(20).shape == (3, 24)
    still = Engine(both)
    waiting = still.submit_vectors(prompts(both, 3))
    still.close()
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(0)
