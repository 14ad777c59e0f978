"""Vectors in fewer bytes, and their scores: 16-bit floats, 8-bit integers with a scale each, and one bit a number.

stored as        bytes of 768 numbers    a score is
float32          3,072                   exact
float16          1,536                   off by at most 0.0005
int8             772                     off by about 0.003 (a scale for each vector)
bits             96                      the share of equal signs: for candidates, to be scored again
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STORAGES = ("float32", "float16", "int8")


def check_storage(storage: str) -> str:
    """The same name; ValueError names those there are."""
    if storage not in STORAGES:
        raise ValueError(f"storage={storage!r} is not one of {', '.join(STORAGES)}")
    return storage


def stored_bytes(storage: str, dimensions: int) -> int:
    """Bytes of one stored vector."""
    return {"float32": 4 * dimensions, "float16": 2 * dimensions, "int8": dimensions + 4}[storage]


def to_int8(vectors_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float [N, E] -> int8 [N, E] and the scale float32 [N] of each vector: the largest number becomes 127."""
    largest_N = np.abs(vectors_NE).max(axis=1, initial=0.0).astype(np.float32)
    scale_N = np.where(largest_N > 0, largest_N / 127, 1.0).astype(np.float32)
    return np.rint(vectors_NE / scale_N[:, None]).astype(np.int8), scale_N


def to_bits(vectors_NE: np.ndarray) -> np.ndarray:
    """float [N, E] -> uint8 [N, ceil(E / 8)]: a bit for each number, set where it is above 0."""
    return np.packbits(vectors_NE > 0, axis=1)


def pack(vectors_NE: np.ndarray, storage: str) -> list[bytes]:
    """Each vector as the bytes that a store keeps."""
    if storage == "int8":
        codes_NE, scale_N = to_int8(vectors_NE)
        return [
            scale.astype("<f4").tobytes() + code_E.tobytes() for code_E, scale in zip(codes_NE, scale_N, strict=True)
        ]
    dtype = "<f4" if storage == "float32" else "<f2"
    return [vector_E.tobytes() for vector_E in np.ascontiguousarray(vectors_NE, dtype)]


def unpack(rows: Sequence[bytes], storage: str, dimensions: int) -> np.ndarray:
    """float32 [N, E] of what `pack` wrote."""
    size = stored_bytes(storage, dimensions)
    joined = b"".join(rows)
    assert len(joined) == size * len(rows), f"{len(joined)} bytes are not {len(rows)} vectors of {size}"
    if storage == "int8":
        rows_NB = np.frombuffer(joined, np.uint8).reshape(-1, size)
        scale_N = np.ascontiguousarray(rows_NB[:, :4]).view("<f4")
        return rows_NB[:, 4:].view(np.int8).astype(np.float32) * scale_N
    dtype = "<f4" if storage == "float32" else "<f2"
    return np.frombuffer(joined, dtype).reshape(-1, dimensions).astype(np.float32)
