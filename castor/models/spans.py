"""Where pictures and clips begin and end in a batch, whose patches and frames lie end to end without padding."""

from __future__ import annotations

import torch


def pictures_by_size(xy_P2: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """(rows, columns) of patches -> where pictures of that size begin; each begins at x = y = 0, in row order."""
    starts = (xy_P2 == 0).all(1).nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(xy_P2)])]) - 1
    sizes = (xy_P2[ends] + 1).flip(1)
    found: dict[tuple[int, int], list[int]] = {}
    for (height, width), start in zip(sizes.tolist(), starts.tolist(), strict=True):
        found.setdefault((height, width), []).append(start)
    return {size: torch.tensor(where, device=xy_P2.device) for size, where in found.items()}


def clip_numbers(at_S: torch.Tensor) -> torch.Tensor:
    """The clip, from 0, of each frame whose place in the stream this is: a clip fills places without a gap."""
    is_first_S = torch.zeros_like(at_S, dtype=torch.bool)
    is_first_S[1:] = at_S[1:] != at_S[:-1] + 1
    return is_first_S.long().cumsum(0)
