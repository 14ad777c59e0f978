"""Weights in 4 and 8 bits: packed = slow formula, compiled = plain, saved = loaded, together = alone, cache bounded."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import castor
from castor import cli
from castor.content import Message
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import SamplingConfig
from castor.models.calibrate import pack_calibrated
from castor.models.config import ModelConfig, TextConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.models.packing import PackConfig, pack_decoder, packable, packing_of
from castor.nn import packed as packed_module
from castor.nn.blocks import int8_heads
from castor.nn.compensate import compensated
from castor.nn.experts import Experts, plain_grouped_product
from castor.nn.kernels import Kernels, kernels
from castor.nn.packed import (
    GROUP,
    ROWS,
    Packed,
    PackedLinear,
    pack,
    plain_pack,
    plain_product,
    product,
    rounded_input,
    unpack,
    unpack_rows,
)
from castor.nn.pages import LargePages
from castor.tokens.pack import collate

SHAPES = [(16, 32), (17, 33), (48, 96), (7, 1), (130, 200)]  # outputs, inputs
PROMPTS = [["how many red circles?"], ["a much longer text about red circles and blue squares"], ["x"]]


def matrix(num_outputs: int, num_inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(seed)) * 0.1


def compiled() -> Kernels:
    found = kernels()
    if found is None:
        pytest.skip("no compiled products: no C compiler, or another kind of processor")
    return found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_mean_what_the_layout_says(shape: tuple[int, int], bits: int) -> None:
    """Every weight read back by hand, from tile, group, line, row and input; within half a step unless cut off."""
    weight_FD = matrix(*shape)
    codes, scales = pack(weight_FD, bits)
    whole_FD, half = unpack(codes, scales, *shape), 2 ** (bits - 1)
    for f in range(0, shape[0], 5):
        for d in range(0, shape[1], 3):
            tile, row, group, line, at = f // ROWS, f % ROWS, d // GROUP, d % GROUP // 4, d % 4
            scale = float(scales[tile, group, row])
            byte = int(codes[tile, group, line % bits, row, at])
            code = byte if bits == 8 else (byte >> 4 if line >= 4 else byte & 15)
            assert float(whole_FD[f, d]) == pytest.approx((code - half) * scale, rel=1e-6)
            if 0 < code < 2 * half - 1:
                assert abs(float(weight_FD[f, d]) - (code - half) * scale) <= abs(scale) * 0.501
    rows = torch.tensor([[0, shape[0] - 1], [shape[0] // 2, 0]])
    assert torch.equal(unpack_rows(rows, codes, scales, shape[1]), whole_FD[rows])


def test_four_bits_lose_no_more_than_their_simplest_form() -> None:
    """The chosen scales have at most the squared error of the one that the largest weight asks for."""
    weight_FD = matrix(64, 256)
    weight_FNG = weight_FD.view(64, -1, GROUP)
    largest = weight_FNG.gather(-1, weight_FNG.abs().argmax(-1, keepdim=True)) / -8
    simple_FNG = (weight_FNG / largest).round().clamp(-8, 7) * largest
    ours_FD = unpack(*pack(weight_FD, 4), 64, 256)
    assert (ours_FD - weight_FD).square().sum() < 0.9 * (simple_FNG - weight_FNG).square().sum()
    assert (unpack(*pack(weight_FD, 8), 64, 256) - weight_FD).abs().max() < 0.01 * weight_FD.abs().max()


def test_zeros_stay_zero_and_what_is_not_finite_is_refused() -> None:
    assert not unpack(*pack(torch.zeros(16, 64), 4), 16, 64).any()
    with pytest.raises(ValueError, match="not finite"):
        pack(torch.full((4, 4), torch.inf), 4)
    with pytest.raises(ValueError, match="bits=3"):
        pack(torch.zeros(4, 4), 3)


def test_inputs_are_rounded_in_groups() -> None:
    x = torch.tensor([[127.0, 1.4, -3.6] + [0.0] * 29 + [2.0, 0.5]])
    assert rounded_input(x)[0, :3].tolist() == [127.0, 1.0, -4.0]
    assert rounded_input(x)[0, 33].item() == pytest.approx(2.0 * 32 / 127)
    assert not rounded_input(torch.zeros(2, 40)).any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_products_equal_plain_ones(shape: tuple[int, int], bits: int) -> None:
    """At every level of this processor; a row's result is the same to the bit whatever is beside it."""
    found = compiled()
    codes, scales = pack(matrix(*shape), bits)
    for num_rows in (1, 2, 8, 9, 16, 33):
        x = matrix(num_rows, shape[1], seed=num_rows) * 7
        plain = plain_product(x, codes, scales, shape[0])
        by_level = [found.product(x, codes, scales, shape[0], level) for level in range(1, found.level + 1)]
        assert torch.allclose(by_level[0], plain, rtol=1e-4, atol=2e-5 * float(plain.abs().max()))
        assert all(torch.equal(each, by_level[0]) for each in by_level[1:])
        alone = torch.cat([found.product(row[None], codes, scales, shape[0]) for row in x])
        assert torch.equal(alone, by_level[-1])
        half = found.product(x.bfloat16(), codes, scales, shape[0])
        wanted = plain_product(x.bfloat16().float(), codes, scales, shape[0])
        assert torch.allclose(half.float(), wanted, rtol=1e-2, atol=1e-4 * float(plain.abs().max()))
    rows = torch.tensor([0, shape[0] - 1])
    assert torch.equal(found.rows(rows, codes, scales, shape[1]), unpack_rows(rows, codes, scales, shape[1]))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_packing_equals_plain_packing(dtype: torch.dtype, bits: int) -> None:
    """The same errors, and the same codes but where two scales are equally good to the last bit."""
    compiled()
    for shape in SHAPES:
        weight_FD = matrix(*shape).to(dtype)
        ours, plain = (unpack(*each(weight_FD, bits), *shape) for each in (pack, plain_pack))
        assert (ours == plain).float().mean() > 0.95
        lost = [(each - weight_FD.float()).square().sum() for each in (ours, plain)]
        assert torch.allclose(lost[0], lost[1], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_visible(bad: float) -> None:
    codes, scales = pack(matrix(16, 64), 4)
    for num_rows in (1, 17):
        x = torch.ones(num_rows, 64)
        x[0, 40] = bad
        assert product(x, codes, scales, 16)[0].isnan().all() and product(x, codes, scales, 16)[1:].isfinite().all()
        assert plain_product(x, codes, scales, 16)[0].isnan().all()


def test_gradients_pass_to_the_input() -> None:
    codes, scales = pack(matrix(16, 64), 4)
    x = torch.randn(3, 64, requires_grad=True)
    product(x, codes, scales, 16).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad[0], unpack(codes, scales, 16, 64).sum(0), atol=1e-6)


