"""Adapters and four-bit weights: B = 0 is the base, merged = unmerged, ours = PEFT's, errors within their bounds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from castor.engine.model import Model
from castor.models.adapter import load_adapter, save_adapter
from castor.models.decoder import Decoder
from castor.models.load import load_model
from castor.nn.lora import ATTENTION, FEED_FORWARD, LoraConfig, adapters, add_adapters, merge_adapters
from castor.nn.losses import cross_entropy
from castor.nn.lowbit import (
    FORMS,
    LowBitLinear,
    dequantise,
    levels,
    pack_nibbles,
    quantise,
    quantise_linears,
    unpack_nibbles,
    weight_bytes,
)
from castor.tokens.batch import Batch
from castor.tokens.pack import collate

EVERYTHING = (*ATTENTION, *FEED_FORWARD, "embed_tokens")


def some_batch(model: Model) -> Batch:
    from castor.content import Image, Message

    picture = Image.from_pixels(torch.arange(24 * 24 * 3).reshape(24, 24, 3).remainder(251).byte().numpy())
    conversation = [Message.user(picture, "how many red"), Message.model("blue circle")]
    sequence = model.renderer.encode(conversation)
    return collate([[sequence, sequence]], 2 * len(sequence))


def disturb(model: nn.Module, seed: int = 1, size: float = 0.1) -> None:
    """Adapters as training would leave them: no part of them zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * size)


@torch.no_grad()
def logits_of(decoder: nn.Module, batch: Batch) -> torch.Tensor:
    return decoder(batch)


@pytest.mark.parametrize("targets", [ATTENTION, ("mlp.down_proj",), ("embed_tokens",), EVERYTHING])
def test_new_adapters_change_nothing(model: Model, targets: tuple[str, ...]) -> None:
    batch = some_batch(model)
    before = logits_of(model.decoder, batch)
    chosen = add_adapters(model.decoder, LoraConfig(rank=4, targets=targets))
    assert len(chosen) == {4: 8, 1: 2 if targets[0] != "embed_tokens" else 1, 8: 15}[len(targets)]
    assert torch.equal(logits_of(model.decoder, batch), before)


def test_adapters_are_a_function_of_the_seed(decoder: Decoder) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        adapted = copy.deepcopy(decoder)
        add_adapters(adapted, LoraConfig(rank=2, targets=EVERYTHING), seed)
        return [p for p in adapted.parameters() if p.requires_grad]

    one, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_only_adapters_have_gradients_and_they_are_the_merged_weights(model: Model) -> None:
    """The gradient of A and B is what the chain rule makes of the plain model's gradient of the weights."""
    batch, decoder = some_batch(model), model.decoder
    add_adapters(decoder, LoraConfig(rank=4, alpha=6.0, targets=EVERYTHING))
    disturb(decoder)
    plain = merge_adapters(copy.deepcopy(decoder))
    for each in (decoder, plain):
        cross_entropy(each.hidden(batch), each.output_weight_VD, batch.target_BT).sum.backward()
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad is not None) == ("lora" in name), name
    for name, adapter in adapters(decoder):
        slope = plain.get_submodule(name).weight.grad
        if hasattr(adapter, "lora_A"):
            wanted = {"lora_A": adapter.lora_B.T @ slope, "lora_B": slope @ adapter.lora_A.T}
        else:
            wanted = {
                "lora_embedding_A": (slope @ adapter.lora_embedding_B).T,
                "lora_embedding_B": slope.T @ adapter.lora_embedding_A.T,
            }
        for key, value in wanted.items():
            torch.testing.assert_close(getattr(adapter, key).grad, 1.5 * value, rtol=1e-3, atol=1e-4)


def test_merged_equals_unmerged(model: Model) -> None:
    batch, names = some_batch(model), set(model.decoder.state_dict())
    before = logits_of(model.decoder, batch)
    add_adapters(model.decoder, LoraConfig(rank=4, targets=EVERYTHING))
    disturb(model.decoder)
    unmerged = logits_of(model.decoder, batch)
    assert (unmerged - before).abs().max() > 0.1
    merge_adapters(model.decoder)
    assert set(model.decoder.state_dict()) == names
    torch.testing.assert_close(logits_of(model.decoder, batch), unmerged, rtol=1e-4, atol=1e-4)


