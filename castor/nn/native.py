"""Our own compiled code: C++ sources beside this file, built once by the machine's compiler and then found again.

The code takes plain pointers, so that building needs neither torch's headers nor a build step at installation, and two
seconds. Where there is no compiler, or CASTOR_KERNELS=0 says so, callers take their plain form.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
FLAGS += ("-fPIC", "-shared", "-fopenmp")


@functools.cache
def native(name: str) -> ctypes.CDLL | None:
    """The built library of `name`.cpp; None where it cannot be had. Built anew for other sources or processors."""
    compiler = next((found for each in (os.environ.get("CXX"), "g++") if each and (found := shutil.which(each))), None)
    if os.environ.get("CASTOR_KERNELS") == "0" or compiler is None or platform.system() != "Linux":
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    key = hashlib.blake2b(digest_size=12)
    sources = [each.read_bytes() for each in (source, *sorted(source.parent.glob("*.h")))]
    for part in (*sources, " ".join(FLAGS).encode(), compiler.encode(), _processor()):
        key.update(part)
    built = _folder() / f"{name}-{key.hexdigest()}.so"
    try:
        if not built.is_file():
            _build(compiler, source, built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.CalledProcessError):  # no room to write, or a compiler too old
        return None


def _build(compiler: str, source: Path, built: Path) -> None:
    """Compile beside the target and put it there in one step, since several processes may do so at once."""
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / built.name
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(made)], check=True, capture_output=True)
        os.replace(made, built)


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "castor" / "native"


def _processor() -> bytes:
    """What instructions there are: a home folder may be seen by machines of several kinds."""
    with open("/proc/cpuinfo", "rb") as file:
        return next((line for line in file if line.startswith((b"flags", b"Features"))), platform.machine().encode())


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