def test_large_pages_hold_the_same_numbers() -> None:
    tensors = [torch.arange(5, dtype=torch.uint8), torch.randn(3, 7).bfloat16(), torch.randn(130)]
    pages = LargePages(tensor.nbytes for tensor in tensors)
    copies = [pages.copied(tensor) for tensor in tensors]
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in copies)


def test_calibrated_rounding_keeps_products_better() -> None:
    """On inputs that go together, as those of a layer do."""
    x = torch.randn(600, 8) @ torch.randn(8, 96) + 0.1 * torch.randn(600, 96)
    weight_FD = matrix(40, 96)
    nearest, calibrated = pack(weight_FD, 4), compensated(weight_FD, x.T @ x, 4)
    lost = [(F.linear(x, unpack(*each, 40, 96)) - F.linear(x, weight_FD)).norm() for each in (nearest, calibrated)]
    assert lost[1] < 0.7 * lost[0]


def test_calibration_refuses_what_is_not_finite() -> None:
    weight_FD, moment_DD = matrix(16, 32), torch.eye(32)
    with pytest.raises(ValueError, match="weights that are not finite cannot be kept in 4 bits"):
        compensated(weight_FD.index_fill(0, torch.tensor([3]), torch.nan), moment_DD, 4)
    with pytest.raises(ValueError, match="inputs that are not finite"):
        compensated(weight_FD, moment_DD * torch.inf, 4)


def test_experts_are_packed_one_behind_the_other() -> None:
    experts = Experts(dim=32, inner_dim=16, num_experts=3)
    experts.reset_parameters(torch.Generator().manual_seed(0))
    whole = copy.deepcopy(experts)
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(experts, name).detach()
        codes, scales = pack(weight.flatten(0, 1), 8)
        getattr(whole, name).data = unpack(codes, scales, weight.shape[0] * weight.shape[1], weight.shape[2]).view_as(
            weight
        )
        delattr(experts, name)
        layer = Packed(weight.shape[0] * weight.shape[1], weight.shape[2], 8)
        layer.fill(codes, scales)
        setattr(experts, name, layer)
    x, weight, chosen = torch.randn(9, 32), torch.rand(9, 2), torch.randint(0, 2, (9, 2))  # the third is never asked
    ours, wanted = (each(x, weight, chosen) for each in (experts, whole))
    assert (ours - wanted).norm() < 0.02 * wanted.norm()
    ends = torch.tensor([4, 9, 9])
    first = packed_module.product(x[:4], *[t.unflatten(0, (3, -1))[0] for t in experts.gate_up_proj.packed], 32)
    assert torch.allclose(plain_grouped_product(rounded_input(x), whole.gate_up_proj, ends)[:4], first, atol=1e-5)


