"""Few bits through the doors that people use: chat, generate and serve, for folders of ours and for published ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from serving import serving

import castor
from castor import cli
from castor.cli_serve import _offers
from castor.content import Message
from castor.demo.chat import HELP
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig, grammar_of
from castor.nn.blocks import BlockCache, BlockStore, LayerShape, RowBlocks
from castor.nn.packed import Packed
from castor.tokens.pack import collate

LAYOUTS = ("ours", "gemma4_unified", "gemma4 E2B")
LINES = ("how many red circles are there", "and blue ones")


@pytest.fixture
def folder(request: pytest.FixtureRequest, model: Model, tmp_path: Path) -> Path:
    """A model's folder in the layout that the test names."""
    if request.param == "ours":
        model.save(tmp_path / "model", precision="float32")
        return tmp_path / "model"
    published = pytest.importorskip("published")
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    (tmp_path / "model").mkdir()
    if request.param == "gemma4_unified":
        published.write_checkpoint(tmp_path / "model")
    else:
        published.write_tower_checkpoint(tmp_path / "model", request.param)
    return tmp_path / "model"


@torch.inference_mode()
def plain_answer(model: Model, messages: list[Message], max_tokens: int) -> str:
    """The likeliest ids by a forward of everything for each of them: no cache, no engine."""
    renderer = model.renderer
    grammar = grammar_of(renderer.space, may_draw=model.codec is not None)
    sequence, said = model.encode_prompt(messages), []
    while len(said) < max_tokens:
        whole = sequence.followed_by(said)
        logits_V = model.decoder(collate([[whole]], len(whole)))[0, -1].float()
        token_id = int(logits_V.masked_fill(~grammar.allowed_V(said), -torch.inf).argmax())
        if token_id in renderer.stop_ids:
            break
        said.append(token_id)
    return Message("model", renderer.decode(said)).text


@pytest.mark.parametrize("folder", LAYOUTS, indirect=True)
def test_chat_in_four_bits(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two turns typed into `castor chat`, whose answers are those of whole forwards of the packed model."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in ("/help", *LINES, "/quit"))))
    monkeypatch.setattr("castor.demo.chat._remember_lines", lambda: None)  # nobody's history is touched
    assert cli.main(["chat", "--model", str(folder), "--quantize", "int4", "--max-tokens", "6"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and HELP in said.out
    answers = [answer.removesuffix("\n") for answer in said.out.partition(HELP)[2].split("> ")[1:3]]
    model = castor.load(folder, device="cpu", quantize="int4")
    assert sum(isinstance(module, Packed) for module in model.decoder.modules()) > 10
    messages: list[Message] = []
    for line, answer in zip(LINES, answers, strict=True):
        messages.append(Message.user(line))
        assert answer == plain_answer(model, messages, 6)
        messages.append(Message.model(answer))


def test_a_cache_in_eight_bits_holds_what_rounding_gives() -> None:
    """What a cache gives back is each head of each token rounded to 127 steps of its largest number."""
    shape = LayerShape("full_attention", 3, 16)
    store = BlockStore([shape], {"full_attention": 4}, 4, is_int8=True)
    key, value = torch.randn(2, 1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    rows = RowBlocks(torch.tensor([[3, 1]]), torch.tensor([0]), torch.tensor([12, 13, 14, 15, 4, 5, 6, 7]))
    cache = BlockCache(store, {"full_attention": rows})
    for given, held in zip((key, value), cache.append(0, key, value), strict=True):
        assert held.shape == (1, 3, 8, 16)
        step = given.abs().amax(-1, keepdim=True) / 127
        assert ((held - given).abs() <= 0.5 * step + 127 * step * 2**-8).all()  # rounding, and the scale's own
        assert (held - given).abs().max() > 0
    assert store.num_bytes == 4 * 4 * 2 * 3 * (16 + 2)


def test_every_token_of_an_answer_is_likely_as_before(model: Model) -> None:
    """Log-probabilities along an answer of 24 ids stay within 0.05 of those of a whole forward without a cache."""
    engine = Engine(model, EngineConfig(cache_tokens=512, cache_type="int8", block_tokens=4))
    sampling = SamplingConfig(max_tokens=24, temperature=1.0, seed=2, logprobs=0, may_draw=False)
    request = engine.submit([Message.user("how many red circles are there in all of this")], sampling)
    while engine.step():
        pass
    whole = request.sequence.followed_by(request.said_ids)
    with torch.inference_mode():
        logprob_TV = model.decoder(collate([[whole]], len(whole)))[0].float().log_softmax(-1)
    first = len(request.sequence) - 1
    exact = logprob_TV[first : first + len(request.said)].gather(1, torch.tensor(request.said_ids)[:, None])[:, 0]
    found = torch.tensor([said.logprob for said in request.said])
    assert len(found) == 24 and 0 < (found - exact).abs().max() < 0.05


def test_every_door_takes_a_cache_in_eight_bits(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "model")
    model.save(folder, precision="float32")
    loaded = castor.load(folder, device="cpu", cache="int8")
    answer = loaded.generate("red circle", max_tokens=8).text
    engines = []
    begun = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", lambda self, *a, **k: begun(self, *a, **k) or engines.append(self))
    assert cli.main(["generate", "--model", folder, "--cache", "int8", "--max-tokens", "8", "red circle"]) == 0
    assert capsys.readouterr().out == f"{answer}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("red circle\n"))
    monkeypatch.setattr("castor.demo.chat._remember_lines", lambda: None)
    assert cli.main(["chat", "--model", folder, "--cache", "int8", "--max-tokens", "8"]) == 0
    assert answer in capsys.readouterr().out
    [offer] = _offers(folder, [], ("tiny",), None, {"cache": "int8", "guess": 2})
    with serving(offer.load()) as served:
        body: dict[str, Any] = {"contents": [{"parts": [{"text": "red circle"}]}]}
        body["generationConfig"] = {"responseModalities": ["TEXT", "IMAGE"], "maxOutputTokens": 8, "temperature": 0}
        reply = httpx.post(f"{served.url}/v1beta/models/tiny:generateContent", json=body, timeout=60).json()
        assert reply["candidates"][0]["content"]["parts"][0]["text"] == answer
    assert len(engines) == 3 and all(engine.forward.store.scales for engine in engines)
    assert not Engine(castor.load(folder, device="cpu")).forward.store.scales
    with pytest.raises(ValueError, match="cache_type='int2'"):
        castor.load(folder, cache="int2")