def test_adapters_saved_and_loaded_give_the_same_logits(model: Model, tmp_path: Path) -> None:
    batch, fresh = some_batch(model), copy.deepcopy(model.decoder)
    config = LoraConfig(rank=3, alpha=5.0, targets=EVERYTHING, rank_stable=True)
    add_adapters(model.decoder, config)
    disturb(model.decoder)
    save_adapter(model.decoder, tmp_path, config)
    assert load_adapter(fresh, tmp_path).scale == config.scale
    assert torch.equal(logits_of(fresh, batch), logits_of(model.decoder, batch))
    with pytest.raises(ValueError, match="has adapters already"):
        load_adapter(fresh, tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported"),
        ({"ensure_weight_tying": False}, "needs ensure_weight_tying"),
        ({"r": 5}, "has shape"),
        ({"r": None}, "adapter_config.json"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(model: Model, tmp_path: Path, changes: dict, problem: str) -> None:
    fresh = copy.deepcopy(model.decoder)
    config = LoraConfig(rank=3, targets=EVERYTHING)
    add_adapters(model.decoder, config)
    save_adapter(model.decoder, tmp_path, config)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=problem):
        load_adapter(fresh, tmp_path)
    assert not list(adapters(fresh))


def test_a_target_that_no_layer_has_is_named(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="no layer 'query' in this model; there are: .*q_proj"):
        add_adapters(decoder, LoraConfig(targets=("query",)))
    assert all(parameter.requires_grad for parameter in decoder.parameters())


# Beside PEFT


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformers model whose weights are far from their initial values, saved."""
    pytest.importorskip("peft")
    from test_gemma4_parity import random_reference

    folder = tmp_path_factory.mktemp("reference")
    random_reference().save_pretrained(folder)
    return folder


@pytest.fixture
def cases(reference_folder: Path) -> Iterator[list]:
    from test_gemma4_parity import make_case

    yield [make_case(layout) for layout in ("tttt", "titat")]


def transformers_model(folder: Path) -> nn.Module:
    import transformers

    return transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(folder).eval()


@torch.inference_mode()
def assert_same_logits(adapted: nn.Module, ours: Decoder, cases: list) -> None:
    from test_gemma4_parity import reference_output

    for inputs, batch in cases:
        theirs = reference_output(adapted.get_base_model(), inputs).logits
        assert (theirs - ours(batch)).abs().max() < 1e-4


@pytest.mark.parametrize("targets", [ATTENTION + FEED_FORWARD, EVERYTHING], ids=["linear", "and embedding"])
def test_peft_loads_what_we_save(reference_folder: Path, cases: list, tmp_path: Path, targets: tuple[str, ...]) -> None:
    from peft import PeftModel

    ours, config = load_model(reference_folder), LoraConfig(rank=4, alpha=7.0, targets=targets)
    before = logits_of(ours, cases[1][1])
    add_adapters(ours, config)
    disturb(ours)
    assert (logits_of(ours, cases[1][1]) - before).abs().max() > 0.1
    save_adapter(ours, tmp_path, config, base=str(reference_folder))
    theirs = PeftModel.from_pretrained(transformers_model(reference_folder), tmp_path)
    assert_same_logits(theirs, ours, cases)


@pytest.mark.parametrize("is_rank_stable", [False, True])
@pytest.mark.parametrize("targets", [ATTENTION + FEED_FORWARD, EVERYTHING], ids=["linear", "and embedding"])
def test_we_load_what_peft_saves(
    reference_folder: Path, cases: list, tmp_path: Path, is_rank_stable: bool, targets: tuple[str, ...]
) -> None:
    import peft

    settings = {"r": 5, "lora_alpha": 8, "use_rslora": is_rank_stable, "ensure_weight_tying": True}
    settings["target_modules"] = list(targets)
    theirs = peft.get_peft_model(transformers_model(reference_folder), peft.LoraConfig(**settings)).eval()
    disturb(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_model(reference_folder)
    load_adapter(ours, tmp_path)
    assert_same_logits(theirs, ours, cases)
    assert_same_logits(theirs, merge_adapters(ours), cases)


# Four bits


def test_codes_come_back_exactly() -> None:
    codes = torch.randint(0, 16, (5, 3, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = pack_nibbles(codes)
    assert packed.nbytes == codes.nbytes // 2 and torch.equal(unpack_nibbles(packed), codes)


def test_nf4_has_the_published_levels() -> None:
    """Dettmers et al. 2023, appendix E."""
    published = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]  # fmt: skip
    torch.testing.assert_close(levels("nf4"), torch.tensor(published), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_inputs", [64, 100, 192])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e4])
def test_four_bits_err_within_their_bound(form, num_inputs: int, size: float) -> None:
    generator = torch.Generator().manual_seed(num_inputs)
    weight_FD = torch.randn(37, num_inputs, generator=generator) * size
    weight_FD[3] = 0.0
    weight_FD[5, 7] *= 50  # an outlier spoils its own group alone
    values = levels(form)
    codes, scales_FN = quantise(weight_FD, form)
    back_FD = dequantise(codes, scales_FN, values, num_inputs, torch.float32)
    widest = float(values.diff().max()) / 2
    bound_FD = scales_FN.float().repeat_interleave(64, 1)[:, :num_inputs] * widest * (1 + 1e-6)
    assert ((weight_FD - back_FD).abs() <= bound_FD).all()
    assert (back_FD[3] == 0).all() and codes.nbytes == 37 * 32 * -(-num_inputs // 64)
    nearest = (weight_FD[0, :64, None] / scales_FN[0, 0].float() - values).abs().argmin(-1)  # the slow formula
    assert torch.equal(unpack_nibbles(codes)[0, 0, : len(nearest)].long(), nearest)
    codes_again, scales_again = quantise(back_FD, form)  # the largest of a group is its scale, so nothing moves
    assert torch.equal(codes_again, codes) and torch.equal(scales_again, scales_FN)


def test_what_is_not_finite_has_no_four_bits() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_four_bit_layer_is_a_plain_one_with_its_weights(has_bias: bool) -> None:
    torch.manual_seed(0)
    layer = LowBitLinear(nn.Linear(100, 30, bias=has_bias))
    plain = nn.Linear(100, 30, bias=has_bias)
    plain.weight, plain.bias = nn.Parameter(layer.weight), layer.bias
    x, y = torch.randn(4, 7, 100, requires_grad=True), torch.randn(4, 7, 100)
    y = y.copy_(x.detach()).requires_grad_()
    assert torch.equal(layer(x), plain(y))
    layer(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_adapters_on_four_bits_learn_and_the_base_stays(model: Model) -> None:
    batch, decoder = some_batch(model), model.decoder
    whole = weight_bytes(decoder.language_model.layers)
    chosen = quantise_linears(decoder, min_weights=1)
    assert len(chosen) > 14 and all("proj" in name or "dense" in name for name in chosen)
    assert weight_bytes(decoder.language_model.layers) < 0.25 * whole
    four_bit = logits_of(decoder, batch)
    add_adapters(decoder, LoraConfig(rank=4))
    assert torch.equal(logits_of(decoder, batch), four_bit)
    codes = {name: value.clone() for name, value in decoder.named_buffers()}
    disturb(decoder)
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = cross_entropy(decoder.hidden(batch), decoder.output_weight_VD, batch.target_BT).sum
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, codes[name]) for name, value in decoder.named_buffers())
    assert all(("lora" in name) == parameter.requires_grad for name, parameter in decoder.named_parameters())
    tuned = logits_of(decoder, batch)
    merge_adapters(decoder)
    assert not any(isinstance(module, LowBitLinear) for module in decoder.modules())
    torch.testing.assert_close(logits_of(decoder, batch), tuned, rtol=1e-3, atol=1e-3)
