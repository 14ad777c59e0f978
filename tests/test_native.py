"""Compiled passes of inference equal their plain forms; the code is built once, and its absence changes no answer."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from castor.nn import native
from castor.nn.block import FeedForward
from castor.nn.kernels import LEVELS
from castor.nn.norm import rms_norm
from castor.nn.passes import compiled_work
from castor.nn.rope import inverse_frequencies, rope_table, rotate

needs_passes = pytest.mark.skipif(native.native("layers") is None, reason="no C++ compiler")
HAS_COMPILERS = bool(native.libraries("lowbit") and shutil.which("cc") and shutil.which("g++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILERS, reason="no compilers, or not Linux on x86-64")
ERROR = {torch.float32: 1e-6, torch.bfloat16: 2**-7}  # of the largest number


def both(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """By the compiled passes, which only inference takes, and by torch."""
    with torch.inference_mode():
        fast = compute()
    with torch.no_grad():
        return fast, compute()


def assert_near(fast: torch.Tensor, plain: torch.Tensor) -> None:
    assert fast.dtype == plain.dtype and fast.shape == plain.shape
    assert (fast.float() - plain.float()).abs().max() <= ERROR[fast.dtype] * plain.float().abs().max()


@needs_passes
@pytest.mark.parametrize("dtype", list(ERROR))
@pytest.mark.parametrize("width", [16, 40, 7, 1536])
def test_norm(dtype: torch.dtype, width: int) -> None:
    x = (torch.randn(3, 29, width) * 5).to(dtype)
    weight = torch.rand(width).to(dtype)
    for scale in (weight, None):
        assert_near(*both(lambda scale=scale: rms_norm(x, scale, 1e-6)))
    gaps = x.transpose(0, 1)  # no plain memory: torch's form
    assert_near(*both(lambda: rms_norm(gaps, weight, 1e-6)))


@needs_passes
@pytest.mark.parametrize("dtype", list(ERROR))
@pytest.mark.parametrize("width", [32, 20, 256])
def test_rotate(dtype: torch.dtype, width: int) -> None:
    x = torch.randn(2, 31, 3, width).to(dtype)
    places = torch.arange(62).view(2, 31) * 37
    for share in (1.0, 0.25):
        table = rope_table(places, inverse_frequencies(width, 1e4, share))
        assert_near(*both(lambda table=table: rotate(x, *table)))


@needs_passes
@pytest.mark.parametrize("dtype", list(ERROR))
def test_feed_forward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = FeedForward(24, 75).to(dtype)
    x = (torch.randn(2, 9, 24) * 4).to(dtype)  # large gates, too, beyond where tanh is one
    assert_near(*both(lambda: layer(x)))


@needs_passes
def test_training_does_not_take_them() -> None:
    x = torch.randn(4, 16, requires_grad=True)
    rms_norm(x, torch.ones(16), 1e-6).sum().backward()
    assert x.grad is not None and compiled_work("norm", x) is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries are built when nothing is installed: an empty folder for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(native, "INSTALLED", tmp_path / "package")
    return tmp_path / "home" / "castor" / "native"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of one function, so that building them takes no time."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("lowbit.c", "nearest.c"):
        (folder / name).write_text("int castor_seven(void) { return 7; }", encoding="utf-8")
    (folder / "layers.cpp").write_text('extern "C" int castor_seven() { return 7; }', encoding="utf-8")
    monkeypatch.setattr(native, "SOURCES", folder)
    return folder


def found(name: str = "lowbit") -> Path | None:
    """The library that a new process would take; it works."""
    library = native.native.__wrapped__(name)
    assert library is None or library.castor_seven() == 7
    return None if library is None else Path(library._name)


@needs_compiler
def test_built_once_and_not_where_it_is_declined(
    cache: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    built = found()
    assert built is not None and list(cache.iterdir()) == [built]
    before = built.stat().st_mtime_ns
    assert found() == built and built.stat().st_mtime_ns == before
    monkeypatch.setenv("CASTOR_KERNELS", "0")
    assert found() is None
    monkeypatch.delenv("CASTOR_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(built))  # a file, where nothing can be written
    assert found() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert found() is None
    assert capfd.readouterr() == ("", "")


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")  # as pathlib says it of a user whom no file names


@needs_compiler
def test_installed_once_for_machines_without_a_compiler(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an installation leaves is enough; what was there before goes, and what does not load is passed over."""
    old = native.INSTALLED / "_lowbit-of-before.so"
    old.parent.mkdir()
    old.write_bytes(b"")
    made, problem = native.install(native.INSTALLED)
    assert problem is None and sorted(made) == sorted(native.INSTALLED.iterdir()) and old not in made
    assert len(made) == 5  # two for all processors, and three of which each takes one
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "cc-that-is-not-there")
    assert found("lowbit") in made and found("layers") in made and not cache.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for each in made:
        (elsewhere / each.name).write_bytes(b"of another C library")
    monkeypatch.setattr(native, "INSTALLED", elsewhere)
    assert found("lowbit") is None
    made, problem = native.install(elsewhere)
    assert not made and "no compiler" in str(problem) and not list(elsewhere.iterdir())


