"""Gemma 4's text sides against transformers': per-layer inputs, shared keys, wide feed-forwards, dense, both ways."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import reference as ref
import transformers

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.tokens.batch import Batch
from castor.train.optim import OptimConfig, Optimizer

TOLERANCE = 1e-4
DECODERS = [name for name in ref.ARCHITECTURES if "unified" in name or name.startswith("gemma4 ")]
CAUSAL = [name for name in DECODERS if "both ways" not in name]
Pair = tuple[Any, Decoder]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return ref.pairs(DECODERS, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_alone_and_packed_equal_transformers(pairs: dict[str, Pair], name: str) -> None:
    """Documents shorter and longer than the window, packed three to two rows with padding, theirs one by one."""
    reference, model = pairs[name]
    ids = ref.documents(5, 3 * ref.WINDOW, ref.WINDOW + 1)
    packed = ref.our_output(model, ref.batch_of([ids[:2], ids[2:]]))
    assert packed.isfinite().all()
    for one, ours in zip(ids, (packed[0, :5], packed[0, 5:41], packed[1, :13]), strict=True):
        theirs = ref.their_output(reference, one)
        assert (theirs - ours).abs().max() < TOLERANCE
        assert (theirs - ref.our_output(model, ref.batch_of([[one]]))[0, : len(one)]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", CAUSAL)
@torch.inference_mode()
def test_cached_equals_transformers_and_uncached(pairs: dict[str, Pair], name: str) -> None:
    """Two prompts of unequal length, decoded past the window, theirs one by one through their own cache."""
    reference, model = pairs[name]
    prompts, tail = ref.documents(7, 4), ref.documents(2 * ref.WINDOW, seed=2)[0]
    cache = model.new_cache(2, 40)
    first = model(ref.batch_of([[ids] for ids in prompts]), cache)
    steps = [model(ref.step_of([t, t], [7 + i, 4 + i]), cache)[:, 0] for i, t in enumerate(tail)]
    for row, prompt in enumerate(prompts):
        past = transformers.DynamicCache(config=reference.config.get_text_config())
        theirs = ref.their_output(reference, prompt, past_key_values=past, use_cache=True)
        assert (theirs - first[row, : len(prompt)]).abs().max() < TOLERANCE
        for token_id, ours in zip(tail, steps, strict=True):
            theirs = ref.their_output(reference, [token_id], past_key_values=past, use_cache=True)[-1]
            assert (theirs - ours[row]).abs().max() < TOLERANCE
        whole = model(ref.batch_of([[prompt + tail]]))[0, : len(prompt + tail)]
        torch.testing.assert_close(steps[-1][row], whole[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@torch.inference_mode()
def test_greedy_generation_is_identical(pairs: dict[str, Pair], name: str) -> None:
    reference, model = pairs[name]
    prompts = ref.documents(9, 3, ref.WINDOW + 2)
    assert ref.greedy(model, prompts, 30) == [ref.their_greedy(reference, ids, 30) for ids in prompts]


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_what_we_save_transformers_reads(pairs: dict[str, Pair], name: str, tmp_path: Path) -> None:
    model = pairs[name][1]
    again = ref.read_back(model, name, tmp_path)
    ids = ref.documents(2 * ref.WINDOW)[0]
    ours = model(ref.batch_of([[ids]]))
    assert (ref.their_output(again, ids) - ours[0, : len(ids)]).abs().max() < TOLERANCE
    assert (load_model(tmp_path)(ref.batch_of([[ids]])) - ours).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["gemma4 E2B", "gemma4 26B-A4B"])
@torch.inference_mode()
def test_every_tensor_matters(pairs: dict[str, Pair], name: str) -> None:
    """So that equality says something: all tensors compared have an effect on the logits.

    But for the last layer's scale, which the norm behind it takes out.
    """
    model = pairs[name][1]
    batch = ref.batch_of([ref.documents(2 * ref.WINDOW)])
    before = model(batch)
    for tensor_name, tensor in model.state_dict().items():
        if tensor_name == "language_model.layers.7.layer_scalar":
            continue
        kept = tensor.clone()
        tensor.mul_(1.5).add_(0.1)
        assert (model(batch) - before).abs().max() > 1e-3, tensor_name
        tensor.copy_(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_shared_layers": 3, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"attention_bias": True, "num_key_value_heads": 4, "num_kv_shared_layers": 1},
        {"num_kv_shared_layers": 0, "use_double_wide_mlp": True},
        {"layer_types": None, "num_hidden_layers": 12, "num_kv_shared_layers": 6},
        {"num_global_key_value_heads": 1, "attention_k_eq_v": False},
        {"use_bidirectional_attention": "all", "sliding_window": 13},
    ],
)
@torch.inference_mode()
def test_variants_agree(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = ref.random_reference(ref.ARCHITECTURES["gemma4 E2B"], **changes)
    model = load_model(ref.write(reference, tmp_path))
    ids = ref.documents(3 * ref.WINDOW)[0]
    assert (ref.their_output(reference, ids) - model(ref.batch_of([[ids]]))[0, : len(ids)]).abs().max() < TOLERANCE


@torch.inference_mode()
def test_published_files_hold_more_than_is_used(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """Keys of layers that share, and towers of media that the config leaves out, are passed over; other names not."""
    from safetensors.torch import load_file, save_file

    reference, model = pairs["gemma4 E2B"]
    file = ref.write(reference, tmp_path) / "model.safetensors"
    extra = {
        "model.language_model.layers.7.self_attn.k_proj.weight": torch.ones(3),
        "model.language_model.layers.4.self_attn.k_norm.weight": torch.ones(3),
        "model.vision_tower.encoder.layers.0.mlp.up_proj.weight": torch.ones(3),
        "model.embed_audio.embedding_projection.weight": torch.ones(3),
    }
    tensors = load_file(file)
    save_file(tensors | extra, file)
    batch = ref.batch_of([ref.documents(20)])
    assert (load_model(tmp_path)(batch) - model(batch)).abs().max() < TOLERANCE
    for stray in (
        "model.language_model.layers.0.self_attn.g_proj.weight",
        "model.language_model.per_layer_gate.weight",
    ):
        save_file(tensors | {stray: torch.ones(3)}, file)
        with pytest.raises(ValueError, match=f"{stray} is not part"):
            load_model(tmp_path)


@torch.inference_mode()
def test_media_are_looked_up_as_padding(pairs: dict[str, Pair]) -> None:
    """Where a medium's vector stands, the per-layer table gives padding's row, whatever the id."""
    model = pairs["gemma4 E2B"][1]
    batch = ref.batch_of([ref.documents(6)])
    there = dataclasses.replace(batch, frame_at_S=torch.tensor([2, 4]))
    assert model._text_ids(there)[0, :6].tolist() == [
        0 if at in (2, 4) else token_id for at, token_id in enumerate(batch.ids_BT[0, :6].tolist())
    ]


def test_caches_hold_nothing_for_layers_that_share(pairs: dict[str, Pair]) -> None:
    model = pairs["gemma4 E2B"][1]
    assert len(model.new_cache(1, 4).keys) == 4
    with pytest.raises(ValueError, match="both_ways|'all'"):
        pairs["gemma4 both ways"][1].new_cache(1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_shared_layers": 5}, "num_kv_shared_layers=5"),
        ({"num_kv_shared_layers": 11}, "num_kv_shared_layers=11"),
        ({"enable_moe_block": True, "num_experts": None}, "enable_moe_block"),
        ({"enable_moe_block": True, "num_experts": 2, "top_k_experts": 3, "moe_intermediate_size": 8}, "enable_moe"),
        ({"embedding_dim": 8}, "embedding_dim=8"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "rope|full_attention"),
    ],
)
def test_mistakes_are_named(pairs: dict[str, Pair], changes: dict[str, Any], message: str) -> None:
    values = pairs["gemma4 E2B"][1].config.to_hf()
    values["text_config"] |= changes
    with pytest.raises((ValueError, KeyError), match=message):
        ModelConfig.from_hf(values)


def test_defaults_are_those_of_transformers() -> None:
    """What a file leaves out means what it means to transformers."""
    for name, config_class in (
        ("gemma4", transformers.Gemma4TextConfig),
        ("gemma4_unified", transformers.Gemma4UnifiedTextConfig),
        ("embedding_gemma2", transformers.EmbeddingGemma2TextConfig),
    ):
        full = json.loads(config_class().to_json_string(use_diff=False))
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")
        needed += ("num_attention_heads", "num_key_value_heads")
        given = {key: full[key] for key in needed}
        short = ModelConfig.from_hf({"model_type": name, "text_config": given})
        assert short == ModelConfig.from_hf({"model_type": name, "text_config": full})


def own_config(pairs: dict[str, Pair]) -> ModelConfig:
    """Everything at once in a model of our own: per-layer inputs, shared keys, experts, an embedding's head."""
    text = dataclasses.replace(
        pairs["gemma4 E2B"][1].config.text,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=8,
        embedding_dim=6,
    )
    return ModelConfig(text=text, model_type="castor")


