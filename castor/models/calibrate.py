"""Packing a decoder by what its layers are given: examples run through it, and each matrix is rounded for them.

Layers are packed from the first on, some at a time, so that later ones see what packed earlier ones give. Tables,
experts and what lies outside the layers are rounded to the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from castor.models.decoder import Decoder
from castor.models.packing import PackConfig, nearest, pack_decoder, packable, packing_of
from castor.nn.compensate import compensated
from castor.tokens.batch import Batch

ROOM_BYTES = 2 << 30  # of moments, which are kept at once
SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
_LAYER = re.compile(r"language_model\.layers\.(\d+)\.")


@torch.no_grad()
def pack_calibrated(
    model: Decoder,
    config: PackConfig,
    batches: Sequence[Batch],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Decoder:
    """Pack a decoder in place; `progress` is told how many layers of how many are done. ValueError without batches."""
    if not batches:
        raise ValueError("calibration needs examples")
    if packing_of(model) is not None:
        raise ValueError("this model's weights are packed already; start from the whole ones")
    linear = {name: module for name, module in packable(model) if isinstance(module, nn.Linear)}
    of_layer: dict[int, dict[str, nn.Linear]] = {}
    for name, module in linear.items():
        if found := _LAYER.match(name):
            of_layer.setdefault(int(found[1]), {})[name] = module
    inside = {name for names in of_layer.values() for name in names}
    pack_decoder(model, config, chosen={name for name, _ in packable(model)} - inside)
    done = 0
    for layers in _rounds(of_layer):
        modules = {name: module for layer in layers for name, module in of_layer[layer].items()}
        moments = _moments(model, modules, batches)

        def packer(name: str, weight: torch.Tensor, bits: int, known: dict = moments) -> tuple:
            moment_DD = known.get(_asked(name))
            if moment_DD is None:
                return nearest(name, weight, bits)
            try:
                return compensated(weight, moment_DD, bits)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

        pack_decoder(model, config, packer, chosen=set(modules))
        done += len(layers)
        progress(done, len(of_layer))
    return model


def _rounds(of_layer: dict[int, dict[str, nn.Linear]]) -> Iterator[list[int]]:
    """Layers in order, as many at a time as their moments have room."""
    layers, room = [], ROOM_BYTES
    for layer, modules in sorted(of_layer.items()):
        own = sum(4 * m.in_features**2 for name, m in modules.items() if _asked(name) == name)
        if layers and own > room:
            yield layers
            layers, room = [], ROOM_BYTES
        layers.append(layer)
        room -= own
    if layers:
        yield layers


def _asked(name: str) -> str:
    """The parameter whose layer has the same input, for which the moment is kept."""
    stem, last = name.removesuffix(".weight").rpartition(".")[::2]
    return f"{stem}.{SAME_INPUT.get(last, last)}.weight"


def _moments(model: Decoder, modules: dict[str, nn.Linear], batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """The sum of x x^T over the tokens of all batches, for each input among these layers."""
    moments: dict[str, torch.Tensor] = {}
    for batch in batches:
        is_token_X = batch.doc_BT.flatten() >= 0
        with _listening(modules, moments, is_token_X):
            model.hidden(batch)
    return moments


@contextmanager
def _listening(
    modules: dict[str, nn.Linear], moments: dict[str, torch.Tensor], is_token_X: torch.Tensor
) -> Generator[None]:
    def listener(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def listen(_module: nn.Module, given: tuple[Any, ...]) -> None:
            x_XD = given[0].flatten(0, -2).float()[is_token_X]
            moments[name] = moments[name].addmm_(x_XD.T, x_XD) if name in moments else x_XD.T @ x_XD

        return listen

    heard = [name for name in modules if _asked(name) == name]
    handles = [modules[name].register_forward_pre_hook(listener(name)) for name in heard]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