@needs_compiler
def test_libraries_from_other_sources_are_not_taken(cache: Path, sources: Path) -> None:
    built = found()
    with open(sources / "lowbit.c", "a", encoding="utf-8") as file:
        file.write("\nint castor_eight(void) { return 8; }\n")
    assert found() not in (None, built) and native.native.__wrapped__("lowbit").castor_eight() == 8
    (sources / "lowbit.c").write_text("no C at all", encoding="utf-8")
    assert found() is None


@needs_compiler
@pytest.mark.parametrize("can", [{"sse2"}, {"sse2", "avx2"}, {"sse2", "avx2", "fma"}])
def test_a_processor_gets_only_what_it_can_run(can: set[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder seen by processors with fewer instructions: other code, the same numbers."""
    if not native._instructions() >= can:
        pytest.skip(f"this processor lacks some of {can}")
    monkeypatch.setattr(native, "_instructions", lambda: frozenset(can))
    library = native.native.__wrapped__("layers")
    assert library is not None and "avx512" not in library._name and library._name.endswith("-fma.so") == ("fma" in can)
    size = (ctypes.c_int64(5), ctypes.c_int64(43), ctypes.c_float(1e-6), 1)
    for dtype in ERROR:
        x, weight = torch.randn(5, 43).to(dtype), torch.rand(43).to(dtype)
        y = torch.empty_like(x)
        norm = getattr(library, f"castor_norm_{str(dtype).removeprefix('torch.')}")
        norm(*(ctypes.c_void_p(each.data_ptr()) for each in (x, weight, y)), *size)
        assert_near(y, torch.nn.functional.rms_norm(x.float(), (43,), weight.float(), 1e-6).to(dtype))


@needs_compiler
def test_the_best_library_comes_first() -> None:
    needs = [set(each.needs) for each in native.libraries("layers")]
    assert len(needs) == 3 and needs[0] > needs[1] > needs[2] == set()
    assert "avx512vl" in needs[0] and needs[1] == {"avx2", "fma"}


@needs_compiler
def test_what_a_killed_build_left_goes_in_time(cache: Path, sources: Path) -> None:
    old, fresh = (cache / f"{native.UNFINISHED}{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "half.so").write_bytes(b"half")
    then_s = time.time() - native.STALE_S - 1
    os.utime(old, (then_s, then_s))
    assert found() is not None
    assert not old.exists() and fresh.exists()


@needs_compiler
def test_processes_may_build_at_once(tmp_path: Path) -> None:
    program = "import sys, pathlib, castor.nn.native as n; n.build(n.libraries('lowbit')[0], pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    (built,) = tmp_path.iterdir()
    assert ctypes.CDLL(str(built)).castor_lowbit_level() in range(len(LEVELS))
