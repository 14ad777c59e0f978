"""Castor: one open, natively multimodal model that reads text, images, audio and video, and writes text and images.

>>> import castor
>>> model = castor.load("atom")
>>> model.generate([castor.Image("photo.png"), "How many red shapes are there?"]).text
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from castor.calls import FunctionCall, FunctionResponse
    from castor.content import Audio, Document, Image, Message, Part, Text, Video
    from castor.engine.model import Model, load
    from castor.index.index import Index

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "Document",
    "FunctionCall",
    "FunctionResponse",
    "Image",
    "Index",
    "Message",
    "Model",
    "Part",
    "Text",
    "Video",
    "__version__",
    "load",
]

_HOME = {
    "Audio": "castor.content",
    "Document": "castor.content",
    "FunctionCall": "castor.calls",
    "FunctionResponse": "castor.calls",
    "Image": "castor.content",
    "Index": "castor.index.index",
    "Message": "castor.content",
    "Part": "castor.content",
    "Text": "castor.content",
    "Video": "castor.content",
    "Model": "castor.engine.model",
    "load": "castor.engine.model",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import castor` costs milliseconds and never loads torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'castor' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