def test_everything_large_is_packed(model: Model) -> None:
    names = {name for name, _ in packable(model.decoder)}
    pack_decoder(model.decoder, PackConfig(bits=4, table_bits=8))
    left = [name for name, p in model.decoder.language_model.named_parameters() if p.ndim >= 2]
    assert not left and all(name.startswith("language_model.") for name in names) and len(names) == 1 + 2 * 7
    assert packing_of(model.decoder) == PackConfig(bits=4, table_bits=8)
    with pytest.raises(ValueError, match="packed already"):
        pack_decoder(model.decoder, PackConfig())
    model.decoder.to(torch.bfloat16)
    layer = model.decoder.get_submodule("language_model.layers.0.mlp.up_proj")
    assert isinstance(layer, PackedLinear) and layer.scales.dtype == torch.bfloat16
    assert model.decoder.dtype == torch.bfloat16
    model.decoder.float()
    assert layer.scales.dtype == torch.bfloat16 and model.decoder.dtype == torch.float32


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_batched_equals_single(model: Model, quantize: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_compiled:
        monkeypatch.setattr(packed_module, "kernels", lambda: None)
    pack_decoder(model.decoder, PackConfig.of_name(quantize))
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 3}
    together = model.generate_batch(PROMPTS, **options)
    alone = [model.generate(prompt, **options) for prompt in PROMPTS]
    assert [m.to_json() for m in together] == [m.to_json() for m in alone]


def test_preempted_equals_alone(model: Model) -> None:
    """In a cache too small for two, one request gives way and is read again: other shapes, the same ids."""
    pack_decoder(model.decoder, PackConfig(bits=4))
    sampling = SamplingConfig(max_tokens=24, temperature=1.0, may_draw=False)

    def said(prompts: list[str], cache_tokens: int) -> list[list[int]]:
        engine = Engine(model, EngineConfig(cache_tokens=cache_tokens, token_budget=20, max_rows=4))
        requests = [engine.submit([Message.user(prompt)], sampling) for prompt in prompts]
        while engine.step():
            pass
        return [request.said_ids for request in requests]

    prompts = ["how many red circles are there", "blue square"]
    assert said(prompts, 64) == [said([prompt], 1024)[0] for prompt in prompts]


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_a_saved_packed_model_is_the_same(model: Model, tmp_path: Path, quantize: str) -> None:
    """Packed in memory = packed while loading = saved packed and mapped."""
    model.save(tmp_path / "whole", precision="float32")
    loaded = castor.load(tmp_path / "whole", device="cpu", quantize=quantize)
    pack_decoder(model.decoder, PackConfig.of_name(quantize))
    loaded.save(tmp_path / "packed", precision="float32")
    again = castor.load(tmp_path / "packed", device="cpu")
    for other in (loaded, again):
        pairs = zip(model.decoder.state_dict().items(), other.decoder.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in pairs)
    assert again.generate("x", max_tokens=8).to_json() == model.generate("x", max_tokens=8).to_json()
    size = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("packed", "whole")]
    assert size[0] < (0.5 if quantize == "int4" else 0.6) * size[1]
    with pytest.raises(ValueError, match="start from the whole ones"):
        castor.load(tmp_path / "packed", device="cpu", quantize="int8" if quantize == "int4" else "int4")


def small_text(**more: object) -> ModelConfig:
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16}
    text = TextConfig(**(sizes | heads | {"layer_types": ("sliding_attention", "full_attention")} | more))
    return ModelConfig(model_type="gemma4_text", text=text)


def test_published_forms_keep_their_tables_and_experts_in_few_bits(tmp_path: Path) -> None:
    per_layer = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 96}
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    for number, more in enumerate((per_layer, experts)):
        whole = Decoder(small_text(**more)).init_weights(0)
        save_model(whole, tmp_path / str(number))
        loaded = load_model(tmp_path / str(number), pack=PackConfig(bits=8, table_bits=8))
        left = [name for name, p in loaded.language_model.named_parameters() if p.ndim >= 2]
        assert all("router.proj" in name for name in left)
        save_model(loaded, tmp_path / f"packed{number}")
        again = load_model(tmp_path / f"packed{number}")
        ids = collate([[sequence_of(24)]], 24)
        with torch.inference_mode():
            wanted, ours, saved = (each.eval()(ids) for each in (whole, loaded, again))
        assert torch.equal(ours, saved)
        assert (ours - wanted).norm() < 0.05 * wanted.norm()


