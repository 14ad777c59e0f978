"""Attention through PyTorch's FlexAttention: the same rule of who sees whom, in one kernel that skips blocks.

The boolean mask that the plain form takes grows with the square of the tokens, and every pair is computed; here only
blocks of 128 x 128 are listed, and those that nobody sees are left out. It is for GPUs and long rows. The environment
variable `CASTOR_ATTENTION=flex` chooses it. On a CPU, where it is slower, PyTorch computes it without a kernel, by
which it is tested; on a GPU nobody has run it yet, so that it is not the default there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from castor.runtime import chosen

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def uses_flex() -> bool:
    """Whether the environment asks for it; ValueError for a word that means nothing."""
    return chosen("CASTOR_ATTENTION", "plain", "flex") == "flex"


def flex_mask(
    sees: Callable[..., torch.Tensor], shape_BT: torch.Size, num_keys: int, device: torch.device
) -> BlockMask:
    """The mask of B rows of T queries and `num_keys` keys where `sees(row, query, key)` says who sees whom."""
    from torch.nn.attention import flex_attention as flex

    def rule(row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return sees(row, query, key)

    return flex.create_block_mask(rule, shape_BT[0], None, shape_BT[1], num_keys, device=device)


def flex_attend(
    query_BNTH: torch.Tensor, key_BKSH: torch.Tensor, value_BKSH: torch.Tensor, mask: BlockMask, *, grouped: bool
) -> torch.Tensor:
    """`attend` by FlexAttention: softmax of unscaled dot products times values, [B, N, T, H]."""
    kernel = _kernel(query_BNTH.device.type)
    return kernel(query_BNTH, key_BKSH, value_BKSH, block_mask=mask, scale=1.0, enable_gqa=grouped)


@cache
def _kernel(device: str) -> Any:
    from torch.nn.attention import flex_attention as flex

    return flex.flex_attention if device == "cpu" else torch.compile(flex.flex_attention)
