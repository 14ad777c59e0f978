"""Where and how the numbers run: device, threads, precision. Nothing here happens at import."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager


def pick_device(name: str = "auto") -> str:
    """ "cuda", "mps" or "cpu": the one asked for, or the best present; ValueError where it is absent."""
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name.split(":")[0], False):
        raise ValueError(f"device {name!r} is not present; here there is: {[d for d, on in present.items() if on]}")
    return name


def before_torch() -> None:
    """Settings that count only if made before torch is imported: waiting threads spin for microseconds, then sleep.

    Spinning on, as is usual, they take the processor from a loader beside them; sleeping at once, they wake too late
    for the next small operation (8 % of a training step).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def use_faster_malloc() -> None:
    """Start this program anew with tcmalloc where Linux has it; it makes training steps on a CPU a fifth faster.

    It must be there before the program starts, hence the second start. Does nothing where it is absent (Debian:
    libtcmalloc-minimal4), already loaded, or declined by CASTOR_MALLOC=system.
    """
    from ctypes.util import find_library

    if sys.platform != "linux" or os.environ.get("CASTOR_MALLOC") == "system":
        return
    library = find_library("tcmalloc_minimal") or find_library("tcmalloc")
    if library is None or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return
    preloaded = f"{library}:{os.environ.get('LD_PRELOAD', '')}".rstrip(":")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "LD_PRELOAD": preloaded})


def prepare_cpu(num_threads: int | None = None) -> None:
    """Set threads, flush denormals before the first threaded operation, and keep freed memory for the next step.

    Without the second, confident models crawl; without the third, glibc hands every step's large blocks back to the
    system and faults them in again.
    """
    import ctypes

    import torch

    torch.set_flush_denormal(True)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mmap_threshold, trim_threshold = -3, -1
            mallopt(mmap_threshold, 1 << 30)
            mallopt(trim_threshold, (1 << 31) - 1)


@contextmanager
def threads(count: int) -> Generator[None]:
    """Inside, torch computes with `count` threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_precision(device: str) -> str:
    """ "bfloat16" where the device multiplies it natively, else "float32"."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device != "cpu" or not os.path.exists("/proc/cpuinfo"):
        return "float32"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = next((line for line in file if line.startswith("flags")), "")
    return "bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that a program may still take, bytes: what the system calls available, and what its container allows.

    None where the system does not say.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if device != "cpu" or not os.path.exists("/proc/meminfo"):
        return None
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    free = [int(lines["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in lines else []
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    return min(free, default=None)


def _cgroup_bytes(name: str) -> int | None:
    """A number of this container's memory limits (cgroup v2); None where there is no limit."""
    try:
        with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def chosen(variable: str, *ways: str) -> str:
    """Which of some ways the environment variable asks for; the first where it says nothing, ValueError for others."""
    way = os.environ.get(variable) or ways[0]
    if way not in ways:
        raise ValueError(f"{variable}={way} is none of {', '.join(ways)}")
    return way


def can_compile() -> bool:
    """Whether torch.compile has the C++ compiler that it needs on a CPU."""
    import shutil

    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def hardware() -> str:
    """One line for reports, for example "2 x Intel(R) Xeon(R), 23 GiB, torch 2.13.0+cpu, Python 3.11"."""
    import torch

    name, memory_gib = "processor", 0.0
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{os.cpu_count()} x {name}{gpu}, {memory_gib:.0f} GiB, torch {torch.__version__}, Python {python}"
