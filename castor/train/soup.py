"""Model soup: the weighted mean of weights, within a run or across runs (Wortsman et al. 2022, "Model soups")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def average(states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float] = ()) -> dict[str, torch.Tensor]:
    """The mean of states with the same names and shapes, each by its weight; ValueError where they differ."""
    shares = list(weights) or [1.0] * len(states)
    if len(shares) != len(states) or not states or sum(shares) <= 0 or min(shares) < 0:
        raise ValueError(f"{len(states)} states and weights={list(weights)}: one each, not negative, and some positive")
    first = states[0]
    for state in states[1:]:
        if odd := sorted(set(state) ^ set(first)):
            raise ValueError(f"states of different models: {odd[0]} is in one of them only")
        if wrong := [name for name, value in state.items() if value.shape != first[name].shape]:
            raise ValueError(f"states of different models: {wrong[0]} has another shape")
    total = sum(shares)
    mixed = {}
    for name, value in first.items():
        parts = [share / total * state[name].double() for share, state in zip(shares, states, strict=True)]
        mixed[name] = torch.stack(parts).sum(0).to(value.dtype)
    return mixed
