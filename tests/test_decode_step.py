"""The compiled decode step: the logits of torch's layers, whatever rows are beside a row, and torch where it cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from castor.content import Message
from castor.engine.compiled import CompiledStep
from castor.engine.decode import can_decode
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.models.config import ModelConfig, TextConfig
from castor.models.decoder import Decoder
from castor.models.packing import PackConfig, pack_decoder
from castor.nn.lora import LoraConfig, add_adapters
from castor.nn.native import native
from castor.tokens.pack import collate

pytestmark = pytest.mark.skipif(native("layers") is None, reason="no C++ compiler")

PROMPTS = ["one", "a rather longer prompt of many words", "red circles and blue squares " * 4, "x", "two of them"]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "keys as values, capped": {"attention_k_eq_v": True, "final_logit_softcapping": 5.0, "global_head_dim": 32},
    "grouped heads, no whole 16s": {"num_attention_heads": 6, "head_dim": 10, "intermediate_size": 76},
}


def model_of(model: Model, dtype: torch.dtype, **more: Any) -> Model:
    """The suite's renderer with a decoder of the given form, whose window is shorter than the prompts."""
    text = TextConfig(
        vocab_size=model.renderer.space.vocab_size,
        **{"hidden_size": 40, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16, "sliding_window": 24} | more,
    )  # fmt: skip
    decoder = Decoder(ModelConfig(text=text)).init_weights(3)
    with torch.no_grad():
        for tensor in decoder.state_dict().values():
            if tensor.ndim == 1:  # scales that are not one, so that none can be left out
                tensor.mul_(torch.linspace(0.7, 1.3, len(tensor)) if len(tensor) > 1 else 0.9)
    return Model(decoder.to(dtype), model.renderer, None)


def speaking(model: Model, steps: int = 20, prompts: list[str] = PROMPTS) -> tuple[Engine, list[Any]]:
    """An engine after some steps, and its next spans, all of which speak."""
    engine = Engine(model, EngineConfig(max_rows=8, block_tokens=4, cache_tokens=2048))
    for prompt in prompts:
        engine.submit([Message.user(prompt)], SamplingConfig(max_tokens=100))
    for _ in range(steps):
        engine.step()
    spans = engine.scheduler.plan()
    assert len(spans) == len(prompts) and not any(span.request.is_reading for span in spans)
    return engine, spans


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_torch(model: Model, form: str) -> None:
    engine, spans = speaking(model_of(model, torch.float32, **FORMS[form]))
    with torch.inference_mode():
        plain = engine.forward.decoder.project(engine.forward._speak(spans)).clone()
        rooms = [room.clone() for room in engine.forward.store.rooms]
        assert engine.forward.decode is not None
        fast = engine.forward.decode.run(spans)
    assert (fast - plain).abs().max() < 2e-5 * plain.abs().max()
    for room, written in zip(rooms, engine.forward.store.rooms, strict=True):  # the same keys and values, too
        assert (room - written).abs().max() < 1e-5


PACKED = [PackConfig(bits=4), PackConfig(bits=8), PackConfig(bits=4, table_bits=8)]


