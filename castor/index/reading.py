"""Files as pieces: pages of a document, half minutes of sound and film, passages of text, whole pictures.

A piece is decoded when it is asked for and its frames are let go with it: a film never lies in memory as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from castor.content import Audio, Document, Image, Text, Video
from castor.index.forms import TEXT_FORMS
from castor.index.passages import LONGEST, Passage, passages, windows
from castor.index.piece import Piece, Place
from castor.media.audio import RATE_HZ
from castor.media.document import split_pages
from castor.media.image import open_picture
from castor.media.limits import Limits, MediaError
from castor.media.segments import has_pictures, video_seconds, video_segments

LONGEST_S = 30.0  # of a piece of sound or film
FRAMES_PER_SECOND = 1.0  # of a film's piece; models choose among them
PAGE_TEXT = 1_500  # characters of a page's text beside its picture in the prompt; words are found on all of it
TAKEN = 36867  # EXIF: when the picture was taken
EXIF_FOLDER = 0x8769


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files are cut; part of what a vector depends on, and so of an index's identity."""

    longest_s: float = LONGEST_S
    passage_characters: int = LONGEST
    window_words: int | None = None  # texts in passages of so many words instead, whatever their structure
    overlap_words: int = 0  # that such a passage has in common with the one before
    max_text_bytes: int = 4 << 20  # of a text: beyond it a file is a log or a table rather than a note
    limits: Limits = field(
        default_factory=lambda: Limits(
            max_bytes=1 << 30, max_seconds=4 * 3600, max_pages=5_000, max_frame_px=512, max_stored_frames=1_000_000
        )
    )


def content_key(form: str, data: bytes) -> bytes:
    """What makes two files one content: the same bytes, read in the same form."""
    return hashlib.sha256(form.encode() + b"\0" + data).digest()


def pieces_of(data: bytes, form: str, name: str, config: ReadingConfig | None = None) -> Iterator[Piece]:
    """The pieces of a file, in order; ValueError (MediaError) where it cannot be read, maybe after some pieces."""
    config = config or ReadingConfig()
    if form in TEXT_FORMS:
        yield from _passages(data, form, name, config)
    elif form == "image":
        image = Image(data, name=name, limits=config.limits)
        yield Piece(place=Place(), parts=(Image.from_pixels(image.pixels(), name),))
    elif form == "document":
        yield from _pages(data, name, config)
    elif form == "video" and has_pictures(data, name):
        yield from _segments(data, name, config)
    elif form in ("audio", "video"):
        yield from _stretches(data, name, config)
    else:
        raise ValueError(f"{name}: form={form!r} is not one that is read")


def _passages(data: bytes, form: str, name: str, config: ReadingConfig) -> Iterator[Piece]:
    if len(data) > config.max_text_bytes:
        raise MediaError(f"{name}: a text of {len(data)} bytes (limit: max_text_bytes={config.max_text_bytes})")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MediaError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    found = _cut(text, form, config)
    if not found:
        raise MediaError(f"{name}: the file is empty")
    for each in found:
        place = Place(first_line=each.first_line, last_line=each.last_line)
        yield Piece(place=place, parts=(Text(each.text),), text=each.text, title=each.title)


def _cut(text: str, form: str, config: ReadingConfig) -> list[Passage]:
    if config.window_words is not None:
        return windows(text, config.window_words, config.overlap_words)
    return passages(text, form, config.passage_characters)


def _pages(data: bytes, name: str, config: ReadingConfig) -> Iterator[Piece]:
    for number, (page, text) in enumerate(split_pages(data, name, config.limits), start=1):
        text = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
        shown = Document(page, name=f"{name}, page {number}", limits=config.limits)
        texts = [text]
        if config.window_words is not None:
            texts = [window.text for window in _cut(text, "text", config)] or [""]
        for said in texts:
            beside = (Text(said[:PAGE_TEXT]),) if said else ()
            yield Piece(place=Place(page=number), parts=(shown, *beside), text=said)


def _stretches(data: bytes, name: str, config: ReadingConfig) -> Iterator[Piece]:
    samples_S = Audio(data, name=name, limits=config.limits).samples()
    seconds = len(samples_S) / RATE_HZ
    count = max(1, math.ceil(seconds / config.longest_s - 1e-6))
    bounds = np.linspace(0, len(samples_S), count + 1).round().astype(int)
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        place = Place(start_s=round(start / RATE_HZ, 2), end_s=round(end / RATE_HZ, 2))
        yield Piece(place=place, parts=(Audio.from_samples(samples_S[start:end], name=name),))


def _segments(data: bytes, name: str, config: ReadingConfig) -> Iterator[Piece]:
    """A short film is given whole, with every frame to choose from; a long one a frame a second."""
    seconds = video_seconds(data, name, config.limits)
    if seconds <= config.longest_s:
        place = Place(start_s=0.0, end_s=round(seconds, 2))
        yield Piece(place=place, parts=(Video(data, name=name, limits=config.limits),))
        return
    for segment in video_segments(data, name, config.limits, config.longest_s, FRAMES_PER_SECOND):
        frames_FHWC = segment.frames_FHWC
        rate = len(frames_FHWC) / (segment.end_s - segment.start_s)
        clip = Video.from_frames(frames_FHWC, rate, segment.samples_S, name)
        yield Piece(place=Place(start_s=round(segment.start_s, 2), end_s=round(segment.end_s, 2)), parts=(clip,))


def taken_s(data: bytes, form: str, name: str) -> float | None:
    """When a picture says it was taken, in seconds since 1970 (by this machine's clock); None where it does not."""
    if form != "image":
        return None
    try:
        with open_picture(data, name, Limits()) as picture:
            exif = picture.getexif()
            stamp = exif.get_ifd(EXIF_FOLDER).get(TAKEN) or exif.get(TAKEN)
        return datetime.strptime(str(stamp).strip("\0 "), "%Y:%m:%d %H:%M:%S").timestamp()
    except (ValueError, OverflowError):  # damaged EXIF in a sound picture counts as none
        return None
