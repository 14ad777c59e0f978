"""Pictures: files to RGB pixels and back. Of an animation, the first frame. Colour profiles are ignored."""

import ctypes
import functools
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from castor.media.limits import Limits, MediaError, decoding
from castor.media.sniff import sniff
from castor.media.whole import check_whole

if TYPE_CHECKING:
    from PIL import Image as PillowImage

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
PILLOW_ERRORS = (  # what Pillow raises on broken files, by its own fuzzing and ours
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
ORIENTATION_TAG = 0x0112


def decode_image(data: bytes, name: str = "image", limits: Limits | None = None) -> np.ndarray:
    """RGB pixels uint8 [H, W, 3] of an encoded picture: EXIF orientation applied, transparency over white.

    Raises MediaError when the file is broken, cut short, or larger than the limits.
    """
    limits = limits or Limits()
    with open_picture(data, name, limits) as picture:
        orientation = _orientation(picture)
        picture.load()
        _check_size(*picture.size, name, limits)
        return turn_upright(rgb_pixels(picture, name), orientation)


@contextmanager
def open_picture(data: bytes, name: str, limits: Limits) -> "Generator[PillowImage.Image]":
    """Opens an encoded picture with Pillow, without decoding it, after its size has passed the limits.

    Whatever Pillow raises inside the block becomes a MediaError; its warnings are kept off stderr.
    """
    from PIL import Image

    _silence_pillow()
    if not data:
        raise MediaError(f"{name}: the file is empty")
    limits.check("max_bytes", len(data), name, f"the file has {len(data)} bytes")
    _check_webp_canvas(data, name, limits)
    with warnings.catch_warnings(), decoding(name, "picture", PILLOW_ERRORS):
        warnings.simplefilter("ignore")
        Image.init()
        known = [form for form in FORMATS if form in Image.OPEN]  # AVIF depends on how Pillow was built
        try:
            with Image.open(io.BytesIO(data), formats=known) as picture:
                _check_size(*picture.size, name, limits)
                check_whole(data, sniff(data), name)
                yield picture
        except Image.DecompressionBombError as error:  # Pillow's own bound, checked deep inside some formats
            bound = min(limits.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_pixels))
            raise MediaError(f"{name}: more pixels than allowed (limit: max_pixels={bound:.12g})") from error


@functools.cache
def _silence_pillow() -> None:
    """Keeps what Pillow logs, and what its libtiff prints from C, off stderr: the error raised says it."""
    import PIL

    logging.getLogger("PIL").addHandler(logging.NullHandler())
    folder = Path(PIL.__file__).parent
    for library in (*folder.parent.glob("pillow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")):
        ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def _check_webp_canvas(data: bytes, name: str, limits: Limits) -> None:
    """libwebp allocates the canvas on opening, so its size is read here first (RFC 9649, section 2.7)."""
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        width_px = int.from_bytes(data[24:27], "little") + 1
        _check_size(width_px, int.from_bytes(data[27:30], "little") + 1, name, limits)


def _check_size(width_px: int, height_px: int, name: str, limits: Limits) -> None:
    if width_px < 1 or height_px < 1:
        raise MediaError(f"{name}: the picture has no pixels ({width_px} x {height_px})")
    limits.check("max_pixels", width_px * height_px, name, f"the picture is {width_px} x {height_px} px")


def _orientation(picture: "PillowImage.Image") -> int:
    """EXIF orientation 1..8. Damaged EXIF in a sound picture counts as upright, as every viewer does it."""
    try:
        orientation = picture.getexif().get(ORIENTATION_TAG, 1)
    except PILLOW_ERRORS:
        return 1
    return orientation if orientation in range(2, 9) else 1


def turn_upright(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as it is meant to be seen, given its EXIF orientation 1..8 (EXIF 2.32, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return np.ascontiguousarray(pixels_HWC)


def rgb_pixels(picture: "PillowImage.Image", name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a loaded Pillow picture of any mode, transparency over white."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16-bit grey, possibly held in 32 bits
        grey_HW = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return np.repeat(((grey_HW * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise MediaError(f"{name}: floating-point pixels have no defined range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def encode_png(pixels_HWC: np.ndarray) -> bytes:
    """A PNG file of RGB pixels uint8 [H, W, 3]; lossless."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(check_pixels(pixels_HWC, "pixels")).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def check_pixels(pixels_HWC: np.ndarray, name: str) -> np.ndarray:
    """The same array, contiguous, when it is uint8 [H, W, 3] with at least one pixel."""
    pixels_HWC = np.asarray(pixels_HWC)
    dtype, shape = pixels_HWC.dtype, pixels_HWC.shape
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not pixels_HWC.size:
        raise ValueError(f"{name}: pixels must be uint8 [H, W, 3], not {dtype} {list(shape)}")
    return np.ascontiguousarray(pixels_HWC)
