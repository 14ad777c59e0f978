"""A folder of files of every kind, and a tiny random model that makes vectors of them, for the tests of the index."""

from __future__ import annotations

import shutil
from pathlib import Path

import castor

SAMPLES = Path(castor.__file__).parent / "samples"
NOTE = """\
# Boats

The red boat lies in the harbour.

## Repairs

The mast of the blue boat was mended in May. 红色的圆在左边。

# Birds

```
# not a heading
```
A heron stood in the reeds.
"""
CODE = '''\
"""Sums."""

import math


def area(radius):
    """The area of a circle."""
    return math.pi * radius**2


class Walk:
    """Steps."""

    def forward(self, steps):
        """Go on."""
        return steps + 1

    def back(self, steps):
        """Go back."""
        return steps - 1
'''


def fill(folder: Path) -> Path:
    """Pictures, a recording, a clip, a page, a note and code; one file that is broken and one that is no such kind."""
    (folder / "trips").mkdir(parents=True)
    for name in ("scene.png", "speech.wav", "clip.mp4", "page.pdf"):
        shutil.copy(SAMPLES / name, folder / name)
    shutil.copy(SAMPLES / "scene.png", folder / "trips" / "copy.png")
    (folder / "trips" / "boats.md").write_text(NOTE, encoding="utf-8")
    (folder / "sums.py").write_text(CODE, encoding="utf-8")
    (folder / "cut.wav").write_bytes((SAMPLES / "speech.wav").read_bytes()[:4000])
    (folder / "data.bin").write_bytes(bytes(range(256)))
    (folder / ".hidden.txt").write_text("not to be found", encoding="utf-8")
    return folder


def write_model(folder: Path) -> Path:
    """A tiny random EmbeddingGemma 2 with towers; 24 numbers a vector."""
    import published

    folder.mkdir(parents=True, exist_ok=True)
    published.write_tower_checkpoint(folder, "embedding_gemma2")
    return folder
