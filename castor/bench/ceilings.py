"""What this machine could do at best, measured on the spot: bytes a second from memory, products a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from castor.nn.kernels import kernels
from castor.nn.pages import LargePages

READ_BYTES, CHUNK_BYTES = 1 << 29, 1 << 20  # more than the caches hold
SIZES = (1024, 2048)  # of square matrices


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Bytes that can be read, and floating-point operations of the largest products, a second."""

    bytes_per_s: float
    flops: dict[str, float]  # by type


def measure_ceilings(device: torch.device, rounds: int) -> Ceilings:
    """The best of some rounds, as both are limits."""
    flops = {
        str(dtype).removeprefix("torch."): best_flops(dtype, device, rounds)
        for dtype in (torch.float32, torch.bfloat16)
    }
    return Ceilings(bytes_per_s=read_rate(device, rounds), flops=flops)


def read_rate(device: torch.device, rounds: int) -> float:
    """Bytes a second that all threads together read from memory."""
    if device.type == "cpu":
        memory = LargePages([READ_BYTES]).copied(torch.ones(READ_BYTES // 4))
    else:
        memory = torch.ones(READ_BYTES // 4, device=device)
    compiled = kernels() if device.type == "cpu" else None
    read: Callable[[], object] = memory.sum
    if compiled is not None:
        read = lambda: compiled.read(memory, CHUNK_BYTES)  # noqa: E731
    return READ_BYTES / min(timed(read, device, rounds))


def best_flops(dtype: torch.dtype, device: torch.device, rounds: int) -> float:
    """Floating-point operations a second of the best square product."""
    best = 0.0
    for size in SIZES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * size**3 / min(timed(lambda a=a, b=b: a @ b, device, rounds)))
    return best


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Seconds of each round, after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start_s)
    return seconds[1:]
