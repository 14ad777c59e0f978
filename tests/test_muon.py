"""Muon beside PyTorch's own, and its iterations beside singular values."""

from __future__ import annotations

import pytest
import torch

from castor.train.muon import COEFFICIENTS, NUM_ITERATIONS, Muon, orthogonal

SHAPES = [(16, 16), (12, 40), (40, 12), (8, 9), (1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_iterations_are_a_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    """Whole or on the Gram matrix, what comes out is U p(S) V^T, with p worked out value by value."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    wanted = u @ torch.diag(values) @ v
    assert torch.allclose(orthogonal(matrix.float(), torch.float32).double(), wanted, atol=2e-4)
    assert (orthogonal(matrix, torch.bfloat16).double() - wanted).abs().max() < 0.15


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_that_of_torch(shape: tuple[int, int]) -> None:
    """In bfloat16 the very same numbers, in float32 near them, over several steps with decay."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    pair = Muon([ours], **settings), torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(shape, generator=generator)
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert torch.equal(pair[0].state[ours]["momentum_buffer"], pair[1].state[theirs]["momentum_buffer"])


def test_a_matrix_of_zeros_stays_finite() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.isfinite(orthogonal(torch.zeros(4, 12), dtype)).all()
