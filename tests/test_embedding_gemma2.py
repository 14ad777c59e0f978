"""EmbeddingGemma 2's text encoder against transformers', up to one vector for every document."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

import reference as ref
import transformers

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.text_config import FULL, SLIDING
from castor.nn.pool import mean_by_document

TOLERANCE = 1e-4
NAMES = ["embedding_gemma2", "embedding_gemma2 text"]
LENGTHS = (5, 3 * ref.WINDOW, ref.WINDOW + 1, 1)
Pair = tuple[Any, Decoder]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return ref.pairs(NAMES, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_vectors_of_tokens_equal_transformers(pairs: dict[str, Pair], name: str) -> None:
    """Alone, and packed with others and padding; shorter and longer than the window on both sides."""
    reference, model = pairs[name]
    ids = ref.documents(*LENGTHS)
    packed = ref.our_output(model, ref.batch_of([ids[:2], ids[2:]]))
    found = (packed[0, :5], packed[0, 5:41], packed[1, :13], packed[1, 13:14])
    for one, ours in zip(ids, found, strict=True):
        theirs = ref.their_output(reference, one)
        assert (theirs - ours).abs().max() < TOLERANCE
        assert (theirs - ref.our_output(model, ref.batch_of([[one]]))[0, : len(one)]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_vectors_of_documents_equal_transformers_in_its_own_batch(pairs: dict[str, Pair], name: str) -> None:
    """Theirs padded to a batch, with the mean over real tokens and unit length as Sentence Transformers takes them."""
    reference, model = pairs[name]
    ids = ref.documents(*LENGTHS)
    padded = torch.zeros(len(ids), max(LENGTHS), dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, one in enumerate(ids):
        padded[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1
    output = reference(input_ids=padded, attention_mask=mask).last_hidden_state
    mean = (output * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    batch = ref.batch_of([ids[:1], ids[1:3], ids[3:]])
    assert (model.vectors(batch, unit=False) - mean).abs().max() < TOLERANCE
    assert (model.vectors(batch) - F.normalize(mean, dim=-1)).abs().max() < TOLERANCE
    assert model.vectors(batch).shape == (4, 24)


@torch.inference_mode()
def test_packed_equals_separate(pairs: dict[str, Pair]) -> None:
    model = pairs["embedding_gemma2"][1]
    ids = ref.documents(*LENGTHS)
    alone = torch.cat([model.vectors(ref.batch_of([[one]])) for one in ids])
    for rows in ([ids], [[one] for one in ids], [ids[:3], ids[3:]]):
        torch.testing.assert_close(model.vectors(ref.batch_of(rows)), alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_model_that_also_writes_embeds_both_ways(pairs: dict[str, Pair]) -> None:
    """The same weights with a causal config give the same vectors of documents, beside logits."""
    encoder, batch = pairs["embedding_gemma2"][1], ref.batch_of([ref.documents(20, 9)])
    text = dataclasses.replace(encoder.config.text, use_bidirectional_attention=None)
    writer = Decoder(ModelConfig(text=text, model_type="castor"))
    writer.load_state_dict(encoder.state_dict())
    assert (writer.vectors(batch) - encoder.vectors(batch)).abs().max() == 0
    assert writer(batch).shape == (1, 32, ref.VOCABULARY)


def test_mean_is_its_slow_formula() -> None:
    x, doc = torch.randn(2, 6, 3), torch.tensor([[0, 0, 2, 2, 2, -1], [1, 0, 0, -1, -1, -1]])
    wanted = [x[0, :2], x[0, 2:5], x[1, 1:3], x[1, :1]]  # by row, then by number
    torch.testing.assert_close(mean_by_document(x, doc), torch.stack([part.mean(0) for part in wanted]))
    assert mean_by_document(x.bfloat16(), doc).dtype == torch.float32


def test_every_parameter_learns(pairs: dict[str, Pair]) -> None:
    model = Decoder(pairs["embedding_gemma2"][1].config).init_weights(0)
    model.vectors(ref.batch_of([ref.documents(20, 9)])).square().sum(0)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_what_we_save_transformers_reads(pairs: dict[str, Pair], name: str, tmp_path: Path) -> None:
    model = pairs[name][1]
    again = ref.read_back(model, name, tmp_path)
    ids = ref.documents(3 * ref.WINDOW)[0]
    ours = ref.our_output(model, ref.batch_of([[ids]]))[0, : len(ids)]
    assert (ref.their_output(again, ids) - ours).abs().max() < TOLERANCE


def test_what_it_cannot_do_is_said(pairs: dict[str, Pair]) -> None:
    model, batch = pairs["embedding_gemma2"][1], ref.batch_of([ref.documents(4)])
    with pytest.raises(ValueError, match="no logits"):
        model(batch)
    with pytest.raises(ValueError, match="nothing is kept"):
        model.new_cache(1, 4)
    values = model.config.to_hf()
    values["text_config"]["num_kv_shared_layers"] = 2
    with pytest.raises(ValueError, match="num_kv_shared_layers=2 is not supported in embedding_gemma2"):
        ModelConfig.from_hf(values)


def test_published_size_builds_on_meta() -> None:
    """From transformers' defaults, which are the published text side's: 271 million parameters."""
    config = transformers.EmbeddingGemma2Config(vision_config=None, audio_config=None)
    ours = ModelConfig.from_hf(json.loads(config.to_json_string(use_diff=False)))
    assert (ours.text.kv_heads(SLIDING), ours.text.kv_heads(FULL), ours.text.sliding_window) == (2, 1, 513)
    with torch.device("meta"):
        model, reference = Decoder(ours), transformers.EmbeddingGemma2Model(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in reference.named_parameters()}
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(271, abs=1)
