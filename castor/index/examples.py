"""Files given as examples: "more like these, unlike those"."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from castor.index.ahead import HEAD_BYTES
from castor.index.forms import form_of
from castor.index.reading import ReadingConfig, content_key, pieces_of
from castor.media.source import read_file

if TYPE_CHECKING:
    from castor.index.index import Index

TOGETHER = 8  # pieces that are decoded and embedded at a time: of a long film, four minutes


def example_vector(index: Index, path: str | Path) -> tuple[np.ndarray, int | None]:
    """The mean of a file's vectors, float32 [E], and its content's id where the index has it; ValueError if unreadable.

    A file of the index is not embedded again, even if it was renamed since.
    """
    config, file = ReadingConfig(), Path(path).expanduser()
    data = read_file(file, file.name, config.limits)
    form = form_of(data[:HEAD_BYTES], str(file))
    if form is None:
        raise ValueError(f"{path}: not a kind of file that is read")
    rows = index.store.rows("SELECT id FROM contents WHERE key = ? AND problem IS NULL", (content_key(form, data),))
    if rows:
        content = rows[0][0]
        known = [piece for (piece,) in index.store.rows("SELECT id FROM pieces WHERE content = ?", (content,))]
        return index.store.all_vectors(known)[1].mean(axis=0), content
    pieces, found = pieces_of(data, form, file.name, config), []
    while some := list(islice(pieces, TOGETHER)):
        found.append(index.embedder.pieces(some))
    return np.concatenate(found).mean(axis=0), None
