"""Whether a file holds all that its own framing says: decoders quietly stop where a cut-short file ends."""

import zlib
from math import ceil

from castor.media.limits import MediaError

UNKNOWN_SIZE = 0xFFFFFF00  # RIFF sizes from here on are written by programs that stream
EBML_HEADER, MATROSKA_SEGMENT = 0x1A45DFA3, 0x18538067


def check_whole(data: bytes, kind: str | None, name: str) -> None:
    """Raises MediaError when a PNG, RIFF, AIFF, ISO (MP4, MOV, M4A) or Matroska (WebM) file is cut short."""
    if kind == "audio/wav":
        missing_bytes = _wav_missing(data, name)
    elif kind in ("audio/mp4", "video/mp4", "video/quicktime", "video/3gpp"):
        missing_bytes = _iso_missing(data)
    elif kind in ("video/webm", "video/x-matroska"):
        missing_bytes = _matroska_missing(data)
    elif kind == "image/png":
        missing_bytes = _png_missing(data, name)
    elif kind == "audio/aiff":
        missing_bytes = int.from_bytes(data[4:8], "big") + 8 - len(data)
    elif kind in ("video/x-msvideo", "image/webp"):
        missing_bytes = _riff_missing(data)
    else:
        return
    if missing_bytes > 0:
        raise MediaError(f"{name}: the file is cut short, at least {missing_bytes} bytes are missing")


def _riff_missing(data: bytes) -> int:
    size_bytes = int.from_bytes(data[4:8], "little")
    return size_bytes + 8 - len(data) if size_bytes < UNKNOWN_SIZE else 0


def _wav_missing(data: bytes, name: str) -> int:
    """Only the sound itself counts: many sound programs write a wrong size for the whole."""
    at = 12
    while at + 8 <= len(data):
        size_bytes = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            return at + 8 + size_bytes - len(data) if size_bytes < UNKNOWN_SIZE else 0
        at += 8 + size_bytes + size_bytes % 2
    raise MediaError(f"{name}: the WAV file holds no sound (no data chunk)")


def _png_missing(data: bytes, name: str) -> int:
    """Counts the inflated bytes, for a stream that ends early would show as black rows (PNG, section 10)."""
    inflate, at, held_bytes, wanted_bytes = zlib.decompressobj(), 8, 0, 0
    while at + 12 <= len(data):
        size_bytes, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size_bytes]
        at += 12 + size_bytes
        if kind == b"IHDR" and size_bytes == 13:
            wanted_bytes = _png_bytes(body)
        elif kind == b"IEND":
            return wanted_bytes - held_bytes
        while kind == b"IDAT" and body and held_bytes < wanted_bytes and not inflate.eof:
            try:
                held_bytes += len(inflate.decompress(body, 1 << 20))
            except zlib.error as error:
                raise MediaError(f"{name}: not a readable picture: {error}") from error
            body = inflate.unconsumed_tail
    return 12  # there is no end chunk


def _png_bytes(header: bytes) -> int:
    """Bytes of all rows, filter bytes included, as a PNG header promises them."""
    width_px, height_px = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 1)
    passes = [(0, 0, 1, 1)]
    if header[12]:  # Adam7: first column, first row, column step, row step
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
    sizes = [(ceil((width_px - x) / dx), ceil((height_px - y) / dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _iso_missing(data: bytes) -> int:
    """Walks the outermost boxes (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= len(data):
        size_bytes = int.from_bytes(data[at : at + 4], "big")
        if size_bytes == 1:
            size_bytes = int.from_bytes(data[at + 8 : at + 16], "big")
        if size_bytes < 8:  # 0 means: up to the end of the file
            return 0
        at += size_bytes
    return at - len(data)


def _matroska_missing(data: bytes) -> int:
    """Reads the two outermost elements (RFC 8794, sections 4 and 5)."""
    at = 0
    for wanted in (EBML_HEADER, MATROSKA_SEGMENT):
        if int.from_bytes(data[at : at + 4], "big") != wanted or at + 5 > len(data):
            return 0
        length = 9 - data[at + 4].bit_length()
        size_bytes = int.from_bytes(data[at + 4 : at + 4 + length], "big") - (1 << 7 * length)
        if length > 8 or size_bytes == (1 << 7 * length) - 1:  # all ones mean: not known
            return 0
        at += 4 + length + size_bytes
    return at - len(data)
