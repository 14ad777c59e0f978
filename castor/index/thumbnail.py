"""A small picture of a hit, for pages: the picture, the page or the frame itself; of sound its outline."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from castor.content import Audio, Document, Image
from castor.index.hits import Hit
from castor.index.reading import ReadingConfig
from castor.media.audio import RATE_HZ
from castor.media.document import split_pages
from castor.media.limits import MediaError
from castor.media.segments import frame_at
from castor.media.source import read_file

SIDE_PX = 240
BARS = 60


def thumbnail(hit: Hit) -> str:
    """HTML of a picture in a `data:` URI, of an outline as SVG, or "" where the file is gone or has nothing to show."""
    if hit.kind in ("text", "code"):
        return ""
    try:
        data = read_file(hit.path, None, ReadingConfig().limits)
        if hit.kind == "audio":
            return _outline(data, hit)
        pixels_HWC = _pixels(data, hit)
    except MediaError:
        return ""
    if pixels_HWC is None:
        return ""
    name = escape(f"{hit.path.rsplit('/', 1)[-1]} {hit.place}".strip(), quote=True)
    return f'<img src="{_uri(pixels_HWC)}" alt="{name}" loading="lazy">'


def _pixels(data: bytes, hit: Hit) -> np.ndarray | None:
    limits = ReadingConfig().limits
    if hit.kind == "image":
        return Image(data, limits=limits).pixels()
    if hit.kind == "document":
        for number, (page, _) in enumerate(split_pages(data, hit.path, limits), start=1):
            if number == (hit.place.page or 1):
                return Document(page, limits=limits).pages(dpi=60)[0]
    if hit.kind == "video":
        middle_s = ((hit.place.start_s or 0.0) + (hit.place.end_s or 0.0)) / 2
        return frame_at(data, hit.path, limits, middle_s)
    return None


def _outline(data: bytes, hit: Hit) -> str:
    samples_S = Audio(data, limits=ReadingConfig().limits).samples()
    if hit.place.start_s is not None and hit.place.end_s is not None:
        samples_S = samples_S[int(hit.place.start_s * RATE_HZ) : int(hit.place.end_s * RATE_HZ)]
    cuts = np.array_split(np.abs(samples_S), BARS)
    peaks = [float(cut.max(initial=0.0)) for cut in cuts]
    top = max([*peaks, 1e-6])
    bars = "".join(
        f'<rect x="{at}" y="{50 - 46 * peak / top:.1f}" width=".6" height="{max(1.0, 92 * peak / top):.1f}"/>'
        for at, peak in enumerate(peaks)
    )
    return f'<svg class="wave" viewBox="0 0 {BARS} 100" preserveAspectRatio="none" aria-label="outline">{bars}</svg>'


def _uri(pixels_HWC: np.ndarray) -> str:
    from PIL import Image as Pictures

    picture = Pictures.fromarray(pixels_HWC)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