def test_all_options_train_together_and_come_back(pairs: dict[str, Pair], tmp_path: Path) -> None:
    model = Decoder(own_config(pairs)).init_weights(2)
    ids = ref.documents(12, 12, 12, 12)
    batch: Batch = ref.batch_of([[one] for one in ids])
    target = batch.ids_BT[:, 1:12].flatten()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(batch)[:, :11].flatten(0, 1), target)
        loss = loss + 1e-3 * model.vectors(batch).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    with torch.inference_mode():
        assert (again(batch) - model(batch)).abs().max() < TOLERANCE


def test_configs_of_our_own_come_back(pairs: dict[str, Pair]) -> None:
    """Per-layer inputs with and without a table, a window of both ways, text alone."""
    config = own_config(pairs)
    for changes in ({}, {"vocab_size_per_layer_input": None}, {"use_bidirectional_attention": "all"}):
        for model_type in ("castor", "castor_text"):
            changed = ModelConfig(text=dataclasses.replace(config.text, **changes), model_type=model_type)
            assert ModelConfig.from_hf(json.loads(json.dumps(changed.to_hf()))) == changed


def test_tables_are_not_trained_as_matrices(pairs: dict[str, Pair]) -> None:
    """Muon takes matrices that map vectors; a table that is looked up, and experts in one tensor, are AdamW's."""
    model = Decoder(own_config(pairs)).init_weights(0)
    adamw, muon = (part for part, _ in Optimizer(model, OptimConfig())._parts)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of = [{names[id(p)] for group in part.param_groups for p in group["params"]} for part in (adamw, muon)]
    assert "language_model.ple.embed_tokens_per_layer.weight" in of[0]
    assert "language_model.layers.0.experts.gate_up_proj" in of[0]
    assert "language_model.ple.per_layer_model_projection.weight" in of[1]


