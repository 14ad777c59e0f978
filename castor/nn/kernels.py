"""The compiled products of `lowbit.c`, called by address; without them `packed.py` computes the same in torch."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from castor.nn.native import native

LEVELS = ("none", "AVX2", "AVX-512 VNNI", "AMX int8")


def bits_of(codes: torch.Tensor) -> int:
    """4 or 8: how many bits a weight has in these tiles."""
    return 4 if codes.shape[2] == 4 else 8


class Kernels:
    """The library, the best level of instructions that this processor has, and the threads that PyTorch uses."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.level = int(library.castor_lowbit_level())
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self._product = library.castor_lowbit_product
        self._product.argtypes = [pointer] * 4 + [number] * 3 + [ctypes.c_int] * 4 + [pointer]
        self._rows = library.castor_lowbit_rows
        self._rows.argtypes = [pointer] * 4 + [number] * 2 + [ctypes.c_int]
        self._rows.restype = None
        self._pack = library.castor_lowbit_pack
        self._pack.argtypes = [pointer] + [number] * 2 + [ctypes.c_int] * 3 + [pointer, ctypes.c_int]
        self._pack.argtypes = [*self._pack.argtypes, pointer, pointer, ctypes.c_int, pointer]
        self._pack.restype = None
        self._read = library.castor_lowbit_read
        self._read.argtypes = [pointer, number, number, ctypes.c_int, pointer]
        self._read.restype = None
        self._parallel = _parallel()
        self._library = library
        library.castor_lowbit_room_bytes.argtypes = [number, number]
        for name in ("castor_lowbit_job_bytes", "castor_lowbit_room_bytes"):
            getattr(library, name).restype = number

    @property
    def has_amx(self) -> bool:
        """Whether many rows are multiplied by whole tiles of them."""
        return self.level == LEVELS.index("AMX int8")

    @property
    def row_level(self) -> int:
        """The best level for few rows."""
        return min(self.level, LEVELS.index("AVX-512 VNNI"))

    def in_company(self, form: type[ctypes.Structure], num_rows: int, widest: int) -> ctypes.Structure:
        """The functions by which threads that are at work already share a product, for inputs up to so wide."""
        names = ("begin", "round", "work", "rows")
        return form(
            *(ctypes.cast(getattr(self._library, f"castor_lowbit_{name}"), ctypes.c_void_p).value for name in names),
            self._library.castor_lowbit_job_bytes(),
            self._library.castor_lowbit_room_bytes(num_rows, widest),
        )

    def product(
        self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, num_outputs: int, level: int | None = None
    ) -> torch.Tensor:
        """x [..., D] in float32 or bfloat16 times the packed matrix, [..., num_outputs] in the type of x."""
        x = x.contiguous()
        *rows, num_inputs = x.shape
        y = x.new_empty(*rows, num_outputs)
        bits = bits_of(codes)
        failed = self._product(
            codes.data_ptr(),
            scales.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
            x.numel() // num_inputs,
            num_outputs,
            num_inputs,
            bits,
            x.dtype == torch.bfloat16,
            self.level if level is None else level,
            torch.get_num_threads(),
            self._parallel,
        )
        if failed:
            raise MemoryError(f"no memory for a product of {list(x.shape)} numbers")
        return y

    def rows(self, ids: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, num_inputs: int) -> torch.Tensor:
        """The rows of a packed matrix that whole numbers `ids` name, float32 [..., num_inputs]."""
        ids = ids.long().contiguous()  # the code reads eight bytes for each
        out = torch.empty(*ids.shape, num_inputs)
        bits = bits_of(codes)
        self._rows(codes.data_ptr(), scales.data_ptr(), ids.data_ptr(), out.data_ptr(), ids.numel(), num_inputs, bits)
        return out

    def pack(self, weight_FD: torch.Tensor, bits: int, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scales of a matrix in float32 or bfloat16, each group's scale the best of `shares`."""
        weight_FD, shares = weight_FD.contiguous(), shares.float().contiguous()
        num_rows, num_inputs = weight_FD.shape
        tiles, groups = -(-num_rows // 16), -(-num_inputs // 32)
        codes = torch.empty(tiles, groups, bits, 16, 4, dtype=torch.uint8)
        scales = torch.empty(tiles, groups, 16, dtype=torch.bfloat16)
        self._pack(
            weight_FD.data_ptr(),
            num_rows,
            num_inputs,
            weight_FD.dtype == torch.bfloat16,
            bits,
            self.level,
            shares.data_ptr(),
            len(shares),
            codes.data_ptr(),
            scales.data_ptr(),
            torch.get_num_threads(),
            self._parallel,
        )
        return codes, scales

    def read(self, tensor: torch.Tensor, chunk_bytes: int) -> None:
        """Read whole chunks of a contiguous tensor's memory once, to see how long that takes."""
        assert chunk_bytes % 128 == 0 and tensor.is_contiguous()
        self._read(tensor.data_ptr(), tensor.nbytes, chunk_bytes, torch.get_num_threads(), self._parallel)


@cache
def kernels() -> Kernels | None:
    """The compiled products; None where there is no library, or this processor has none of its instructions."""
    library = native("lowbit")
    found = None if library is None else Kernels(library)
    return found if found is not None and found.level else None


def _parallel() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that PyTorch has loaded; None: one thread."""
    if not os.path.exists("/proc/self/maps"):
        return None
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if len(line.split(maxsplit=5)) == 6}
    for path in sorted(paths):
        if Path(path).name.startswith(("libgomp", "libomp", "libiomp")):
            try:
                return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
            except (OSError, AttributeError):
                continue
    return None
