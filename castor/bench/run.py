"""The whole of `castor bench`: ceilings, points, peers, and what is made of them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from rich.console import Console

from castor.bench.ceilings import Ceilings, measure_ceilings
from castor.bench.measure import Point, answer_tokens, measure
from castor.bench.peers import PeerPoint, llama_points, transformers_points
from castor.bench.report import check_drawing, draw, table
from castor.bench.subject import Cost, subject
from castor.checkpoint import save_json
from castor.log import LiveLine
from castor.models.packing import packing_of
from castor.nn.kernels import LEVELS, kernels
from castor.runtime import before_torch, hardware, prepare_cpu


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured, and how long."""

    model: str = "atom"
    shape: str | None = None  # random weights of a size, instead of a model
    quantize: str | None = None
    cache: str | None = None  # "int8"
    precision: str | None = None  # None: bfloat16 where the processor multiplies it
    batches: tuple[int, ...] = (1, 4, 16)
    contexts: tuple[int, ...] = (128, 512)
    tokens: int = 32  # written in each round
    rounds: int = 5
    peers: bool = True
    llama: str | None = None  # folder of llama.cpp's programs


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that was found."""

    about: dict[str, Any]
    ceilings: Ceilings
    cost: Cost
    points: tuple[Point, ...]
    peers: tuple[PeerPoint, ...]


def bench(config: BenchConfig, *, json_path: str | None = None, png_path: str | None = None) -> Figures:
    """Measure, print a table, and write the files asked for; ValueError for what does not fit the model."""
    if png_path:
        check_drawing()  # not after minutes of measuring
    before_torch()
    prepare_cpu()
    model = subject(config.model, config.shape, config.quantize, config.precision)
    decoder = model.decoder
    for batch, context in product(config.batches, config.contexts):
        decoder.check_length(context, answer_tokens(batch, context, config.tokens))
    cost = Cost.of(decoder, is_int8=config.cache == "int8")
    num_parts = len(config.batches) * len(config.contexts) * (config.rounds + 1)
    line, done = LiveLine("bench", 1.0), 0
    line.update(0.0, "what memory and matrix units do")
    ceilings = measure_ceilings(decoder.device, config.rounds)
    flops = ceilings.flops[str(decoder.dtype).removeprefix("torch.")]
    points = []
    for batch, context in product(config.batches, config.contexts):

        def progress(batch: int = batch, context: int = context) -> None:
            nonlocal done
            done += 1
            line.update(done / num_parts, f"{batch} at once, {context} tokens")

        point = measure(
            model,
            cost,
            batch,
            context,
            tokens=config.tokens,
            rounds=config.rounds,
            cache_type=config.cache or "model",
            bytes_per_s=ceilings.bytes_per_s,
            flops=flops,
            progress=progress,
        )
        points.append(point)
    about = _about(config, model.decoder)
    shape, dtype, device = decoder.config, decoder.dtype, str(decoder.device)
    del model, decoder
    peers = _peers(config, shape, dtype, device, line) if config.peers else []
    line.close(f"{len(points)} points")
    figures = Figures(about=about, ceilings=ceilings, cost=cost, points=tuple(points), peers=tuple(peers))
    Console().print(table(figures))
    if json_path:
        save_json(json_path, dataclasses.asdict(figures))
        print(json_path)
    if png_path:
        print(draw(figures, png_path))
    return figures


def _peers(config: BenchConfig, shape: Any, dtype: torch.dtype, device: str, line: LiveLine) -> list[PeerPoint]:
    """What other programs reach; one that has not this shape is left out, and that is said."""
    common = {"tokens": config.tokens, "rounds": config.rounds}
    asked: dict[str, Callable[[], list[PeerPoint]]] = {
        "transformers": lambda: transformers_points(shape, dtype, device, config.contexts, **common)
    }
    if device == "cpu":
        threads = torch.get_num_threads()
        asked["llama.cpp"] = lambda: llama_points(
            shape, config.quantize, config.llama, config.contexts, threads=threads, **common
        )
    found = []
    for name, ask in asked.items():
        line.update(1.0, name)
        try:
            found += ask()
        except ValueError as error:
            print(f"\n{name} is left out: {error}", file=sys.stderr)
    return found


def _about(config: BenchConfig, decoder: Any) -> dict[str, Any]:
    packing, compiled = packing_of(decoder), kernels()
    return {
        "model": config.shape or config.model,
        "weights": "whole" if packing is None else f"{packing.bits} bits, tables {packing.table_bits}",
        "cache": config.cache or "as the layers",
        "precision": str(decoder.dtype).removeprefix("torch."),
        "compiled": LEVELS[compiled.level] if compiled else "none",
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "rounds": config.rounds,
        "tokens": config.tokens,
    }
