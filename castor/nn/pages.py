"""Memory in large pages for what is read again with every token: fewer look-ups of addresses, more of the bandwidth.

Linux gives pages of 2 MB where it is asked for them and has them; elsewhere the memory is as any other.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import torch

LINE = 64  # bytes that the processor reads at once; tensors begin at multiples of it


class LargePages:
    """Room for tensors of known sizes, one behind the other."""

    def __init__(self, sizes_bytes: Iterable[int]) -> None:
        total = sum(-(-size // LINE) * LINE for size in sizes_bytes)
        own = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._map, self._used = mmap.mmap(-1, max(total, 1), **own), 0
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)  # which shared memory would not heed

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers in here."""
        flat = torch.frombuffer(self._map, dtype=tensor.dtype, count=tensor.numel(), offset=self._used)
        self._used += -(-tensor.nbytes // LINE) * LINE
        return flat.view(tensor.shape).copy_(tensor)
