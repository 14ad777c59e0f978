"""Rotary positions: angle tables, once per batch and layer kind, and turning queries and keys by them."""

from __future__ import annotations

import torch

from castor.nn.passes import compiled_work


def inverse_frequencies(head_dim: int, theta: float, rotary_share: float = 1.0) -> torch.Tensor:
    """Radians per position of each of `head_dim // 2` rotated pairs, float32.

    With `rotary_share` below 1 only that share of the pairs turns, the fastest ones, at the speeds they would
    have if all pairs turned ("proportional" rope of Gemma 4); the others stand still.
    """
    num_turning = int(rotary_share * head_dim // 2)
    exponent = torch.arange(0, 2 * num_turning, 2, dtype=torch.int64).float() / head_dim
    turning = 1.0 / (theta**exponent)
    return torch.cat([turning, torch.zeros(head_dim // 2 - num_turning)])


def rope_table(position_BT: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [B, T, 1, H/2] of every position, float32."""
    angle = position_BT[..., None].float() * frequencies.to(position_BT.device)
    return angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)


def rotate(x_BTNH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pair (h, h + H/2) of every head by its angle; type kept."""
    shape = (*x_BTNH.shape[:2], 1, x_BTNH.shape[-1] // 2)
    is_plain = cos.shape == sin.shape == shape and cos.dtype == torch.float32 and cos.is_contiguous()
    if is_plain and sin.is_contiguous() and (work := compiled_work("rotate", x_BTNH)) is not None:
        turned, (rows, num_heads, width) = torch.empty_like(x_BTNH), x_BTNH.flatten(0, 1).shape
        pointers = [each.data_ptr() for each in (x_BTNH, cos, sin, turned)]
        work(*pointers, rows, num_heads, width, torch.get_num_threads())
        return turned
    first, second = x_BTNH.chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BTNH.dtype)
