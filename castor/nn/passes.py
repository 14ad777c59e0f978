"""The compiled passes over rows in inference (`layers.cpp`): norms, turns by position, gates."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch

from castor.nn.native import native


@functools.cache
def row_work(name: str, dtype: torch.dtype) -> Callable[..., Any] | None:
    """The compiled work on rows of that name ("norm", "rotate", "gate") and type; its last argument is the threads."""
    library = native("layers")
    if library is None or dtype not in (torch.float32, torch.bfloat16):
        return None
    work = getattr(library, f"castor_{name}_{str(dtype).removeprefix('torch.')}")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    work.argtypes = {
        "norm": [pointer] * 3 + [number] * 2 + [ctypes.c_float, ctypes.c_int],
        "rotate": [pointer] * 4 + [number] * 3 + [ctypes.c_int],
        "gate": [pointer] * 2 + [number, ctypes.c_int],
    }[name]
    work.restype = None
    return work


def compiled_work(name: str, *tensors: torch.Tensor) -> Callable[..., Any] | None:
    """`row_work` where these tensors let it be used: in inference, on the CPU, all of one type, without gaps."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return None
    first = tensors[0]
    if first.device.type != "cpu" or not first.numel():
        return None
    if not all(each.is_contiguous() and each.dtype == first.dtype for each in tensors):
        return None
    return row_work(name, first.dtype)
