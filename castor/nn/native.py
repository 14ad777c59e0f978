"""Our own compiled code: C and C++ beside this file, built by the machine's compiler, and found again.

    at installation, where there is a compiler (hatch_build.py)    -> the package's folder
    else when it is first asked for                                -> the user's cache folder

A library is named after its sources and flags, so that one from before is never taken for today's, and after the
instructions that it needs beyond what every processor of its sort has: a folder may be seen by machines of several
kinds, and nothing here is built for "this machine". Where there is neither a library nor a compiler, or where
CASTOR_KERNELS=0, callers take their plain form.

Only the standard library is imported, since an installation has nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

INSTALLED = SOURCES = Path(__file__).parent
UNFINISHED, STALE_S = "unfinished-", 3600


@dataclass(frozen=True, kw_only=True)
class Code:
    """A source file, and how it becomes libraries."""

    source: str
    compilers: tuple[str, ...]  # the first that is there; before them what the variable says
    variable: str
    flags: tuple[str, ...]
    machines: tuple[str, ...] = ()  # that it is for; none named: all
    wide: tuple[tuple[str, ...], ...] = ()  # instructions of further libraries, the most demanding first, as
    # /proc/cpuinfo and, behind -m, compilers name them


@dataclass(frozen=True, kw_only=True)
class Library:
    """What is built of a source: a file's name, the command without compiler and files, the instructions it needs."""

    name: str
    code: Code
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()


CODES = {
    # Written in vectors of 16 numbers for AVX-512 and of 8 for all others; where registers are narrower than that, the
    # compiler cuts them up.
    "layers": Code(
        source="layers.cpp",
        compilers=("g++",),  # others lack its shuffles
        variable="CXX",
        flags=("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fopenmp"),
        wide=(("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"), ("avx2", "fma")),
    ),
    # Holds code for several kinds of processors, and chooses when it starts.
    "lowbit": Code(
        source="lowbit.c",
        compilers=("cc", "gcc", "clang"),
        variable="CC",
        flags=("-std=gnu11", "-O3", "-ffp-contract=off"),
        machines=("x86_64",),
    ),
    "nearest": Code(source="nearest.c", compilers=("cc", "gcc", "clang"), variable="CC", flags=("-std=gnu11", "-O3")),
}


@functools.cache
def native(name: str) -> ctypes.CDLL | None:
    """The library of `CODES[name]` that suits this processor best; None where it cannot be had."""
    if os.environ.get("CASTOR_KERNELS") == "0":
        return None
    for library in libraries(name):
        if set(library.needs) <= _instructions() and (found := _loaded(library)) is not None:
            return found
    return None


def libraries(name: str) -> list[Library]:
    """What can be built of a source for machines of this sort, the most demanding first; nothing but on Linux."""
    code, machine = CODES[name], platform.machine()
    if platform.system() != "Linux" or (code.machines and machine not in code.machines):
        return []
    made = []
    for needs in (*code.wide, ()) if machine == "x86_64" else ((),):
        flags = (*code.flags, *(f"-m{each}" for each in needs), "-fPIC", "-shared")
        key = hashlib.blake2b(" ".join((machine, *flags)).encode(), digest_size=12)
        for source in (SOURCES / code.source, *sorted(SOURCES.glob("*.h"))):
            key.update(source.read_bytes())
        file = f"_{name}-{key.hexdigest()}{f'-{needs[-1]}' if needs else ''}.so"
        made.append(Library(name=file, code=code, flags=flags, needs=needs))
    return made


def install(folder: Path = INSTALLED) -> tuple[list[Path], str | None]:
    """Build all libraries into a folder, for all processors of this sort; those built, and why one could not be.

    Libraries from before are removed.
    """
    for name in CODES:
        for old in folder.glob(f"_{name}*.so"):
            old.unlink(missing_ok=True)
    made, problem = [], None
    for library in (each for name in CODES for each in libraries(name)):
        try:
            made.append(build(library, folder))
        except subprocess.CalledProcessError as error:
            problem = f"{' '.join(error.cmd)}: {error.stderr.decode(errors='replace')[-2000:]}"
        except OSError as error:
            problem = str(error)
    return made, problem


def build(library: Library, folder: Path) -> Path:
    """Compile into a folder, beside the target and then there in one step, since several processes may do so at once.

    OSError where there is no compiler or no room, CalledProcessError where the compiler fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [*_compiler(library.code), *library.flags, str(SOURCES / library.code.source), "-o"]
    _remove_unfinished(folder)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as beside:
        made = Path(beside) / library.name
        subprocess.run([*command, str(made)], check=True, capture_output=True)
        os.replace(made, folder / library.name)
    return folder / library.name


def _remove_unfinished(folder: Path) -> None:
    """What builds left there that were killed: no build takes as long as these lie."""
    for beside in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - beside.stat().st_mtime > STALE_S:
                shutil.rmtree(beside)


def _compiler(code: Code) -> list[str]:
    for words in (os.environ.get(code.variable, "").split(), *([each] for each in code.compilers)):
        if words and shutil.which(words[0]):
            return words
    raise FileNotFoundError(f"there is no compiler for {code.source}: {', '.join(code.compilers)}")


def _loaded(library: Library) -> ctypes.CDLL | None:
    """The installed library, else that of the user's cache folder, where it is built if need be."""
    installed = INSTALLED / library.name
    try:
        if installed.is_file():
            return ctypes.CDLL(str(installed))
    except OSError:  # built with another C library than is here
        pass
    try:
        cached = _cache() / library.name
        return ctypes.CDLL(str(cached if cached.is_file() else build(library, cached.parent)))
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # no room or no home, or a compiler too old
        return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "castor" / "native"


@functools.cache
def _instructions() -> frozenset[str]:
    """What this processor can do beyond its sort, as far as is known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        line = ""
    return frozenset(line.partition(":")[2].split())
