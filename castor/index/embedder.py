"""A model as an index uses it: vectors of pieces and of questions, and what makes two models' vectors comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import torch

from castor.content import Part, Text
from castor.engine.model import Model
from castor.index.piece import Piece

UNTITLED = "title: none | text: "  # as published: what stands before a document without a title
QUESTION_TASKS = ("Retrieval-query", "query")  # names that checkpoints have for a question to a search
SAMPLED = 1024  # numbers of each tensor that its identity is made of


class Embedder:
    """`pieces` and `question` give float32 vectors of length 1, `dimensions` numbers each."""

    def __init__(self, model: Model, name: str, dimensions: int | None = None) -> None:
        """`name` is how the model was loaded; ValueError where it makes no vectors, or not so long ones."""
        self.model, self.name = model, name
        (probe_E,) = model.embed("a", dimensions=dimensions)
        self.dimensions = len(probe_E)
        self.prompts: Mapping[str, str] = getattr(model.renderer, "prompts", {})
        self._is_titled = UNTITLED in self.prompts.values()
        self._task = next((task for task in QUESTION_TASKS if task in self.prompts), None)
        self.identity = identity_of(model)

    def pieces(self, pieces: Sequence[Piece]) -> np.ndarray:
        """float32 [N, E]; ValueError names what the model cannot read."""
        return self._vectors([self._prompt(piece) for piece in pieces])

    def question(self, parts: Sequence[Part]) -> np.ndarray:
        """float32 [E] of all parts together; one that begins with a text gets the words for a question before it."""
        if not parts:
            raise ValueError("a question needs a text, a picture, a sound or a video")
        return self._vectors([list(parts)], self._task if isinstance(parts[0], Text) else None)[0]

    def labels(self, labels: Sequence[str]) -> np.ndarray:
        """float32 [N, E] of names for things, as questions."""
        return self._vectors([[Text(label)] for label in labels], self._task)

    def _prompt(self, piece: Piece) -> list[Part]:
        first = piece.parts[0]
        if not isinstance(first, Text):
            return list(piece.parts)
        if self._is_titled:
            title = " ".join(piece.title.replace("|", " ").split()) or "none"
            return [Text(UNTITLED.replace("none", title) + first.text), *piece.parts[1:]]
        return [Text(f"{piece.title}\n{first.text}" if piece.title else first.text), *piece.parts[1:]]

    def _vectors(self, prompts: Sequence[list[Part]], task: str | None = None) -> np.ndarray:
        return self.model.embed(*prompts, dimensions=self.dimensions, task=task).float().numpy()


def identity_of(model: Model) -> str:
    """A digest of the weights and of how media and texts are laid out; the same in float32 and bfloat16.

    Of every tensor: name, shape, and numbers at equal steps, rounded to bfloat16.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.decoder.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    config: Any = model.renderer.config
    reading = asdict(config) if is_dataclass(config) else {}
    reading |= {"prompts": dict(getattr(model.renderer, "prompts", {}))}
    digest.update(json.dumps(reading, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
