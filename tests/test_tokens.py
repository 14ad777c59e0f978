"""Text round-trips, rendering is reversible, packing loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castor.content import Audio, Image, Message, Text, Video
from castor.tokens.pack import collate, pack, plan
from castor.tokens.render import Renderer
from castor.tokens.space import MAX_GRID, IdSpace
from castor.tokens.text import Tokenizer, train_tokenizer
from castor.tokens.video import time_stamp

FIXTURES = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


@settings(**FIXTURES, max_examples=200)
@given(text=st.text(max_size=60))
def test_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(**FIXTURES, max_examples=100)
@given(data=st.binary(max_size=60))
def test_random_bytes_round_trip(tokenizer: Tokenizer, data: bytes) -> None:
    text = data.decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_space_mark_of_sentencepiece_round_trips(tokenizer: Tokenizer) -> None:
    for text in ("\u2581", "a\u2581b", " \u2581\u2581 c"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("red circle") == tokenizer._processor.encode("red circle")


def test_special_names_in_text_stay_text(renderer: Renderer) -> None:
    ids = renderer.tokenizer.encode("<|turn><|image|></s><0x41>")
    assert all(4 <= i < renderer.space.num_text for i in ids)


def test_digits_are_split(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("12345")) == 5


def test_training_a_tokenizer_is_deterministic() -> None:
    lines = [f"line {i} of the red circle" for i in range(300)]
    assert train_tokenizer(lines, 300).model == train_tokenizer(lines, 300).model


def test_id_space_is_disjoint_and_invertible() -> None:
    space = IdSpace(num_text=400, num_codes=100)
    grids = [space.grid(n) for n in range(1, MAX_GRID + 1)]
    assert [space.cells(i) for i in grids] == list(range(1, MAX_GRID + 1))
    assert max(grids) < space.first_code and space.vocab_size % 64 == 0
    assert not any(space.is_code(i) or space.cells(i) for i in (0, 399, space.end))
    with pytest.raises(ValueError, match="1 to 32"):
        space.grid(33)


def _pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_what_is_rendered_parses_back(renderer: Renderer) -> None:
    """Media that fit the grid exactly come back equal, as do texts, roles and order."""
    samples = np.linspace(-1, 1, 640 * 3, dtype=np.float32)
    drawn = Image.from_pixels(renderer.decode_image(np.arange(12).reshape(3, 4)))
    messages = [
        Message.system("be brief"),
        Message.user(Image.from_pixels(_pixels(32, 32)), "how many?", Audio.from_samples(samples), "红色 12"),
        Message.model("3 circles", drawn, "there"),
        Message.user("again"),
        Message.model("3"),
    ]
    parsed = renderer.parse(renderer.encode(messages))
    assert [m.role for m in parsed] == [m.role for m in messages]
    for got, wanted in zip(parsed, messages, strict=True):
        assert [type(p) for p in got.parts] == [type(p) for p in wanted.parts]
        assert got.text == wanted.text
    assert np.array_equal(parsed[1].parts[0].pixels(), messages[1].parts[0].pixels())
    assert np.allclose(parsed[1].parts[2].samples(), samples, atol=1e-6)
    codes = renderer.encode_image(drawn.pixels())
    assert np.array_equal(parsed[2].parts[1].pixels(), renderer.decode_image(codes))


def test_targets_are_what_the_model_says(renderer: Renderer) -> None:
    sequence = renderer.encode(
        [Message.user("how many?"), Message.model("3"), Message.user("and?"), Message.model("4")]
    )
    said = sequence.ids_T[sequence.is_target_T].tolist()
    tokenizer = renderer.tokenizer
    stop = renderer.stop_id
    assert said == [*tokenizer.encode("3"), stop, *tokenizer.encode("4"), stop]


def test_video_is_time_stamped_frames_with_its_sound_between(renderer: Renderer) -> None:
    frames = np.stack([_pixels(16, 16, seed) for seed in range(8)])
    samples = np.arange(16_000 * 4, dtype=np.float32) / (16_000 * 4)
    video = Video.from_frames(frames, 2.0, samples)
    sequence = renderer.encode([Message.user(video)])
    parts = renderer.parse(sequence)[0].parts
    kinds = [type(part).__name__ for part in parts]
    assert kinds == ["Text", "Image", "Text", "Image", "Audio"] * 2
    clip = video.clip(renderer.limits, num_frames=4)
    assert [part.text for part in parts if isinstance(part, Text)] == [time_stamp(t) for t in clip.times_s]
    heard = np.concatenate([p.samples() for p in parts if isinstance(p, Audio)])
    assert abs(len(heard) - len(samples)) < 640 * 4 + 1
    assert len(set(sequence.block_T[sequence.block_T >= 0].tolist())) == 4


def test_features_match_their_places(renderer: Renderer) -> None:
    sequence = renderer.encode(
        [Message.user(Image.from_pixels(_pixels(50, 90)), "x", Image.from_pixels(_pixels(9, 9)))]
    )
    placeholder = renderer.space.special("<|image|>")
    assert sequence.patch_at_P.tolist() == np.flatnonzero(sequence.ids_T == placeholder).tolist()
    assert len(sequence.patches_PC) == len(sequence.patch_xy_P2) == len(sequence.patch_at_P)


def test_an_unfinished_picture_is_left_out(renderer: Renderer) -> None:
    space = renderer.space
    begun = [space.special("<|draw>"), space.grid(2), space.grid(2), space.first_code, space.first_code + 1]
    parts = renderer.decode([*renderer.tokenizer.encode("see"), *begun])
    assert [type(part) for part in parts] == [Text]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 40), max_size=30), rows=st.integers(1, 4))
def test_plan_places_each_once_and_overfills_nothing(lengths: list[int], rows: int) -> None:
    planned = plan(lengths, rows, 40)
    placed = [index for row in planned for index in row]
    assert len(placed) == len(set(placed))
    assert all(sum(lengths[i] for i in row) <= 40 for row in planned)
    room = [40 - sum(lengths[i] for i in row) for row in planned]
    assert all(lengths[i] > max(room) for i in range(len(lengths)) if i not in placed)


def test_pack_keeps_documents_apart(renderer: Renderer) -> None:
    texts = ["red circle", "how many are there", "blue"]
    sequences = [renderer.encode([Message.user(t), Message.model("3")]) for t in texts]
    batch, left = pack(sequences, num_rows=2, row_tokens=64)
    assert left == [] and batch.num_tokens == sum(len(s) for s in sequences)
    for row in range(2):
        docs = batch.doc_BT[row]
        for doc in docs[docs >= 0].unique().tolist():
            at = docs == doc
            assert batch.position_BT[row][at].tolist() == list(range(int(at.sum())))
    assert batch.num_targets == sum(int(s.is_target_T.sum()) for s in sequences)
    # the last token of a document predicts nothing, so no target crosses into the next one
    row = collate([[sequences[0], sequences[1]]], 64)
    assert row.target_BT[0, len(sequences[0]) - 1] == -100
