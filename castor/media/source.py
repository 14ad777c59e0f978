"""Bytes from an explicit source: a path, bytes, or a "data:" URI. Nothing is fetched from a network."""

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from castor.media.limits import Limits, MediaError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


def read_source(source: Source, name: str | None, kind: str, limits: Limits) -> tuple[bytes, str | None, str]:
    """(content, declared MIME type or None, name for error texts) of a path, bytes or "data:" URI."""
    if isinstance(source, bytes | bytearray | memoryview):
        size_bytes = source.nbytes if isinstance(source, memoryview) else len(source)
        limits.check("max_bytes", size_bytes, name or kind, f"the content has {size_bytes} bytes")
        return bytes(source), None, name or kind
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"{kind}: give a path, bytes or a data: URI, not {type(source).__name__}")
    text = os.fspath(source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        data, declared = parse_data_uri(source, name or f"{kind} in a data: URI", limits)
        return data, declared, name or kind
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        if source[:7].lower() != "file://":
            raise ValueError(f"{source[:200]}: remote addresses are not fetched; give a path or bytes")
        text = unquote(source[7:])
    return read_file(text, name, limits), None, name or Path(text).name or text


def read_file(path: str | os.PathLike[str], name: str | None, limits: Limits) -> bytes:
    """The content of a regular file of at most `limits.max_bytes`."""
    shown = name or os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise MediaError(f"{shown}: this is {what}")
            limits.check("max_bytes", status.st_size, shown, f"the file has {status.st_size} bytes")
            data = file.read(status.st_size + 1)
    except FileNotFoundError:
        raise MediaError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise MediaError(f"{shown}: this is a directory") from None
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(f"{shown!r}: cannot be read: {error}") from error
    if len(data) != status.st_size:
        raise MediaError(f"{shown}: the file changed while it was read")
    return data


def parse_data_uri(uri: str, name: str, limits: Limits) -> tuple[bytes, str | None]:
    """(content, declared MIME type or None) of data:[type][;base64],payload (RFC 2397)."""
    head, comma, payload = uri[5:].partition(",")
    if not comma:
        raise MediaError(f"{name}: a data: URI needs a comma before its content")
    declared, is_base64 = head, False
    if head.lower().endswith(";base64"):
        declared, is_base64 = head[: -len(";base64")], True
    least_bytes = len(payload) // 4 if is_base64 else len(payload) // 3
    limits.check("max_bytes", least_bytes, name, f"the data: URI has over {least_bytes} bytes")
    data = decode_base64(unquote(payload), name, limits) if is_base64 else unquote_to_bytes(payload)
    return data, declared or None


def decode_base64(text: object, name: str, limits: Limits) -> bytes:
    """Bytes of standard or URL-safe base64, padded or not (both alphabets occur on the wire)."""
    if not isinstance(text, str):
        raise MediaError(f"{name}: base64 data must be a string, not {type(text).__name__}")
    size_bytes = len(text.rstrip("=")) * 3 // 4
    limits.check("max_bytes", size_bytes, name, f"the content has {size_bytes} bytes")
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name}: not valid base64: {error}") from error
