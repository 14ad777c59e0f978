"""What a file may cost to decode, and the one error that every refused file gives.

Sizes are checked from headers before anything is decoded, and again on what comes out, because headers lie.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields


class MediaError(ValueError):
    """A file that cannot be used; its text names the file, the problem and, where there is one, the limit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one media file, all positive; a file beyond one of them is refused, never shortened."""

    max_bytes: int = 256 * 1024 * 1024  # size of the encoded file
    max_pixels: int = 64_000_000  # width * height of a picture, a page, or a stored video frame
    max_seconds: float = 3600.0  # duration of sound or video
    max_frames: int = 256  # video frames handed out by one clip
    max_frame_px: int = 768  # longest side of a video frame handed out; larger ones are scaled down to it
    max_stored_frames: int = 250_000  # video frames in the file, all of which may have to be decoded
    max_pages: int = 64  # pages of a document
    max_total_pixels: int = 256_000_000  # pixels of all frames or all pages handed out at once (3 bytes each)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"Limits.{field.name} must be a positive number, not {value!r}")

    def check(self, field: str, value: float, name: str, what: str) -> None:
        """Raises MediaError when `value` (described by `what`) is beyond the limit called `field`."""
        limit = getattr(self, field)
        if value > limit:
            raise MediaError(f"{name}: {what}, more than allowed (limit: {field}={limit:.12g})")


@contextmanager
def decoding(name: str, kind: str, errors: tuple[type[BaseException], ...]) -> Generator[None]:
    """Turns a decoding library's `errors` into a MediaError that names the file."""
    try:
        yield
    except MediaError:
        raise
    except errors as error:
        text = getattr(error, "strerror", None) or str(error)
        detail = re.sub(r"\s*<_io\.[^>]*>", "", " ".join(text.split())) or type(error).__name__
        raise MediaError(f"{name}: not a readable {kind}: {detail}") from error
