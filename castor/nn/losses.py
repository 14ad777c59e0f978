"""Losses, each as (sum, count, metrics): the loop adds over micro-batches and ranks, and divides once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

IGNORE = -100


class Loss(NamedTuple):
    """A summed loss, how many targets it sums over, and further sums over the same targets (detached)."""

    sum: torch.Tensor
    count: torch.Tensor
    metrics: dict[str, torch.Tensor]


def cross_entropy(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    target_BT: torch.Tensor,
    *,
    softcap: float | None = None,
    chunk_size: int = 1024,
    weight_BT: torch.Tensor | None = None,
) -> Loss:
    """Next-token cross-entropy in nats where `target_BT` is not -100, over `chunk_size` targets at a time.

    The gradient is worked out in the same pass, so that logits never exist for more than one chunk. Products
    are in bfloat16 under autocast; softmax and sums are float32. `weight_BT` multiplies each token's loss.
    Metrics: "correct", the number of targets that were the likeliest.
    """
    flat_target_X = target_BT.reshape(-1)
    at_N = (flat_target_X != IGNORE).nonzero().squeeze(1)
    hidden_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]).index_select(0, at_N)
    target_N = flat_target_X.index_select(0, at_N)
    weight_N = None if weight_BT is None else weight_BT.reshape(-1).index_select(0, at_N).float()
    kind = hidden_BTD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
    wants_grad = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    total, correct = _ChunkedCrossEntropy.apply(
        hidden_ND, weight_VD, target_N, weight_N, softcap, chunk_size, dtype, wants_grad
    )
    return Loss(total, torch.tensor(len(at_N), device=total.device), {"correct": correct})


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        target_N: torch.Tensor,
        weight_N: torch.Tensor | None,
        softcap: float | None,
        chunk_size: int,
        dtype: torch.dtype,
        wants_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            cast_ND, cast_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
            total = torch.zeros((), device=hidden_ND.device)
            correct = torch.zeros((), device=hidden_ND.device)
            grad_ND = torch.zeros_like(cast_ND if wants_grad else cast_ND[:0])
            trains_weight = wants_grad and ctx.needs_input_grad[1]  # of a frozen table no slope is worked out
            grad_VD = torch.zeros_like(weight_VD if trains_weight else weight_VD[:0], dtype=torch.float32)
            for start in range(0, len(target_N), chunk_size):
                span = slice(start, start + chunk_size)
                scale_N = None if weight_N is None else weight_N[span]
                loss_N, right_N, slope_NV = _chunk(
                    cast_ND[span] @ cast_VD.T, target_N[span], scale_N, softcap, wants_grad
                )
                total += loss_N.sum()
                correct += right_N.sum()
                if slope_NV is not None:
                    slope_NV = slope_NV.to(dtype)
                    grad_ND[span] = slope_NV @ cast_VD
                    if trains_weight:
                        grad_VD += slope_NV.T @ cast_ND[span]
        ctx.grads = (grad_ND, grad_VD, hidden_ND.dtype, weight_VD.dtype)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_ND, grad_VD, hidden_type, weight_type = ctx.grads
        slope_VD = (grad_VD * slope).to(weight_type) if ctx.needs_input_grad[1] else None
        return (grad_ND.to(hidden_type) * slope, slope_VD, *[None] * 6)


def _chunk(
    logits_NV: torch.Tensor,
    target_N: torch.Tensor,
    weight_N: torch.Tensor | None,
    softcap: float | None,
    wants_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Loss and hit of each token, and the loss's slope with respect to the logits before the cap."""
    logits_NV = logits_NV.float()
    if softcap is not None:
        logits_NV = torch.tanh(logits_NV / softcap) * softcap
    target_N1 = target_N[:, None]
    chosen_N1, top_N1 = logits_NV.gather(1, target_N1), logits_NV.amax(-1, keepdim=True)
    share_NV = torch.exp(logits_NV - top_N1)
    norm_N1 = share_NV.sum(-1, keepdim=True)
    loss_N = (norm_N1.log() + top_N1 - chosen_N1).squeeze(1)
    right_N = (chosen_N1 == top_N1).squeeze(1)
    slope_NV = None
    if wants_grad:
        slope_NV = share_NV.div_(norm_N1)
        slope_NV.scatter_add_(1, target_N1, slope_NV.new_full(target_N1.shape, -1.0))
        if softcap is not None:
            slope_NV *= 1.0 - (logits_NV / softcap).square()
        if weight_N is not None:
            slope_NV *= weight_N[:, None]
    return (loss_N if weight_N is None else loss_N * weight_N), right_N, slope_NV
