"""Gemma 4 and EmbeddingGemma 2 with their towers against transformers': pictures, sound and video among text.

Tiny random checkpoints, loaded by us and saved back; documents with any mix of media, alone and packed, with a cache
and without.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

import reference as ref
import transformers

from castor.models.audio_tower import AudioTowerConfig
from castor.models.config import AudioConfig, ModelConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model
from castor.models.vision_tower import VisionTowerConfig
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence
from castor.tokens.vision import patchify

TOLERANCE = 1e-4
IMAGE, AUDIO, VIDEO = 300, 301, 302
VISION = VisionTowerConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    patch_size=4,
    pooling_kernel_size=3,
    position_embedding_size=64,
)
SOUND = AudioTowerConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    subsampling_conv_channels=(16, 8),
    attention_chunk_size=5,
    attention_context_left=6,
    output_proj_dims=40,
)
# As published: the small ones have clipped linears and sound, the large ones standardised soft tokens and no sound.
MEDIA = {
    "gemma4 E2B": (dataclasses.replace(VISION, use_clipped_linears=True), SOUND),
    "gemma4 E4B": (dataclasses.replace(VISION, use_clipped_linears=True), SOUND),
    "gemma4 31B": (dataclasses.replace(VISION, standardize=True), None),
    "gemma4 26B-A4B": (dataclasses.replace(VISION, standardize=True), None),
    "embedding_gemma2": (VISION, dataclasses.replace(SOUND, use_clipped_linears=False)),
}
DECODERS = ["gemma4 E2B", "gemma4 E4B", "gemma4 31B", "gemma4 26B-A4B"]
Pair = tuple[Any, Decoder]

# t: so many tokens of text; i: a picture of (rows, columns) soft tokens; v: a video of (frames, rows, columns);
# a: a sound of so many columns of 10 ms.
Item = tuple[str, Any]
DOCUMENTS: dict[str, list[Item]] = {
    "a picture": [("t", 4), ("i", (2, 3)), ("t", 5)],
    "several pictures": [("i", (1, 5)), ("t", 2), ("i", (3, 2)), ("t", 1), ("i", (2, 3)), ("t", 2)],
    "a picture wider than the window": [("t", 3), ("i", (4, 4)), ("t", 3)],
    "a sound": [("t", 3), ("a", 38), ("t", 4)],
    "a video": [("t", 3), ("v", (3, 2, 2)), ("t", 4)],
    "interleaved": [("t", 2), ("a", 21), ("t", 1), ("i", (2, 2)), ("t", 1), ("v", (2, 1, 3)), ("a", 4), ("t", 1)]
    + [("i", (3, 1)), ("t", 1), ("a", 60), ("t", 1), ("v", (1, 2, 2)), ("t", 3)],
}


def documents_of(name: str) -> dict[str, list[Item]]:
    """The documents that a model can read."""
    hears = MEDIA[name][1] is not None
    return {
        key: [item for item in items if hears or item[0] != "a"]
        for key, items in DOCUMENTS.items()
        if hears or key != "a sound"
    }


def random_reference(name: str, *, tokens: dict[str, int] | None = None, **text: Any) -> Any:
    """A transformers model with towers, every tensor of which is far from its initial value; `text` changes its config.

    Its text side is shallower than in the tests of text: every layer makes the rounding errors of the towers larger.
    """
    architecture, (vision, sound) = ref.ARCHITECTURES[name], MEDIA[name]
    shallow = {"num_hidden_layers": 6, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2}
    if "num_kv_shared_layers" in architecture.text:
        shallow["num_kv_shared_layers"] = 3
    config = getattr(transformers, architecture.config)(
        text_config=ref._TEXT | architecture.text | shallow | text,
        vision_config=vision.to_hf(),
        audio_config=None if sound is None else sound.to_hf(),
        **(tokens or {"image_token_id": IMAGE, "audio_token_id": AUDIO, "video_token_id": VIDEO}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, architecture.model)._from_config(config, attn_implementation="eager").eval()
    if "enable_moe_block" in architecture.text:
        model.set_experts_implementation("eager")
    if vision.standardize:  # they leave these uninitialised
        for part, value in (("std_bias", 0.0), ("std_scale", 1.0)):
            model.model.vision_tower.get_buffer(part).fill_(value)
    return ref.randomise_model(model)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    found = {}
    for name in MEDIA:
        reference = random_reference(name)
        found[name] = reference, load_model(ref.write(reference, tmp_path_factory.mktemp("model")))
    return found


def picture(height: int, width: int, draw: np.random.Generator) -> np.ndarray:
    px = VISION.model_patch_size
    return draw.integers(0, 256, (height * px, width * px, 3), dtype=np.uint8)


class Document:
    """The same document for both sides, built item by item."""

    def __init__(self, items: list[Item], seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.ids: list[int] = []
        self.blocks: list[int] = []
        self.num_blocks = 0
        self.pictures: dict[int, list[np.ndarray]] = {IMAGE: [], VIDEO: []}
        self.num_frames: list[int] = []
        self.in_order: list[tuple[np.ndarray, int]] = []
        self.sounds: list[tuple[np.ndarray, int]] = []
        for kind, size in items:
            getattr(self, f"_{kind}")(size)

    def _t(self, length: int) -> None:
        self._add(self.draw.integers(3, 300, length).tolist(), -1)

    def _i(self, size: tuple[int, int], placeholder: int = IMAGE) -> None:
        pixels = picture(*size, self.draw)
        self.pictures[placeholder].append(pixels)
        self.in_order.append((pixels, len(self.ids)))
        self._add([placeholder] * (size[0] * size[1]), self.num_blocks)
        self.num_blocks += 1

    def _v(self, size: tuple[int, int, int]) -> None:
        self.num_frames.append(size[0])
        for _ in range(size[0]):
            self._t(2)
            self._i(size[1:], VIDEO)

    def _a(self, length: int) -> None:
        sound = self.draw.standard_normal((length, SOUND.num_mels)).astype(np.float32)
        self.sounds.append((sound, len(self.ids)))
        self._add([AUDIO] * -(-length // 4), -1)

    def _add(self, ids: list[int], block: int) -> None:
        self.ids += ids
        self.blocks += [block] * len(ids)

    def ours(self) -> Sequence:
        squares = [patchify(pixels, VISION.model_patch_size) for pixels, _ in self.in_order]
        rows = [
            np.pad(sound, ((0, -len(sound) % 4), (0, 0))).reshape(-1, SOUND.audio_embed_dim) for sound, _ in self.sounds
        ]
        spans = [np.arange(at, at + len(part)) for (_, at), (part, _) in zip(self.in_order, squares, strict=True)]
        heard = [np.arange(at, at + len(part)) for (_, at), part in zip(self.sounds, rows, strict=True)]
        return Sequence(
            ids_T=np.array(self.ids, np.int32),
            is_target_T=np.zeros(len(self.ids), bool),
            block_T=np.array(self.blocks, np.int32),
            patches_PC=np.concatenate([p for p, _ in squares] or [np.zeros((0, VISION.patch_dim), np.uint8)]),
            patch_xy_P2=np.concatenate([xy for _, xy in squares] or [np.zeros((0, 2), np.int32)]),
            patch_at_P=np.concatenate(spans or [np.zeros(0, np.int32)]),
            frames_SF=np.concatenate(rows or [np.zeros((0, SOUND.audio_embed_dim), np.float32)]),
            frame_at_S=np.concatenate(heard or [np.zeros(0, np.int32)]),
            clip_S=np.concatenate([np.full(len(part), i) for i, part in enumerate(rows)] or [np.zeros(0, np.int32)]),
        )

    def theirs(self) -> dict[str, torch.Tensor]:
        ids = torch.tensor([self.ids])
        given = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE) * 1 + (ids == VIDEO) * 2 + (ids == AUDIO) * 3}
        for placeholder, names in (
            (IMAGE, ("pixel_values", "image_position_ids")),
            (VIDEO, ("pixel_values_videos", "video_position_ids")),
        ):
            if self.pictures[placeholder]:
                given |= dict(zip(names, padded_patches(self.pictures[placeholder]), strict=True))
        if self.num_frames:
            given["num_frames_per_video"] = torch.tensor(self.num_frames)
        if self.sounds:
            most = max(len(sound) for sound, _ in self.sounds) + 3
            sounds = [torch.from_numpy(np.pad(sound, ((0, most - len(sound)), (0, 0)))) for sound, _ in self.sounds]
            given["input_features"] = torch.stack(sounds)
            lengths = torch.tensor([len(sound) for sound, _ in self.sounds])
            given["input_features_mask"] = torch.arange(most) < lengths[:, None]
        return given


def padded_patches(pictures: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [patchify(pixels, VISION.patch_size) for pixels in pictures]
    most = max(len(patches) for patches, _ in parts) + 9
    values = [F.pad(torch.from_numpy(p).float() / 255.0, (0, 0, 0, most - len(p))) for p, _ in parts]
    places = [F.pad(torch.from_numpy(xy).long(), (0, 0, 0, most - len(xy)), value=-1) for _, xy in parts]
    return torch.stack(values), torch.stack(places)


def their_output(reference: Any, document: Document, **options: Any) -> torch.Tensor:
    """Logits, or vectors of tokens, [T, V or E]."""
    given = document.theirs()
    if type(reference).__name__.startswith("EmbeddingGemma2"):
        del given["mm_token_type_ids"]
    output = reference(**given, **options)
    return (output.logits if hasattr(output, "logits") else output.last_hidden_state)[0]


def far(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return ((theirs - ours).abs().max() / theirs.abs().max().clamp(min=1.0)).item()


@pytest.mark.parametrize("name", MEDIA)
@torch.inference_mode()
def test_documents_alone_and_packed_equal_transformers(pairs: dict[str, Pair], name: str) -> None:
    """Three rows of two documents each, theirs one by one."""
    reference, model = pairs[name]
    documents = {key: Document(items, seed) for seed, (key, items) in enumerate(documents_of(name).items())}
    sequences = [document.ours() for document in documents.values()]
    rows = [sequences[:1], sequences[1:4], sequences[4:]]
    packed = ref.our_output(model, collate(rows, 3 + max(sum(map(len, row)) for row in rows)))
    found = [packed[r, start : start + len(s)] for r, row in enumerate(rows) for start, s in starts_of(row)]
    for (key, document), ours in zip(documents.items(), found, strict=True):
        theirs = their_output(reference, document)
        assert theirs.std() > 0.1
        assert far(theirs, ours) < TOLERANCE, key
        alone = ref.our_output(model, collate([[document.ours()]], len(document.ids)))[0]
        assert far(theirs, alone) < TOLERANCE, key


def starts_of(row: list[Sequence]) -> list[tuple[int, Sequence]]:
    starts = np.cumsum([0] + [len(sequence) for sequence in row])
    return list(zip(starts.tolist(), row, strict=False))


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_cached_equals_transformers(pairs: dict[str, Pair], name: str) -> None:
    """Prompts with media of unequal length in one cache, then text past the window, theirs one by one."""
    reference, model = pairs[name]
    documents = [Document(items, seed) for seed, items in enumerate(documents_of(name).values())]
    width, tail = max(len(document.ids) for document in documents), ref.documents(ref.WINDOW + 4, seed=2)[0]
    cache = model.new_cache(len(documents), width + len(tail))
    first = model(collate([[document.ours()] for document in documents], width), cache)
    lengths = [len(document.ids) for document in documents]
    steps = [
        model(ref.step_of([token_id] * len(documents), [length + i for length in lengths]), cache)[:, 0]
        for i, token_id in enumerate(tail)
    ]
    for row, document in enumerate(documents):
        past = transformers.DynamicCache(config=reference.config.get_text_config())
        theirs = their_output(reference, document, past_key_values=past, use_cache=True)
        assert far(theirs, first[row, : lengths[row]]) < TOLERANCE
        for token_id, ours in zip(tail, steps, strict=True):
            theirs = ref.their_output(reference, [token_id], past_key_values=past, use_cache=True)[-1]
            assert far(theirs, ours[row]) < TOLERANCE


@pytest.mark.parametrize("name", MEDIA)
@torch.inference_mode()
def test_what_we_save_transformers_reads(pairs: dict[str, Pair], name: str, tmp_path: Path) -> None:
    model = pairs[name][1]
    again = ref.read_back(model, name, tmp_path)
    document = Document(documents_of(name)["interleaved"])
    batch = collate([[document.ours()]], len(document.ids))
    ours = ref.our_output(model, batch)
    assert far(their_output(again, document), ours[0]) < TOLERANCE
    assert (ref.our_output(load_model(tmp_path), batch) - ours).abs().max() == 0


@pytest.mark.parametrize("name", ["gemma4 E2B", "gemma4 31B", "embedding_gemma2"])
@torch.inference_mode()
def test_every_tensor_of_the_towers_matters(pairs: dict[str, Pair], name: str) -> None:
    """So that equality says something: each bound drawn in, each other tensor shaken."""
    model = pairs[name][1]
    document = Document(documents_of(name)["interleaved"])
    batch = collate([[document.ours()]], len(document.ids))
    before = ref.our_output(model, batch)
    for key, tensor in model.state_dict().items():
        if key.startswith("language_model"):
            continue
        kept = tensor.clone()
        tensor.mul_(0.1) if key.endswith(("_min", "_max")) else tensor.add_(0.3 * torch.randn_like(tensor))
        assert (ref.our_output(model, batch) - before).abs().max() > 1e-3, key
        tensor.copy_(kept)


@torch.inference_mode()
def test_the_stretches_of_a_clip_are_heard_as_one(pairs: dict[str, Pair]) -> None:
    """A sound whose tokens lie in two places: the soft tokens are those of the whole sound."""
    model = pairs["gemma4 E2B"][1]
    whole = Document([("t", 2), ("a", 40), ("t", 6)]).ours()
    at = whole.frame_at_S + np.where(np.arange(10) < 5, 0, 3)
    apart = dataclasses.replace(whole, frame_at_S=at)
    embed = [model.embed(collate([[sequence]], len(sequence)))[0] for sequence in (whole, apart)]
    torch.testing.assert_close(embed[0][whole.frame_at_S], embed[1][at])
    without = model.embed(dataclasses.replace(collate([[apart]], len(apart)), clip_S=None))[0]
    assert not torch.allclose(without[at[5:]], embed[1][at[5:]], atol=1e-2)


def own_config(vision: Any, audio: Any) -> ModelConfig:
    text = ModelConfig.from_hf(random_reference("gemma4 E2B").config.to_dict()).text
    return ModelConfig(
        text=dataclasses.replace(text, num_kv_shared_layers=2), vision=vision, audio=audio, model_type="castor"
    )


def test_towers_train_in_a_model_of_our_own(tmp_path: Path) -> None:
    """Told apart: four documents of one picture or one sound each, whose text is the same but for the answer."""
    config = own_config(dataclasses.replace(VISION, standardize=True), SOUND)
    with torch.device("meta"):
        model = Decoder(config)
    model = model.to_empty(device="cpu").init_weights(0)
    documents = [
        Document([(kind, size), ("t", 1)], seed) for seed, (kind, size) in enumerate([("i", (2, 2)), ("a", 16)] * 2)
    ]
    batch = collate([[document.ours()] for document in documents], 5)
    batch.ids_BT[:, 4] = 7
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(batch)[:, 4], torch.tensor([10, 11, 12, 13]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < 2 < losses[0], (losses[0], losses[-1])
    for tower in (model.vision_tower, model.audio_tower):
        assert tower is not None
        assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    with torch.inference_mode():
        assert (again(batch) - model(batch)).abs().max() == 0


def test_a_model_of_our_own_may_mix_ways_in(tmp_path: Path) -> None:
    for vision, audio in ((VISION, AudioConfig(audio_embed_dim=20)), (VisionConfig(patch_size=4), SOUND)):
        config = own_config(vision, audio)
        assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_mistakes_are_named(pairs: dict[str, Pair]) -> None:
    model = pairs["gemma4 E2B"][1]
    values = model.config.to_hf()
    with pytest.raises(ValueError, match="vision_config.model_type='siglip_vision_model'"):
        ModelConfig.from_hf(values | {"vision_config": {"model_type": "siglip_vision_model"}})
    with pytest.raises(ValueError, match="gemma4 does not read media through a AudioConfig"):
        dataclasses.replace(model.config, audio=AudioConfig())
    with pytest.raises(ValueError, match="gemma4_unified does not read media through a VisionTowerConfig"):
        dataclasses.replace(pairs["gemma4 31B"][1].config, model_type="gemma4_unified")
    document = Document(DOCUMENTS["a sound"])
    batch = collate([[document.ours()]], len(document.ids))
    with pytest.raises(ValueError, match="the model takes 64 numbers a frame"):
        model(dataclasses.replace(batch, frames_SF=batch.frames_SF[:, 1:]))
    with pytest.raises(ValueError, match="for a model without audio"):
        pairs["gemma4 31B"][1](batch)


def test_published_sizes_build_on_meta_with_their_towers() -> None:
    """EmbeddingGemma 2 has 740 million parameters, of which 271 are text's, 167 vision's and 305 sound's."""
    values = transformers.EmbeddingGemma2Config(vision_config={}, audio_config={"model_type": "gemma4_audio"}).to_dict()
    with torch.device("meta"):
        model = Decoder(ModelConfig.from_hf(values))
    millions = {name: round(sum(p.numel() for p in part.parameters()) / 1e6) for name, part in model.named_children()}
    assert (millions["language_model"], millions["vision_tower"], millions["audio_tower"]) == (271, 167, 305)