def sequence_of(length: int):  # noqa: ANN201
    from castor.bench.measure import random_prompt

    class Small:
        tokenizer = type("T", (), {"vocab_size": 96})
        decoder = Decoder(small_text())

    return random_prompt(Small, length, 0)  # type: ignore[arg-type]


def test_steps_are_measured_however_long_reading_takes(model: Model) -> None:
    """What is read first writes while the rest is read: more steps here than an answer is measured."""
    from castor.bench.measure import answer_tokens, measure
    from castor.bench.subject import Cost

    batch, context, tokens = 16, 600, 2
    assert answer_tokens(batch, context, tokens) > 2 * tokens
    cost, told = Cost.of(model.decoder, is_int8=False), []
    point = measure(
        model,
        cost,
        batch,
        context,
        tokens=tokens,
        rounds=1,
        cache_type="model",
        bytes_per_s=1e9,
        flops=1e9,
        progress=lambda: told.append(1),
    )
    assert len(told) == 2 and point.decode_per_s > 0


def test_a_picture_that_cannot_be_drawn_is_refused_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from castor.bench import BenchConfig, bench

    monkeypatch.setattr("castor.bench.report.find_spec", lambda name: None)
    monkeypatch.setattr("castor.bench.run.subject", lambda *asked: pytest.fail("it began to measure"))
    with pytest.raises(ValueError, match="a picture needs matplotlib"):
        bench(BenchConfig(), png_path="b.png")


def test_transformers_is_measured_with_few_words() -> None:
    pytest.importorskip("transformers")
    from castor.bench.peers import transformers_points

    (point,) = transformers_points(small_text(), torch.float32, "cpu", (8,), tokens=2, rounds=1)
    assert point.prefill_per_s > 0 and point.context == 8


def test_ids_of_any_whole_type_name_rows() -> None:
    codes, scales = pack(matrix(40, 64), 8)
    ids = torch.tensor([[3, 39], [0, 17]])
    wanted = unpack_rows(ids, codes, scales, 64)
    for dtype in (torch.int32, torch.int16):
        assert torch.equal(compiled().rows(ids.to(dtype), codes, scales, 64), wanted)


def test_weights_of_another_method_are_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ValueError, match="method 'gptq' are not read"):
        castor.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="quantize='int3'"):
        castor.load(tmp_path, device="cpu", quantize="int3")


def test_calibration_packs_every_layer(model: Model) -> None:
    sequence = model.renderer.encode([Message.user("how many red circles"), Message.model("blue square 7")])
    batch = collate([[sequence, sequence]], 2 * len(sequence) + 3)
    told: list[tuple[int, int]] = []
    simple = copy.deepcopy(model.decoder)
    pack_decoder(simple, PackConfig(bits=4))
    whole = copy.deepcopy(model.decoder)
    pack_calibrated(model.decoder, PackConfig(bits=4), [batch], lambda *done: told.append(done))
    assert packing_of(model.decoder) == PackConfig(bits=4) and told[-1] == (2, 2)
    with torch.no_grad():
        is_token = batch.doc_BT >= 0
        wanted = whole.hidden(batch)[is_token]
        lost = [(each.hidden(batch)[is_token] - wanted).norm() for each in (simple, model.decoder)]
    assert lost[1] < lost[0]
    with pytest.raises(ValueError, match="needs examples"):
        pack_calibrated(whole, PackConfig(), [])


def test_heads_in_eight_bits_are_close() -> None:
    x = torch.randn(5, 3, 16)
    whole, scale = int8_heads(x)
    assert (whole * scale.float()[..., None] - x).abs().max() <= 0.006 * x.abs().max()
    assert not int8_heads(torch.zeros(2, 4))[0].any()


