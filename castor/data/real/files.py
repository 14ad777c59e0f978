"""Reading sets of files: JSON lines, and tar shards of media through an index of offsets read once."""

import gzip
import json
import tarfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def json_lines(path: Path) -> list[Row]:
    """The rows of a .jsonl or .jsonl.gz file; [] where there is no such file; ValueError names a bad line."""
    if not path.is_file():
        return []
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable ({error})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from None
    return rows


@cache
def tar_index(path: Path) -> dict[str, tuple[int, int]]:
    """Member name -> (offset in bytes, size in bytes) of an uncompressed tar file."""
    try:
        with tarfile.open(path, "r:") as shard:
            return {member.name: (member.offset_data, member.size) for member in shard if member.isfile()}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable tar file ({error})") from None


def member_bytes(folder: Path, ref: Mapping[str, Any], item: str) -> bytes:
    """The file that `ref` ({"tar", "path"}) names inside `folder`; errors name the `item` it belongs to."""
    path = folder / ref["tar"]
    try:
        index = tar_index(path)
    except ValueError as error:
        raise ValueError(f"{item}: {error}") from None
    if ref["path"] not in index:
        raise ValueError(f"{item}: {path} holds no {ref['path']!r}")
    offset, num_bytes = index[ref["path"]]
    with path.open("rb") as shard:
        shard.seek(offset)
        data = shard.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError(f"{item}: {path} ends inside {ref['path']!r} ({len(data)} of {num_bytes} bytes)")
    return data


def share_of(key: str | bytes) -> float:
    """A stable number in [0, 1) from a text or bytes, for splits that never change."""
    return zlib.crc32(key.encode() if isinstance(key, str) else key) / 2**32
