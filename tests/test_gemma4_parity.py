"""Our decoder against transformers': tiny random checkpoints, both ways, every medium, cached and not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.tokens.batch import Batch

transformers = pytest.importorskip("transformers")

IMAGE, AUDIO, VIDEO = 300, 301, 302
SIDE, PATCH = 4, 4 * 4 * 3
TOLERANCE = 1e-4


def tiny_config(**changes: object) -> object:
    """A transformers config of six layers whose window, heads and vocabulary are small."""
    text = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 12,
        "final_logit_softcapping": 30.0,
    }
    return transformers.Gemma4UnifiedConfig(
        text_config=text | changes,
        vision_config={
            "patch_size": 4,
            "pooling_kernel_size": 1,
            "mm_embed_dim": 24,
            "mm_posemb_size": 16,
            "output_proj_dims": 24,
        },
        audio_config={"audio_embed_dim": 20},
        image_token_id=IMAGE,
        audio_token_id=AUDIO,
        video_token_id=VIDEO,
    )


def random_reference(seed: int = 0, **changes: object) -> torch.nn.Module:
    """A transformers model with weights far from their initial values, norms and buffers included."""
    torch.manual_seed(seed)
    model = transformers.Gemma4UnifiedForConditionalGeneration(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if "norm" in name or "_ln" in name else 0.2
            parameter.add_(torch.randn_like(parameter) * spread)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.7 + 0.3 * torch.rand(1).item())
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Decoder]:
    folder = tmp_path_factory.mktemp("reference")
    reference = random_reference()
    reference.save_pretrained(folder)
    return reference, load_model(folder)


def make_case(layout: str, seed: int = 1) -> tuple[dict[str, torch.Tensor], Batch]:
    """A prompt from letters (t text, i image of 3x2, v video of two frames, a sound) for both sides."""
    draw = torch.Generator().manual_seed(seed)
    ids, block, kinds = [], [], []
    pixels, places, positions, frames, frame_at = {"i": [], "v": []}, [], {"i": [], "v": []}, [], []
    blocks = 0

    def picture(kind: str, token: int) -> None:
        nonlocal blocks
        columns, rows = (3, 2) if kind == "i" else (2, 2)
        x, y = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
        positions[kind].append(torch.stack([x, y], -1).reshape(-1, 2))
        pixels[kind].append(torch.rand(rows * columns, PATCH, generator=draw))
        places.extend(range(len(ids), len(ids) + rows * columns))
        ids.extend([token] * (rows * columns))
        block.extend([blocks] * (rows * columns))
        kinds.extend([1 if kind == "i" else 2] * (rows * columns))
        blocks += 1

    def text(count: int) -> None:
        ids.extend(torch.randint(3, 300, (count,), generator=draw).tolist())
        block.extend([-1] * count)
        kinds.extend([0] * count)

    for letter in layout:
        if letter == "t":
            text(5)
        elif letter == "i":
            picture("i", IMAGE)
        elif letter == "v":
            picture("v", VIDEO)
            text(1)
            picture("v", VIDEO)
        elif letter == "a":
            frames.append(torch.randn(4, 20, generator=draw))
            frame_at.extend(range(len(ids), len(ids) + 4))
            ids.extend([AUDIO] * 4)
            block.extend([-1] * 4)
            kinds.extend([3] * 4)
    inputs = {"input_ids": torch.tensor([ids]), "mm_token_type_ids": torch.tensor([kinds])}
    if pixels["i"]:
        inputs |= {
            "pixel_values": torch.stack(pixels["i"]),
            "image_position_ids": torch.stack(positions["i"]),
        }
    if pixels["v"]:
        inputs |= {
            "pixel_values_videos": torch.stack(pixels["v"]),
            "video_position_ids": torch.stack(positions["v"]),
            "num_frames_per_video": torch.tensor([2] * (len(pixels["v"]) // 2)),
        }
    if frames:
        features = torch.stack(frames)
        inputs |= {
            "input_features": features,
            "input_features_mask": torch.ones(features.shape[:2], dtype=torch.bool),
        }
    # The tests mix at most one of image and video, so that places and patches share one order.
    length = len(ids)
    batch = Batch(
        ids_BT=inputs["input_ids"],
        position_BT=torch.arange(length)[None],
        doc_BT=torch.zeros(1, length, dtype=torch.int64),
        block_BT=torch.tensor([block]),
        target_BT=torch.full((1, length), -100),
        patches_PC=torch.cat(pixels["i"] + pixels["v"]) if places else torch.zeros(0, PATCH),
        patch_xy_P2=torch.cat(positions["i"] + positions["v"]) if places else torch.zeros(0, 2, dtype=torch.int64),
        patch_at_P=torch.tensor(places, dtype=torch.int64),
        frames_SF=torch.cat(frames) if frames else torch.zeros(0, 20),
        frame_at_S=torch.tensor(frame_at, dtype=torch.int64),
    )
    return inputs, batch


LAYOUTS = ["t", "tttttt", "tit", "titittti", "tat", "tatat", "tvt", "ttttvtattt", "iattttit"]


def reference_output(reference: torch.nn.Module, inputs: dict[str, torch.Tensor], past: object = None) -> object:
    """What transformers' own generation computes for a prompt.

    Its `forward` alone, given no masks, lets images see both ways on full layers as well; `generate` makes
    the masks first, with the overlay on sliding layers only, which is the published model's rule.
    """
    masks = reference.create_masks_for_generate(
        config=reference.config,
        inputs_embeds=torch.empty(*inputs["input_ids"].shape, 32),
        attention_mask=None,
        past_key_values=past,
        position_ids=None,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    return reference(**inputs, attention_mask=masks, past_key_values=past, use_cache=past is not None)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_logits_equal_those_of_transformers(pair: tuple[torch.nn.Module, Decoder], layout: str) -> None:
    reference, model = pair
    inputs, batch = make_case(layout)
    difference = (reference_output(reference, inputs).logits - model(batch)).abs().max()
    assert difference < TOLERANCE


@pytest.mark.parametrize("layout", ["t", "titt", "tattit", "tvttt"])
@torch.inference_mode()
def test_cached_decoding_equals_that_of_transformers(pair: tuple[torch.nn.Module, Decoder], layout: str) -> None:
    reference, model = pair
    inputs, batch = make_case(layout)
    length = batch.ids_BT.shape[1]
    cache = model.new_cache(1, length + 20)
    past = transformers.DynamicCache(config=reference.config.get_text_config())
    theirs = reference_output(reference, inputs, past)
    ours = model(batch, cache)
    assert (theirs.logits - ours).abs().max() < TOLERANCE
    for step in range(20):
        token = torch.tensor([[7 + 11 * step % 290]])
        theirs = reference(input_ids=token, past_key_values=past, use_cache=True)
        ours = model(text_step(token, length + step), cache)
        assert (theirs.logits - ours).abs().max() < TOLERANCE


def text_step(ids_BT: torch.Tensor, position: int) -> Batch:
    """One text token for every row, all at the same position of document 0."""
    like = torch.zeros_like(ids_BT)
    return Batch(
        ids_BT=ids_BT,
        position_BT=like + position,
        doc_BT=like,
        block_BT=like - 1,
        target_BT=like - 100,
        patches_PC=torch.zeros(0, PATCH),
        patch_xy_P2=torch.zeros(0, 2, dtype=torch.int64),
        patch_at_P=torch.zeros(0, dtype=torch.int64),
        frames_SF=torch.zeros(0, 20),
        frame_at_S=torch.zeros(0, dtype=torch.int64),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_k_eq_v": False, "num_global_key_value_heads": None},
        {"use_bidirectional_attention": None, "final_logit_softcapping": None},
        {"layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"] * 2},
        {"attention_bias": True, "num_key_value_heads": 4},
        {"global_head_dim": 8, "num_global_key_value_heads": None},
    ],
)
@torch.inference_mode()
def test_variants_load_and_agree(tmp_path: Path, changes: dict[str, object]) -> None:
    reference = random_reference(**changes)
    reference.save_pretrained(tmp_path)
    inputs, batch = make_case("ttitattt")
    theirs = reference_output(reference, inputs).logits
    assert (theirs - load_model(tmp_path)(batch)).abs().max() < TOLERANCE


@torch.inference_mode()
def test_what_we_save_transformers_reads(pair: tuple[torch.nn.Module, Decoder], tmp_path: Path) -> None:
    model = Decoder(pair[1].config).init_weights(3)
    save_model(model, tmp_path)
    theirs, report = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs, batch = make_case("titattt")
    assert (reference_output(theirs.eval(), inputs).logits - model(batch)).abs().max() < TOLERANCE
    assert (load_model(tmp_path)(batch) - model(batch)).abs().max() == 0


@torch.inference_mode()
def test_shards_load_like_one_file(pair: tuple[torch.nn.Module, Decoder], tmp_path: Path) -> None:
    reference, model = pair
    reference.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    _, batch = make_case("titat")
    assert (load_model(tmp_path)(batch) - model(batch)).abs().max() == 0


@torch.inference_mode()
def test_text_only_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = transformers.Gemma4UnifiedForCausalLM(tiny_config().text_config).eval()
    reference.save_pretrained(tmp_path)
    inputs, batch = make_case("tttt")
    theirs = reference(input_ids=inputs["input_ids"]).logits
    assert (theirs - load_model(tmp_path)(batch)).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_kv_shared_layers", 2),  # the only full layer would be among them
        ("hidden_size_per_layer_input", 8),
        ("enable_moe_block", True),
        ("use_bidirectional_attention", "text"),
        ("attention_dropout", 0.1),
        ("hidden_activation", "silu"),
        ("tie_word_embeddings", False),
        ("attn_logit_softcapping", 50.0),
    ],
)
def test_unsupported_fields_are_named(field: str, value: object) -> None:
    values = json.loads(tiny_config().to_json_string(use_diff=False))
    values["text_config"][field] = value
    with pytest.raises(ValueError, match=field):
        ModelConfig.from_hf(values)
