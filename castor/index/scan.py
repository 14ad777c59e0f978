"""One pass over many short codes for those nearest a query: compiled code where it could be built (`nn/nearest.c`).

Threads, as many as torch computes with, take rows of their own; each gives its best, and the best of these are named.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from castor.nn.native import native

LEAST_ROWS = 1 << 14  # a thread is not begun for fewer
_CHOSEN = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def nearest_bits(words_NW: np.ndarray, query_W: np.ndarray, count: int, rows: np.ndarray | None) -> np.ndarray | None:
    """The `count` rows of uint64 [N, W] that differ from a query in the fewest bits, int64, in any order.

    Of `rows`, int64, alone where these are given. None where there is no compiled code.
    """
    if (library := _library()) is None:
        return None
    query_W = np.ascontiguousarray(query_W)
    before = (words_NW.ctypes.data, words_NW.shape[1], query_W.ctypes.data)
    return _best(lambda *after: library.castor_nearest_bits(*before, *after), len(words_NW), count, rows)


def nearest_bytes(
    codes_NE: np.ndarray, scales_N: np.ndarray, query_E: np.ndarray, count: int, rows: np.ndarray | None
) -> np.ndarray | None:
    """As `nearest_bits`, those of int8 [N, E] with the highest products, each times its row's scale."""
    if (library := _library()) is None:
        return None
    query_E = np.ascontiguousarray(query_E)
    before = (codes_NE.ctypes.data, scales_N.ctypes.data, codes_NE.shape[1], query_E.ctypes.data)
    return _best(lambda *after: library.castor_nearest_bytes(*before, *after), len(codes_NE), count, rows)


def _best(scan: Callable[..., int], total: int, count: int, rows: np.ndarray | None) -> np.ndarray:
    """`scan` over parts of all rows, a thread each, and the best of what they give."""
    chosen = None if rows is None else np.ascontiguousarray(rows, np.int64)
    number = total if chosen is None else len(chosen)
    parts = max(1, min(torch.get_num_threads(), number // LEAST_ROWS))
    ends = [number * part // parts for part in range(parts + 1)]

    def part(at: int) -> tuple[np.ndarray, np.ndarray]:
        most = min(count, ends[at + 1] - ends[at])
        found, scores = np.empty(most, np.int64), np.empty(most, np.float32)
        pointer = None if chosen is None else chosen.ctypes.data
        held = scan(pointer, ends[at], ends[at + 1], most, found.ctypes.data, scores.ctypes.data)
        assert held == most
        return found, scores

    if parts == 1:
        return part(0)[0]
    with ThreadPoolExecutor(parts) as pool:
        made = list(pool.map(part, range(parts)))
    found, scores = (np.concatenate(each) for each in zip(*made, strict=True))
    return found[np.argsort(-scores, kind="stable")[:count]]


@cache
def _library() -> ctypes.CDLL | None:
    library = native("nearest")
    if library is None or not library.castor_nearest_able():
        return None
    bits, in_bytes = library.castor_nearest_bits, library.castor_nearest_bytes
    bits.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, *_CHOSEN]
    in_bytes.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, *_CHOSEN]
    bits.restype = in_bytes.restype = ctypes.c_long
    return library
