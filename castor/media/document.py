"""Documents: PDF pages as pictures. Scripts in a document never run, and nothing it links to is fetched."""

import io
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from castor.media.limits import Limits, MediaError, decoding

if TYPE_CHECKING:
    import pypdfium2

_PDFIUM = threading.Lock()  # the library holds global state and must not be entered by two threads


def decode_document(
    data: bytes, name: str = "document", limits: Limits | None = None, dpi: float = 144.0
) -> list[np.ndarray]:
    """The pages of a PDF, each uint8 [H, W, 3] drawn at `dpi` dots per inch on white.

    Raises MediaError when the file is broken or encrypted, or has more or larger pages than the limits allow.
    """
    limits = limits or Limits()
    if not 1 <= dpi <= 2400:
        raise ValueError(f"dpi must lie between 1 and 2400, not {dpi!r}")
    with _opened(data, name, limits) as document, _reading(name):
        return _draw_pages(document, name, limits, dpi / 72.0)


def split_pages(data: bytes, name: str = "document", limits: Limits | None = None) -> Iterator[tuple[bytes, str]]:
    """Each page of a PDF as a PDF of its own, with the text that the page holds ("" for a scan); one at a time.

    Raises MediaError as `decode_document` does. Pages are copied, not drawn: their size is checked when they are.
    """
    import pypdfium2

    limits = limits or Limits()
    with _opened(data, name, limits) as document:
        with _reading(name):
            num_pages = len(document)
        _check_count(num_pages, name, limits)
        for index in range(num_pages):
            with _reading(name):
                page = document[index]
                text = page.get_textpage().get_text_bounded()
                single = pypdfium2.PdfDocument.new()
                single.import_pages(document, [index])
                buffer = io.BytesIO()
                single.save(buffer)
                single.close()
                page.close()
            yield buffer.getvalue(), text.replace("\r\n", "\n")


@contextmanager
def _reading(name: str) -> Generator[None]:
    import pypdfium2

    with _PDFIUM, decoding(name, "PDF", (pypdfium2.PdfiumError, MemoryError)):
        yield


@contextmanager
def _opened(data: bytes, name: str, limits: Limits) -> "Generator[pypdfium2.PdfDocument]":
    import pypdfium2

    if not data:
        raise MediaError(f"{name}: the file is empty")
    limits.check("max_bytes", len(data), name, f"the file has {len(data)} bytes")
    with _reading(name):
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error).lower():
                raise MediaError(f"{name}: the PDF is encrypted and needs a password") from error
            raise
    try:
        yield document
    finally:
        with _PDFIUM:
            document.close()


def _check_count(num_pages: int, name: str, limits: Limits) -> None:
    if num_pages == 0:
        raise MediaError(f"{name}: the PDF has no pages")
    limits.check("max_pages", num_pages, name, f"the document has {num_pages} pages")


def _draw_pages(document: "pypdfium2.PdfDocument", name: str, limits: Limits, scale: float) -> list[np.ndarray]:
    num_pages = len(document)
    _check_count(num_pages, name, limits)
    pages, total_pixels = [], 0.0
    for index in range(num_pages):
        page = document[index]
        width_px, height_px = (side_pt * scale for side_pt in page.get_size())
        what = f"page {index + 1} is {width_px:.0f} x {height_px:.0f} px when drawn"
        if not (width_px > 0 and height_px > 0):
            raise MediaError(f"{name}: {what}")
        limits.check("max_pixels", width_px * height_px, name, what)
        total_pixels += width_px * height_px
        limits.check("max_total_pixels", total_pixels, name, f"its pages have over {total_pixels:.0f} pixels")
        bitmap = page.render(scale=scale, rev_byteorder=True)
        pages.append(np.array(bitmap.to_numpy()[..., :3]))
        bitmap.close()
        page.close()
    return pages
