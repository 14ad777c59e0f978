"""The quantiser against its slow formula, the codec at any size, and that a short training helps."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from castor.models.codec import CodecConfig, ImageCodec
from castor.nn.quantizer import FSQ, code_rows, init_code_rows
from castor.train.codec import CodecTraining, measure_codec, train_codec

TINY = CodecConfig(fine_width=8, width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))


def blocks(rng: random.Random) -> np.ndarray:
    """A square of one colour on a ground of another, 16x16."""
    pixels = np.full((16, 16, 3), rng.choice([30, 220]), np.uint8)
    pixels[4:12, 4:12] = [rng.choice([0, 255]) for _ in range(3)]
    return pixels


def slow_digit(value: float, level: int) -> int:
    """Equation of the paper for one number, without tensors: which of `level` values it is rounded to."""
    half = (level - 1) * (1 + 1e-3) / 2
    offset = 0.5 if level % 2 == 0 else 0.0
    return round(math.tanh(value + math.atanh(offset / half)) * half - offset) + level // 2


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,)])
def test_every_code_round_trips(levels):
    fsq = FSQ(levels)
    codes = torch.arange(fsq.num_codes)
    values_NK = fsq.to_values(codes)
    assert torch.equal(fsq.to_code(values_NK), codes)
    assert len(set(map(tuple, values_NK.tolist()))) == fsq.num_codes
    assert values_NK.abs().max() <= 1


def test_quantising_equals_the_slow_formula():
    fsq = FSQ((8, 5, 5, 5))
    z_NK = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 3
    quantised_NK, codes_N = fsq(z_NK)
    for z, code in zip(z_NK.tolist(), codes_N.tolist(), strict=True):
        digits = [slow_digit(value, level) for value, level in zip(z, fsq.levels, strict=True)]
        assert code == digits[0] + 8 * digits[1] + 40 * digits[2] + 200 * digits[3]
    assert torch.equal(fsq.to_values(codes_N), quantised_NK)


def test_the_gradient_goes_straight_through_rounding():
    fsq = FSQ((8, 5))
    z_NK = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fsq(z_NK)[0].sum().backward()
    smooth_NK = z_NK.detach().clone().requires_grad_()
    (fsq.bound(smooth_NK) / (fsq.levels_K // 2)).sum().backward()
    assert torch.allclose(z_NK.grad, smooth_NK.grad)
    assert z_NK.grad.abs().min() > 0


def test_extreme_inputs_reach_the_outer_levels_and_no_further():
    fsq = FSQ((8, 5, 5, 5))
    low, high = fsq(torch.tensor([[-1e4] * 4, [1e4] * 4]))[1].tolist()
    assert (low, high) == (0, fsq.num_codes - 1)


def test_first_rows_of_codes_are_alike_where_their_entries_are_near():
    levels = (8, 5, 5, 5)
    rows_CD = code_rows(levels, 256, torch.Generator().manual_seed(0))
    assert rows_CD.mean().abs() < 0.05 and abs(rows_CD.std() - 1) < 0.02
    values_CK = FSQ(levels).to_values(torch.arange(1000))
    distance_CC = (values_CK[:, None] - values_CK[None]).square().sum(-1)
    likeness_CC = torch.nn.functional.cosine_similarity(rows_CD[:, None], rows_CD[None], dim=-1)
    near, middle, far = ((distance_CC > low) & (distance_CC <= high) for low, high in ((0, 0.5), (2, 3), (6, 17)))
    assert likeness_CC[near].mean() > 0.5 > 0.3 > likeness_CC[middle].mean() > likeness_CC[far].mean()
    table_VD = torch.randn(1200, 256) / 16
    before_VD = table_VD.clone()
    init_code_rows(table_VD, 100, levels, seed=0)
    assert torch.equal(table_VD[:100], before_VD[:100]) and torch.equal(table_VD[1100:], before_VD[1100:])
    assert abs(table_VD[100:1100].std() * 16 - 1) < 0.05 and not torch.equal(table_VD, before_VD)


def test_bad_levels_and_codes_are_named():
    with pytest.raises(ValueError, match=r"\(8, 1\)"):
        FSQ((8, 1))
    with pytest.raises(ValueError, match="1000"):
        FSQ((8, 5, 5, 5)).to_values(torch.tensor([1000]))


@pytest.mark.parametrize("size", [(64, 64), (8, 40), (13, 70), (1, 1)])
def test_any_size_encodes_to_its_grid(size):
    torch.manual_seed(0)
    codec = ImageCodec(TINY).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    codes = codec.encode(pixels)
    assert codes.shape == (-(-size[0] // 8), -(-size[1] // 8)) and codes.dtype == np.int64
    painted = codec.decode(codes)
    assert painted.shape == (codes.shape[0] * 8, codes.shape[1] * 8, 3) and painted.dtype == np.uint8
    assert np.array_equal(codec.encode(pixels), codes) and np.array_equal(codec.decode(codes), painted)


def test_a_batch_equals_its_pictures_and_padding_repeats_the_edge():
    torch.manual_seed(0)
    codec = ImageCodec(TINY).eval()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), np.uint8)
    batch = codec.encode(pixels)
    assert all(np.array_equal(codec.encode(one), codes) for one, codes in zip(pixels, batch, strict=True))
    assert np.array_equal(codec.decode(batch)[1], codec.decode(batch[1]))
    odd = pixels[0, :13, :20]
    assert np.array_equal(codec.encode(odd), codec.encode(np.pad(odd, ((0, 3), (0, 4), (0, 0)), mode="edge")))


def test_wrong_pixels_and_codes_are_refused():
    codec = ImageCodec(TINY)
    with pytest.raises(ValueError, match="float32"):
        codec.encode(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="at least one pixel"):
        codec.encode(np.zeros((0, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="whole numbers"):
        codec.decode(np.zeros((2, 2), np.float32))


def test_saved_codec_paints_the_same(tmp_path):
    torch.manual_seed(0)
    codec = ImageCodec(TINY)
    codec.load_state_dict({name: value.bfloat16().float() for name, value in codec.state_dict().items()})
    codec.save(tmp_path)
    loaded = ImageCodec.load(tmp_path)
    assert loaded.config == codec.config
    codes = np.arange(12).reshape(3, 4) * 80
    assert np.array_equal(loaded.decode(codes), codec.decode(codes))


def test_default_codec_fits_its_file_budget():
    num_bytes = 2 * sum(p.numel() for p in ImageCodec().parameters())
    assert num_bytes <= 2.5e6 and CodecConfig().num_codes == 1000


def test_loss_is_the_slow_formula():
    torch.manual_seed(0)
    codec = ImageCodec(TINY)
    images_BCHW = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    total, count, _ = codec.loss(images_BCHW)
    wanted_BCHW = images_BCHW.float() / 127.5 - 1
    error = (codec(wanted_BCHW)[0] - wanted_BCHW).detach().numpy()
    edges = np.abs(np.diff(error, axis=2)).mean() + np.abs(np.diff(error, axis=3)).mean()
    expected = np.abs(error).mean() + (error**2).mean() + TINY.edge_weight * edges
    assert float(total.detach() / count) == pytest.approx(expected, rel=1e-5)


def test_training_helps_and_repeats_by_seed():
    training = CodecTraining(batch_size=8, size_px=16, warmup_steps=5, average_decay=0.9)
    pictures = [blocks(random.Random(f"test/{i}")) for i in range(16)]
    before = measure_codec(train_codec(TINY, blocks, steps=1, training=training)[0], pictures)
    codec, metrics = train_codec(TINY, blocks, steps=80, training=training)
    after = measure_codec(codec, pictures)
    assert metrics["step"] == 80 and after["psnr_db"] > before["psnr_db"] + 3
    again, _ = train_codec(TINY, blocks, steps=80, training=training)
    assert all(torch.equal(a, b) for a, b in zip(codec.parameters(), again.parameters(), strict=True))


def test_one_code_stands_for_its_own_pixels():
    torch.manual_seed(0)
    codec = ImageCodec(TINY).eval()
    pixels = np.random.default_rng(2).integers(0, 256, (24, 24, 3), np.uint8)
    assert np.array_equal(codec.encode(pixels)[1:2, 1:2], codec.encode(pixels[8:16, 8:16]))


def test_training_wants_a_budget():
    with pytest.raises(ValueError, match="seconds or steps"):
        train_codec(TINY, blocks)


def test_a_save_that_is_cut_short_leaves_no_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights come last: where they are, the config is there too, and a run may skip the stage."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("castor.models.codec.save_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        ImageCodec(CodecConfig()).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["codec.json"]