def test_a_cache_in_eight_bits_says_nearly_the_same(model: Model) -> None:
    """Log-probabilities of the same answer differ by little, and the memory is near half that of bfloat16."""
    messages = [Message.user("how many red circles are there in all of this")]
    found, num_bytes = {}, {}
    model.decoder.to(torch.bfloat16)
    for cache_type in ("model", "int8"):
        engine = Engine(model, EngineConfig(cache_tokens=512, cache_type=cache_type))
        request = engine.submit(messages, SamplingConfig(max_tokens=16, logprobs=5, may_draw=False))
        while engine.step():
            pass
        found[cache_type] = request.said
        num_bytes[cache_type] = engine.forward.store.num_bytes
    assert num_bytes["int8"] == num_bytes["model"] * (16 + 2) // 32  # heads of 16 numbers
    first, second = (found[name][0] for name in ("model", "int8"))
    alternatives = dict(second.alternatives)
    shared = [(value, alternatives[i]) for i, value in first.alternatives if i in alternatives]
    assert len(shared) >= 4 and all(abs(a - b) < 0.05 for a, b in shared)
    with pytest.raises(ValueError, match="cache_type='int2'"):
        EngineConfig(cache_type="int2")


def test_a_cache_in_eight_bits_batches_as_alone(model: Model) -> None:
    def said(prompts: list[str]) -> list[list[int]]:
        engine = Engine(model, EngineConfig(cache_tokens=1024, cache_type="int8"))
        requests = [engine.submit([Message.user(p)], SamplingConfig(max_tokens=10, temperature=1.0)) for p in prompts]
        while engine.step():
            pass
        return [request.said_ids for request in requests]

    prompts = ["how many red circles", "blue", "square 12 circle"]
    assert said(prompts) == [said([prompt])[0] for prompt in prompts]


def test_quantize_writes_a_model_that_answers(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "whole", precision="float32")
    out = tmp_path / "packed"
    assert cli.main(["quantize", str(tmp_path / "whole"), "--out", str(out), "--method", "nearest"]) == 0
    assert "MB of weights before" in capsys.readouterr().out
    assert packing_of(castor.load(out, device="cpu").decoder) == PackConfig(bits=4)
    assert cli.main(["generate", "--model", str(out), "--max-tokens", "3", "hello"]) == 0
    assert cli.main(["quantize", str(tmp_path / "whole"), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    for method in ("nearest", "gptq"):
        words = ["quantize", str(out), "--out", str(tmp_path / "again"), "--method", method, "--count", "2"]
        assert cli.main(words) == 2 and "packed already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="whole weights; these are packed"):
        castor.load(out, adapter=tmp_path)


def test_bench_measures_and_writes(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "whole", precision="float32")
    words = ["bench", "--model", str(tmp_path / "whole"), "--quantize", "int4", "--batches", "1,3", "--contexts", "20"]
    words += ["--tokens", "4", "--rounds", "1", "--no-peers", "--json", str(tmp_path / "b.json")]
    assert cli.main([*words, "--png", str(tmp_path / "b.png")]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert [(point["batch"], point["context"]) for point in found["points"]] == [(1, 20), (3, 20)]
    assert all(point[name] > 0 for point in found["points"] for name in ("decode_per_s", "prefill_per_s", "first_s"))
    assert found["about"]["weights"] == "4 bits, tables 4" and found["ceilings"]["bytes_per_s"] > 1e8
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["bench", "--model", str(tmp_path / "whole"), "--contexts", "1,2047", "--no-peers"]) == 2
    assert "more than the 2048 that this model takes" in capsys.readouterr().err
    assert cli.main(["bench", "--shape", "9b", "--no-peers"]) == 2
    assert "--shape 9b is not one of 1.8b" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(5, 32, 16), (1, 96, 48), (33, 70, 40)])
def test_pytorchs_kernel_computes_the_same(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    """Up to what bfloat16 rounds; rows and inputs that fill no whole tile included."""
    rows, num_inputs, num_outputs = shape
    torch.manual_seed(0)
    weight, x = torch.randn(num_outputs, num_inputs), torch.randn(2, rows, num_inputs)
    layers = []
    for way in ("own", "torch"):
        monkeypatch.setenv("CASTOR_INT4", way)
        layer = PackedLinear(num_inputs, num_outputs, 4)
        layer.fill(*pack(weight, 4))
        layers.append(layer)
    wanted = F.linear(x, layers[0].weight)
    torch.testing.assert_close(layers[1](x), wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)
    assert layers[1].by_torch is not None and layers[0].by_torch is None
    layers[1].fill(*pack(2 * weight, 4))
    torch.testing.assert_close(layers[1](x), 2 * wanted, atol=0.04 * float(wanted.abs().max()), rtol=0)
    monkeypatch.setenv("CASTOR_INT4", "fast")
    with pytest.raises(ValueError, match="CASTOR_INT4=fast is none of own, torch"):
        PackedLinear(num_inputs, num_outputs, 4)
