"""Many rows in bfloat16 by float32: as exact as their rounding allows, and only where nothing else is faster."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from castor.nn import linear
from castor.nn.linear import Linear, widened_product


@pytest.mark.parametrize("panel", [1, 100, 1 << 18])
@pytest.mark.parametrize("shape", [(1, 1), (40, 24), (7, 33)])
def test_a_product_is_rounded_once(shape: tuple[int, int], panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest bfloat16 to the product in float64, but for what float32 adds up differently."""
    monkeypatch.setattr(linear, "PANEL", panel)
    x, weight_FD = torch.randn(2, 9, shape[1]).bfloat16(), torch.randn(shape).bfloat16()
    exact = x.double() @ weight_FD.double().T
    y = widened_product(x, weight_FD)
    assert y.dtype == torch.bfloat16 and y.shape == exact.shape
    assert ((y.double() - exact).abs() <= exact.abs() * 2**-8 + exact.abs().max() * 1e-6).all()


@pytest.mark.parametrize("native", [True, False])
def test_where_it_is_taken(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(linear, "_multiplies_bfloat16", lambda: native)
    monkeypatch.setattr(linear, "widened_product", lambda x, weight: asked.append(len(x)) or F.linear(x, weight))
    layer, biased = Linear(32, 16, bias=False), Linear(32, 16)
    many, few = torch.randn(20, 32), torch.randn(3, 32)
    with torch.inference_mode():
        layer(many)
    layer, biased = layer.bfloat16(), biased.bfloat16()
    layer(many.bfloat16()).sum().backward()  # training goes through torch
    with torch.inference_mode():
        layer(few.bfloat16()), biased(many.bfloat16())
        assert not asked
        layer(many.bfloat16())
    assert asked == ([] if native else [20])