def plain_and_fast(engine: Engine, spans: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The float logits of spans by torch's layers, and by the compiled step."""
    with torch.inference_mode():
        plain = engine.forward.decoder.project(engine.forward._speak(spans)).float().clone()
        assert engine.forward.decode is not None
        return plain, engine.forward.decode.run(spans)


@pytest.mark.parametrize("pack", PACKED, ids=["4", "8", "4 and 8"])
@pytest.mark.parametrize("form", FORMS)
def test_packed_logits_are_those_of_torch(model: Model, form: str, pack: PackConfig) -> None:
    """But for inputs that the other order of a sum puts on the other side of a rounding to int8."""
    packed = model_of(model, torch.float32, **FORMS[form])
    pack_decoder(packed.decoder, pack)
    engine, spans = speaking(packed)
    plain, fast = plain_and_fast(engine, spans)
    apart = (fast - plain).abs() / plain.abs().max()
    assert apart.max() < 0.02 and apart.median() < 1e-3
    assert engine.forward.decode is not None
    for number in range(1, len(spans)):
        assert torch.equal(fast[:number], engine.forward.decode.run(spans[:number]))


def test_packed_rows_in_bfloat16_and_through_torch(model: Model) -> None:
    packed = model_of(model, torch.bfloat16)
    pack_decoder(packed.decoder, PackConfig(bits=4))
    engine, spans = speaking(packed)
    plain, fast = plain_and_fast(engine, spans)
    apart = (fast - plain).abs() / plain.abs().max()
    assert apart.max() < 0.1 and apart.mean() < 0.02
    packed.decoder.language_model.layers[2].mlp.up_proj.bits = 8
    assert not can_decode(packed.decoder)


@pytest.mark.slow  # PyTorch compiles for a minute
def test_the_step_that_pytorch_compiles_says_the_same(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the window, and when one of two rows has ended; a table is filled up, too."""
    own = model_of(model, torch.float32, num_hidden_layers=2)
    answers = {}
    for way in ("own", "compiled"):
        monkeypatch.setenv("CASTOR_STEPS", way)
        engine = Engine(own, EngineConfig(max_rows=8, block_tokens=16, cache_tokens=2048))
        asked = [
            engine.submit([Message.user(prompt)], SamplingConfig(max_tokens=most))
            for prompt, most in ((PROMPTS[1], 6), (PROMPTS[2], 10))
        ]
        while engine.step():
            pass
        answers[way] = [request.said_ids for request in asked]
        assert isinstance(engine.forward.decode, CompiledStep) == (way == "compiled")
    assert answers["own"] == answers["compiled"] and all(answers["own"])


def test_bfloat16_is_as_near_to_the_truth_as_torch(model: Model) -> None:
    """Both step on the same rounded keys; the truth is a float32 forward of everything with the same weights."""
    rounded = model_of(model, torch.bfloat16)
    engine, spans = speaking(rounded)
    exact = copy.deepcopy(rounded.decoder).float()
    sequences = [span.request.sequence.followed_by(span.request.said_ids) for span in spans]
    with torch.inference_mode():
        true = torch.stack([exact(collate([[sequence]], len(sequence)))[0, -1] for sequence in sequences])
        plain = engine.forward.decoder.project(engine.forward._speak(spans)).float()
        assert engine.forward.decode is not None
        fast = engine.forward.decode.run(spans)
    assert 0 < (fast - true).square().mean() < 1.1 * (plain - true).square().mean()
    assert (fast - true).abs().max() < 0.1 * true.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_company(model: Model, dtype: torch.dtype) -> None:
    engine, spans = speaking(model_of(model, dtype))
    step = engine.forward.decode
    assert step is not None
    together = step.run(spans)
    for number in range(1, len(spans)):
        assert torch.equal(together[:number], step.run(spans[:number]))
    assert torch.equal(together[2:], step.run(spans[2:]))


def test_more_rows_than_it_takes_go_through_torch(model: Model) -> None:
    engine, spans = speaking(model_of(model, torch.float32))
    assert engine.forward.decode is not None
    engine.forward.decode.max_rows = len(spans) - 1
    logits = engine.forward.run(spans)
    assert (logits - engine.forward.decode.run(spans)).abs().max() < 1e-4


def test_what_it_cannot_compute_is_left_to_torch(model: Model) -> None:
    decoder = model_of(model, torch.float32).decoder
    assert can_decode(decoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("castor.engine.decode.native", lambda name: None)
        assert not can_decode(decoder)
    assert not can_decode(model_of(model, torch.float32, attention_bias=True).decoder)
    assert not can_decode(model_of(model, torch.float64).decoder)
    mixed = model_of(model, torch.float32).decoder
    mixed.language_model.embed_tokens.to(torch.bfloat16)
    assert not can_decode(mixed)
    add_adapters(decoder, LoraConfig(rank=2))
    assert not can_decode(decoder)
