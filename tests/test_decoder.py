"""The decoder against itself: packing, caching, unequal rows, losses, sizes, compiling, loading errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from castor.models.config import AudioConfig, ModelConfig, TextConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.models.sizes import PARAMETERS, SIZES
from castor.nn.attention import TokenPlaces, attention_mask
from castor.nn.losses import IGNORE, cross_entropy
from castor.nn.norm import RMSNorm
from castor.tokens.batch import Batch

PATCH = 4 * 4 * 3
FRAME = 20


@pytest.fixture(scope="module")
def model() -> Decoder:
    text = TextConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        layer_types=("sliding_attention", "full_attention") * 2,
        sliding_window=10,
        final_logit_softcapping=20.0,
    )
    vision = VisionConfig(patch_size=4, pooling_kernel_size=1, mm_embed_dim=24, mm_posemb_size=8)
    return Decoder(ModelConfig(text=text, vision=vision, audio=AudioConfig(audio_embed_dim=FRAME))).init_weights(1)


def document(seed: int, layout: str) -> Batch:
    """A row of one document from letters: t three text tokens, i a picture of 2x2, a two audio frames."""
    draw = torch.Generator().manual_seed(seed)
    block: list[int] = []
    patch_at: list[int] = []
    frame_at: list[int] = []
    for letter in layout:
        here = len(block)
        if letter == "i":
            patch_at += range(here, here + 4)
            block += [max(block, default=-1) + 1] * 4
        elif letter == "a":
            frame_at += [here, here + 1]
            block += [-1] * 2
        else:
            block += [-1] * 3
    length = len(block)
    square = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    return Batch(
        ids_BT=torch.randint(0, 96, (1, length), generator=draw),
        position_BT=torch.arange(length)[None],
        doc_BT=torch.zeros(1, length, dtype=torch.int64),
        block_BT=torch.tensor([block]),
        target_BT=torch.full((1, length), IGNORE),
        patches_PC=torch.rand(len(patch_at), PATCH, generator=draw),
        patch_xy_P2=square.repeat(len(patch_at) // 4, 1),
        patch_at_P=torch.tensor(patch_at, dtype=torch.int64),
        frames_SF=torch.randn(len(frame_at), FRAME, generator=draw),
        frame_at_S=torch.tensor(frame_at, dtype=torch.int64),
    )


def pieces(batch: Batch, start: int, stop: int) -> Batch:
    """Columns [start, stop) of a one-row batch, as the next step of a cached forward."""
    columns = {
        name: getattr(batch, name)[:, start:stop]
        for name in ("ids_BT", "position_BT", "doc_BT", "block_BT", "target_BT")
    }
    patch = (batch.patch_at_P >= start) & (batch.patch_at_P < stop)
    frame = (batch.frame_at_S >= start) & (batch.frame_at_S < stop)
    return Batch(
        **columns,
        patches_PC=batch.patches_PC[patch],
        patch_xy_P2=batch.patch_xy_P2[patch],
        patch_at_P=batch.patch_at_P[patch] - start,
        frames_SF=batch.frames_SF[frame],
        frame_at_S=batch.frame_at_S[frame] - start,
    )


def row_of(batches: list[Batch], *, total: int) -> Batch:
    """One-row batches end to end in one row of `total` tokens, padded at its end."""
    starts, start = [], 0
    for batch in batches:
        starts.append(start)
        start += batch.ids_BT.shape[1]

    def columns(name: str, fill: int) -> torch.Tensor:
        joined = torch.cat([getattr(batch, name) for batch in batches], dim=1)
        return F.pad(joined, (0, total - joined.shape[1]), value=fill)

    doc = torch.cat([torch.full_like(batch.doc_BT, d) for d, batch in enumerate(batches)], dim=1)
    block, used = [], 0
    for batch in batches:
        block.append(torch.where(batch.block_BT >= 0, batch.block_BT + used, -1))
        used += int(batch.block_BT.max()) + 1
    return Batch(
        ids_BT=columns("ids_BT", 0),
        position_BT=columns("position_BT", 0),
        doc_BT=F.pad(doc, (0, total - doc.shape[1]), value=-1),
        block_BT=F.pad(torch.cat(block, dim=1), (0, total - doc.shape[1]), value=-1),
        target_BT=columns("target_BT", IGNORE),
        patches_PC=torch.cat([batch.patches_PC for batch in batches]),
        patch_xy_P2=torch.cat([batch.patch_xy_P2 for batch in batches]),
        patch_at_P=torch.cat([b.patch_at_P + s for b, s in zip(batches, starts, strict=True)]),
        frames_SF=torch.cat([batch.frames_SF for batch in batches]),
        frame_at_S=torch.cat([b.frame_at_S + s for b, s in zip(batches, starts, strict=True)]),
    )


def rows_of(batches: list[Batch]) -> Batch:
    """One-row batches of equal length as the rows of one."""
    length = batches[0].ids_BT.shape[1]
    columns = ("ids_BT", "position_BT", "doc_BT", "block_BT", "target_BT")
    stacked = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in columns}
    media = ("patches_PC", "patch_xy_P2", "frames_SF")
    joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in media}
    return Batch(
        **stacked,
        **joined,
        patch_at_P=torch.cat([batch.patch_at_P + row * length for row, batch in enumerate(batches)]),
        frame_at_S=torch.cat([batch.frame_at_S + row * length for row, batch in enumerate(batches)]),
    )


LAYOUTS = ["ttittat", "ititattttt", "tttttttt", "aitia"]


@torch.inference_mode()
def test_packed_equals_separate(model: Decoder) -> None:
    alone = [document(seed, layout) for seed, layout in enumerate(LAYOUTS)]
    first = row_of(alone[:2], total=64)
    second = row_of(alone[2:], total=64)
    packed = model(rows_of([first, second]))
    assert packed.isfinite().all()
    for row, group in enumerate((alone[:2], alone[2:])):
        start = 0
        for batch in group:
            length = batch.ids_BT.shape[1]
            torch.testing.assert_close(packed[row, start : start + length], model(batch)[0], atol=1e-5, rtol=1e-5)
            start += length


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_cached_equals_full(model: Decoder, layout: str) -> None:
    batch = document(5, layout)
    whole = model(batch)[0]
    sizes = {"t": 3, "i": 4, "a": 2}
    cache = model.new_cache(1, batch.ids_BT.shape[1])
    start, parts = 0, []
    for letter in layout:
        steps = [4] if letter == "i" else [1] * sizes[letter]  # an image enters whole
        for step in steps:
            parts.append(model(pieces(batch, start, start + step), cache)[0])
            start += step
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_of_unequal_length_decode_together(model: Decoder) -> None:
    alone = [document(seed, layout) for seed, layout in enumerate(["tit", "tttttt", "ta"])]
    longest = max(batch.ids_BT.shape[1] for batch in alone)
    cache = model.new_cache(3, longest + 15)
    model(rows_of([row_of([batch], total=longest) for batch in alone]), cache)
    like = torch.zeros(3, 1, dtype=torch.int64)
    lengths = torch.tensor([[batch.ids_BT.shape[1]] for batch in alone])
    tails: list[torch.Tensor] = []
    for step in range(15):
        ids = torch.randint(0, 96, (3, 1), generator=torch.Generator().manual_seed(step))
        tails.append(ids)
        batch = dataclasses.replace(
            pieces(alone[1], 0, 0),
            ids_BT=ids,
            position_BT=lengths + step,
            doc_BT=like,
            block_BT=like - 1,
            target_BT=like + IGNORE,
        )
        if step == 7:  # finished rows leave, order changes: the cache follows
            cache = cache.select([0, 1, 2])
        together = model(batch, cache)
    for row, prompt in enumerate(alone):
        tail = torch.cat([ids[row : row + 1] for ids in tails], dim=1)
        full = row_of([prompt], total=prompt.ids_BT.shape[1] + 15)
        ids = torch.cat([prompt.ids_BT, tail], dim=1)
        length = ids.shape[1]
        full = dataclasses.replace(
            full, ids_BT=ids, position_BT=torch.arange(length)[None], doc_BT=torch.zeros_like(ids)
        )
        torch.testing.assert_close(together[row, 0], model(full)[0, -1], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_cache_trims_and_selects(model: Decoder) -> None:
    batch = document(2, "tttttt")
    cache = model.new_cache(1, 30)
    model(pieces(batch, 0, 9), cache)
    model(pieces(batch, 12, 18), cache)  # the wrong tokens
    cache.trim(9)
    twins = cache.select([0, 0])
    assert twins.batch_size == 2
    again = model(pieces(batch, 9, 18), cache)[0]
    torch.testing.assert_close(again, model(batch)[0, 9:], atol=1e-5, rtol=1e-5)
    cache.trim_row(0, 4)
    assert cache.places.doc_BT[0, :18].eq(0).sum() == 4
    with pytest.raises(ValueError, match="exceed"):
        model(pieces(batch, 0, 13), cache)
    with pytest.raises(ValueError, match="rows"):
        model(pieces(batch, 0, 1), twins)


def test_masks_follow_their_rule_token_by_token() -> None:
    doc = [0] * 6 + [1] * 5 + [-1]
    position = [*range(6), *range(5), 0]
    block = [-1, 0, 0, 0, -1, -1, 1, 1, -1, 2, 2, -1]
    places = TokenPlaces(*(torch.tensor([values]) for values in (doc, position, block)))
    for window in (None, 3):
        for bidirectional in (False, True):
            mask = attention_mask(places, places, window=window, bidirectional=bidirectional)
            for q in range(12):
                for k in range(12):
                    ahead = position[k] - position[q]
                    together = window is not None and block[q] == block[k] >= 0
                    sees = bidirectional or ahead <= 0 or together
                    near = window is None or (abs(ahead) if bidirectional else -ahead) < window
                    assert mask[0, 0, q, k] == (doc[q] == doc[k] and sees and near)


def test_norm_is_its_formula() -> None:
    x = torch.randn(3, 7)
    norm = RMSNorm(7, 1e-6)
    norm.weight.data.normal_()
    wanted = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), wanted)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_its_slow_formula(softcap: float | None, weighted: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 9, 8, requires_grad=True)
    weight = torch.randn(13, 8, requires_grad=True)
    target = torch.randint(0, 13, (2, 9))
    target[0, 3:6] = IGNORE
    weight_BT = torch.rand(2, 9) if weighted else None
    loss = cross_entropy(hidden, weight, target, softcap=softcap, chunk_size=4, weight_BT=weight_BT)
    (2.5 * loss.sum).backward()
    got = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    slow, hits, count = torch.zeros(()), 0, 0
    for b in range(2):
        for t in range(9):
            if target[b, t] == IGNORE:
                continue
            logits = weight @ hidden[b, t]
            logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
            term = -torch.log(torch.softmax(logits, 0)[target[b, t]])
            slow = slow + (term if weight_BT is None else term * weight_BT[b, t])
            hits += int(logits.argmax() == target[b, t])
            count += 1
    (2.5 * slow).backward()
    torch.testing.assert_close(loss.sum, slow)
    torch.testing.assert_close(got[0], hidden.grad)
    torch.testing.assert_close(got[1], weight.grad)
    assert (int(loss.count), int(loss.metrics["correct"])) == (count, hits)


def test_cross_entropy_of_no_targets_is_zero() -> None:
    hidden = torch.randn(1, 3, 8, requires_grad=True)
    loss = cross_entropy(hidden, torch.randn(5, 8), torch.full((1, 3), IGNORE))
    loss.sum.backward()
    assert loss.sum == 0 and loss.count == 0 and hidden.grad.abs().max() == 0


def test_overfits_four_examples(model: Decoder) -> None:
    learner = Decoder(model.config).init_weights(2)
    batch = rows_of([row_of([document(seed, "tita")], total=13) for seed in range(4)])
    target = batch.ids_BT.roll(-1, dims=1)
    target[:, -1] = IGNORE
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    for _ in range(60):
        hidden = learner.hidden(batch)
        loss = cross_entropy(hidden, learner.output_weight_VD, target, softcap=20.0)
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    assert loss.sum / loss.count < 0.05
    assert all(parameter.grad is not None for parameter in learner.parameters())


@torch.inference_mode()
def test_start_is_sane(model: Decoder) -> None:
    """At the start the stream neither vanishes nor grows, and no token is preferred."""
    fresh = Decoder(SIZES["atom"]).init_weights()
    batch = dataclasses.replace(
        pieces(document(0, "t"), 0, 0),
        **{name: torch.zeros(1, 64, dtype=torch.int64) for name in ("ids_BT", "doc_BT", "target_BT")},
        position_BT=torch.arange(64)[None],
        block_BT=torch.full((1, 64), -1),
    )
    batch = dataclasses.replace(
        batch, ids_BT=torch.randint(0, 4000, (1, 64), generator=torch.Generator().manual_seed(0))
    )
    assert 0.8 < fresh.embed(batch).std() < 1.2
    assert 0.8 < fresh(batch).std() < 1.2


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_stated_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = Decoder(SIZES[size])
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[size]


@pytest.mark.parametrize(("size", "billions"), [("nano-1", 1.8), ("nano-2", 3.25), ("pro", 11.96), ("ultra", 109.0)])
def test_sizes_are_what_their_names_say(size: str, billions: float) -> None:
    assert PARAMETERS[size] / 1e9 == pytest.approx(billions, rel=0.01)


def test_bidirectional_sees_the_future(model: Decoder) -> None:
    batch = document(0, "ttttttt")
    changed = dataclasses.replace(batch, ids_BT=batch.ids_BT.clone().index_fill_(1, torch.tensor([20]), 3))
    with torch.inference_mode():
        causal = model.hidden(batch)[0, 0] - model.hidden(changed)[0, 0]
        both = model.hidden(batch, bidirectional=True)[0, 0] - model.hidden(changed, bidirectional=True)[0, 0]
    assert causal.abs().max() == 0 and both.abs().max() > 1e-4


@pytest.mark.slow
def test_compiled_equals_eager(model: Decoder) -> None:
    batch = document(0, "ttittat")
    compiled = Decoder(model.config)
    compiled.load_state_dict(model.state_dict())
    compiled.compile_layers()
    torch.testing.assert_close(compiled.hidden(batch), model.hidden(batch), atol=1e-5, rtol=1e-5)


def test_loading_names_what_is_wrong(model: Decoder, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    with pytest.raises(ValueError, match=r"elsewhere/config.json"):
        load_model(tmp_path / "elsewhere")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 50
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model.safetensors: model.language_model.*mlp.*shape"):
        load_model(tmp_path)
    config["text_config"] |= {"intermediate_size": 48, "hidden_sise": 3}
    config["model_type"] = "llama"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'llama' is not supported"):
        load_model(tmp_path)
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors: not a complete"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="neither"):
        load_model(tmp_path)


def test_media_without_their_embedder_are_refused(model: Decoder) -> None:
    deaf = Decoder(dataclasses.replace(model.config, vision=None, audio=None)).init_weights()
    with pytest.raises(ValueError, match="without vision"):
        deaf(document(0, "ti"))
    with pytest.raises(ValueError, match="without audio"):
        deaf(document(0, "ta"))
    wrong = dataclasses.replace(document(0, "ti"), patches_PC=torch.rand(4, 9))
    with pytest.raises(ValueError, match="48 numbers a patch"):
        model(wrong)


@torch.no_grad()
@pytest.mark.parametrize("both_ways", [False, True])
def test_flex_attention_sees_the_same(model: Decoder, both_ways: bool) -> None:
    """Packed documents with pictures and sound, padding, beyond the window: as through the boolean mask."""
    batch = row_of([document(1, "tttitttaatttttttttttt"), document(2, "iittttttttttttt")], total=150)
    wanted = model.hidden(batch, bidirectional=both_ways)
    model.flex = True
    try:
        found = model.hidden(batch, bidirectional=both_ways)
    finally:
        model.flex = False
    held = batch.doc_BT >= 0
    torch.testing.assert_close(found[held], wanted[held], atol=1e-5, rtol=1e-5)
