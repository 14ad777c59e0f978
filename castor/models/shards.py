"""Safetensors files by their headers: what a set of shards holds, checked before a byte of it is read as weights.

The format: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, begin and end), the bytes.
Tensors come as views of the mapped file, so that weights kept in their saved type cost no copy at all.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from castor.checkpoint import load_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KINDS = FLOATS | {"U8": torch.uint8}  # with the codes of packed weights
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One tensor of a file: where its bytes are, from `begin` to `end` of the file."""

    path: Path
    name: str
    dtype: str  # the format's name, "BF16"
    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a saved model: the one, or the shards its index names.

    ValueError where there is none, where the index is broken, or where it names a file that is not there.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        refused = f"; {pickled[0]} is pickle, which can run code, and is never read" if pickled else ""
        raise ValueError(f"{folder}: neither {WEIGHTS} nor {INDEX} is here{refused}")
    index = load_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise ValueError(f"{folder / INDEX}: no weight_map")
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX}: {shard!r} is not a plain file name")
        if not shard.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: {shard!r} is not safetensors, and nothing else is read")
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ValueError(f"{folder / INDEX}: names {absent[0]!r}, which is not here ({len(absent)} of {len(shards)})")
    return [folder / shard for shard in shards]


def read_headers(paths: Iterable[Path]) -> list[Saved]:
    """Every tensor of these files, with the size of each file checked against its header; no tensor is read."""
    return [saved for path in paths for saved in _header(path)]


def _header(path: Path) -> list[Saved]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = file.read(8)
        if begin == b"version ":
            raise ValueError(
                f"{path}: a pointer of Git LFS, not the weights; fetch them with git lfs pull or castor pull"
            )
        length = int.from_bytes(begin, "little") if size >= 8 else MAX_HEADER_BYTES + 1
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(_incomplete(path, f"{size:,} bytes, its header does not fit"))
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            saved = [_entry(path, name, entry, 8 + length) for name, entry in entries.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(_incomplete(path, f"its header is broken: {error!r}")) from None
    wanted = max((tensor.end for tensor in saved), default=8 + length)
    if size != wanted:
        raise ValueError(_incomplete(path, f"{size:,} bytes, its header states {wanted:,}"))
    return saved


def _incomplete(path: Path, why: str) -> str:
    return f"{path}: not a complete safetensors file ({why}); copy or fetch it again"


def _entry(path: Path, name: str, entry: Mapping[str, Any], start: int) -> Saved:
    """One tensor of a header; its bytes are checked against its type and shape where the type is one of ours."""
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), str(entry["dtype"])
    if not all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape)) or begin > end:
        raise ValueError(f"{name} lies from {begin} to {end}, shape {shape}")
    if dtype in KINDS and end - begin != prod(shape) * KINDS[dtype].itemsize:
        raise ValueError(f"{name} has {end - begin} bytes for {dtype} of shape {list(shape)}")
    return Saved(path=path, name=name, dtype=dtype, shape=shape, begin=start + begin, end=start + end)


class MappedFile:
    """A file whose tensors are views of its pages: read when first touched, private when written to."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, saved: Saved, *, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor on `device` in `dtype`; a view of the file where both are already so, else a copy.

        After a copy the file's pages are given back, so that no tensor is in memory twice.
        """
        count = prod(saved.shape)
        if not count:
            return torch.empty(saved.shape, device=device, dtype=dtype)
        view = torch.frombuffer(self._map, dtype=KINDS[saved.dtype], count=count, offset=saved.begin)
        view = view.view(saved.shape)
        tensor = view.to(device=device, dtype=dtype)
        if tensor.data_ptr() != view.data_ptr():
            self.forget(saved)
        return tensor

    def forget(self, saved: Saved) -> None:
        """Give back the pages of a tensor that is not needed any more, as far as they are its alone."""
        first = -(-saved.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        last = saved.end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
