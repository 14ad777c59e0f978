"""Compiled passes of inference equal their plain forms; the code is built once, and its absence changes no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from castor.nn import native
from castor.nn.block import FeedForward
from castor.nn.norm import rms_norm
from castor.nn.rope import inverse_frequencies, rope_table, rotate

needs_compiler = pytest.mark.skipif(native.native("layers") is None, reason="no C++ compiler")
ERROR = {torch.float32: 1e-6, torch.bfloat16: 2**-7}  # of the largest number


def both(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """By the compiled passes, which only inference takes, and by torch."""
    with torch.inference_mode():
        fast = compute()
    with torch.no_grad():
        return fast, compute()


def assert_near(fast: torch.Tensor, plain: torch.Tensor) -> None:
    assert fast.dtype == plain.dtype and fast.shape == plain.shape
    assert (fast.float() - plain.float()).abs().max() <= ERROR[fast.dtype] * plain.float().abs().max()


@needs_compiler
@pytest.mark.parametrize("dtype", list(ERROR))
@pytest.mark.parametrize("width", [16, 40, 7, 1536])
def test_norm(dtype: torch.dtype, width: int) -> None:
    x = (torch.randn(3, 29, width) * 5).to(dtype)
    weight = torch.rand(width).to(dtype)
    for scale in (weight, None):
        assert_near(*both(lambda scale=scale: rms_norm(x, scale, 1e-6)))
    gaps = x.transpose(0, 1)  # no plain memory: torch's form
    assert_near(*both(lambda: rms_norm(gaps, weight, 1e-6)))


@needs_compiler
@pytest.mark.parametrize("dtype", list(ERROR))
@pytest.mark.parametrize("width", [32, 20, 256])
def test_rotate(dtype: torch.dtype, width: int) -> None:
    x = torch.randn(2, 31, 3, width).to(dtype)
    places = torch.arange(62).view(2, 31) * 37
    for share in (1.0, 0.25):
        table = rope_table(places, inverse_frequencies(width, 1e4, share))
        assert_near(*both(lambda table=table: rotate(x, *table)))


@needs_compiler
@pytest.mark.parametrize("dtype", list(ERROR))
def test_feed_forward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = FeedForward(24, 75).to(dtype)
    x = (torch.randn(2, 9, 24) * 4).to(dtype)  # large gates, too, beyond where tanh is one
    assert_near(*both(lambda: layer(x)))


@needs_compiler
def test_training_does_not_take_them() -> None:
    x = torch.randn(4, 16, requires_grad=True)
    rms_norm(x, torch.ones(16), 1e-6).sum().backward()
    assert x.grad is not None and native.compiled_work("norm", x) is None


@needs_compiler
def test_built_once_and_not_where_it_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.native.__wrapped__
    assert build("layers") is not None
    (built,) = (tmp_path / "castor" / "native").iterdir()
    before = built.stat().st_mtime_ns
    assert build("layers") is not None and built.stat().st_mtime_ns == before
    monkeypatch.setenv("CASTOR_KERNELS", "0")
    assert build("layers") is None
    monkeypatch.delenv("CASTOR_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(built))  # a file, where nothing can be written
    assert build("layers") is None