@torch.inference_mode()
def test_start_is_sane(pairs: dict[str, Pair]) -> None:
    """At the start the stream neither vanishes nor grows, per-layer inputs have size 1, and no token is preferred."""
    model = Decoder(own_config(pairs)).init_weights(0)
    batch = ref.batch_of([ref.documents(40)])
    assert model.language_model.ple is not None
    assert 0.8 < model.language_model.ple(model.embed(batch), batch.ids_BT).std() < 1.2
    assert 0.8 < model(batch).std() < 1.2


@pytest.mark.slow
def test_compiled_equals_eager(pairs: dict[str, Pair]) -> None:
    """Per-layer inputs and shared keys in float32; experts in bfloat16, the only type their kernel compiles in."""
    text = dataclasses.replace(
        own_config(pairs).text,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=("sliding_attention", "full_attention") * 2,
    )
    batch = ref.batch_of([ref.documents(30)])
    plain = Decoder(ModelConfig(text=dataclasses.replace(text, enable_moe_block=False), model_type="castor"))
    plain.init_weights(0)
    with torch.inference_mode():
        eager = plain.hidden(batch)
        torch.testing.assert_close(plain.compile_layers().hidden(batch), eager, atol=1e-4, rtol=1e-4)
    routed = Decoder(ModelConfig(text=text, model_type="castor")).init_weights(0)
    with torch.autocast("cpu", torch.bfloat16):
        eager = routed.hidden(batch)
        fast = routed.compile_layers().hidden(batch)
    assert torch.nn.functional.cosine_similarity(fast.flatten().float(), eager.flatten().float(), dim=0) > 0.999
    fast.float().square().sum().backward()
    for name, parameter in routed.language_model.named_parameters():
        assert name.startswith("embedding_projection") or parameter.grad is not None, name
