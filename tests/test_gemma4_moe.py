"""Mixtures of experts: against transformers' loop over experts, the kernel against one product after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextExperts, Gemma4TextRouter

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.text_config import TextConfig
from castor.nn.experts import Experts, Router, grouped_product, has_grouped_kernel, plain_grouped_product

DIM, INNER, EXPERTS, TOP = 16, 8, 6, 3


def theirs_and_ours() -> tuple[torch.nn.Module, torch.nn.Module, Router, Experts]:
    """Router and experts of both sides with the same random tensors, scales included."""
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        hidden_size=DIM,
        num_experts=EXPERTS,
        top_k_experts=TOP,
        moe_intermediate_size=INNER,
        num_hidden_layers=1,
        experts_implementation="eager",
    )
    router, experts = Router(DIM, EXPERTS, TOP, 1e-6), Experts(DIM, INNER, EXPERTS)
    with torch.no_grad():
        for parameter in (*router.parameters(), *experts.parameters()):
            parameter.copy_(torch.randn_like(parameter))
    their_router, their_experts = Gemma4TextRouter(config), Gemma4TextExperts(config)
    their_router.load_state_dict(router.state_dict())
    their_experts.load_state_dict(experts.state_dict())
    return their_router, their_experts, router, experts


def test_router_and_experts_equal_transformers_forward_and_backward() -> None:
    their_router, their_experts, router, experts = theirs_and_ours()
    x = torch.randn(40, DIM, requires_grad=True)
    x_theirs = x.detach().clone().requires_grad_()
    _, their_weights, their_choice = their_router(x_theirs)
    weights, choice = router(x)
    assert choice.equal(their_choice)
    torch.testing.assert_close(weights, their_weights)
    theirs, ours = their_experts(x_theirs, their_choice, their_weights), experts(x, weights, choice)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    direction = torch.randn_like(ours)
    (theirs * direction).sum().backward()
    (ours * direction).sum().backward()
    torch.testing.assert_close(x.grad, x_theirs.grad, atol=1e-3, rtol=1e-4)
    for own, other in ((router, their_router), (experts, their_experts)):
        for (name, parameter), expected in zip(own.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-3, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", [(3, 0, 5, 2), (0, 0, 10, 0), (1, 1, 1, 7)])
def test_kernel_equals_one_product_after_the_other(dtype: torch.dtype, counts: tuple[int, ...]) -> None:
    """Experts without tokens included, forward and backward."""
    torch.manual_seed(1)
    x = torch.randn(sum(counts), 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(len(counts), 24, 16, dtype=dtype, requires_grad=True)
    ends = torch.tensor(counts).cumsum(0).int()
    assert has_grouped_kernel(x, weight)
    direction = torch.randn(sum(counts), 24, dtype=dtype)
    found = []
    for product in (grouped_product, plain_grouped_product):
        out = product(x, weight, ends)
        gradients = torch.autograd.grad((out * direction).sum(), (x, weight))
        found.append((out, *gradients))
    slow = torch.stack([weight[(ends <= i).sum()] @ x[i] for i in range(len(x))])
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.2, "rtol": 0.02}
    torch.testing.assert_close(found[0][0], slow, **close)
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, **close)


def test_shapes_without_a_kernel_are_computed_plainly() -> None:
    x, weight, ends = torch.randn(4, 7), torch.randn(2, 5, 7), torch.tensor([1, 4], dtype=torch.int32)
    assert not has_grouped_kernel(x, weight)
    expected = torch.cat([x[:1] @ weight[0].T, x[1:] @ weight[1].T])
    torch.testing.assert_close(grouped_product(x, weight, ends), expected)


def test_autocast_reaches_the_experts() -> None:
    """As a linear layer would, under autocast the products are in bfloat16, and gradients come back in float32."""
    _, _, router, experts = theirs_and_ours()
    x = torch.randn(12, DIM)
    weights, choice = router(x)
    exact, ends = experts(x, weights, choice), torch.tensor([2] * 5 + [12], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        assert grouped_product(x, experts.gate_up_proj, ends).dtype == torch.bfloat16
        rough = experts(x, weights, choice)
    assert F.cosine_similarity(rough.flatten(), exact.flatten(), dim=0) > 0.999
    rough.sum().backward()
    assert experts.down_proj.grad is not None and experts.down_proj.grad.dtype == torch.float32


def test_26b_a4b_builds_on_meta() -> None:
    """The shape of Gemma 4 26B-A4B without its tower: 25.2 billion parameters, of which a token meets 3.8."""
    text = TextConfig(
        vocab_size=262_144,
        hidden_size=2816,
        intermediate_size=2112,
        num_hidden_layers=30,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        num_global_key_value_heads=2,
        attention_k_eq_v=True,
        final_logit_softcapping=30.0,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
    )
    with torch.device("meta"):
        model = Decoder(ModelConfig(text=text, model_type="gemma4"))
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    assert total / 1e9 == pytest.approx(25.2, abs=0.1)
    assert (total - experts * (1 - 8 / 128)) / 1e9 == pytest.approx(3.8, abs=0.1)
