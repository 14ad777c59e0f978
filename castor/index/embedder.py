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

# As published for Gemini Embedding 2 and EmbeddingGemma 2: what stands before texts that are compared with texts. Media
# carry nothing, and neither does a text that is compared with media.
SOUGHT = "task: search result | query: "
UNTITLED = "title: none | text: "
SAMPLED = 1024  # numbers of each tensor that its identity is made of


class Embedder:
    """`pieces` and `question` give float32 vectors of length 1, `dimensions` numbers each."""

    def __init__(self, model: Model, name: str, dimensions: int | None = None) -> None:
        """`name` is how the model was loaded; ValueError where it makes no vectors, or not so long ones."""
        self.model, self.name = model, name
        (probe_E,) = model.embed("a", dimensions=dimensions)
        self.dimensions = len(probe_E)
        self._has_forms = has_forms(model)
        self.identity = identity_of(model)

    def pieces(self, pieces: Sequence[Piece]) -> np.ndarray:
        """float32 [N, E]; ValueError names what the model cannot read."""
        return self._vectors([piece_prompt(piece, self._has_forms) for piece in pieces])

    def question(self, parts: Sequence[Part]) -> np.ndarray:
        """float32 [2, E] of all parts together: to compare with texts, and to compare with media."""
        vectors_NE = self._vectors(question_prompts(parts, self._has_forms))
        return vectors_NE[[0, -1]]

    def labels(self, labels: Sequence[str]) -> np.ndarray:
        """float32 [2, N, E] of names for things: to compare with texts, and to compare with media."""
        sought = [[Text(SOUGHT + label if self._has_forms else label)] for label in labels]
        vectors_NE = self._vectors([*sought, *([Text(label)] for label in labels)])
        return vectors_NE.reshape(2, len(labels), self.dimensions)

    def _vectors(self, prompts: Sequence[Sequence[Part]]) -> np.ndarray:
        return self.model.embed(*map(list, prompts), dimensions=self.dimensions).float().numpy()


def has_forms(model: Model) -> bool:
    """Whether texts carry the published words for searching: of a checkpoint if its own are the same, else always."""
    own_words: Mapping[str, str] | None = getattr(model.renderer, "prompts", None)
    return own_words is None or {SOUGHT, UNTITLED} <= set(own_words.values())


def piece_prompt(piece: Piece, forms: bool) -> list[Part]:
    """What the vector of a piece is made of; `forms` as `has_forms` gives it."""
    first = piece.parts[0]
    if not isinstance(first, Text):
        return list(piece.parts)
    if forms:
        title = " ".join(piece.title.replace("|", " ").split()) or "none"
        return [Text(UNTITLED.replace("none", title) + first.text), *piece.parts[1:]]
    return [Text(f"{piece.title}\n{first.text}" if piece.title else first.text), *piece.parts[1:]]


def question_prompts(parts: Sequence[Part], forms: bool) -> list[list[Part]]:
    """What a question's vectors are made of: one to compare with texts and one with media, or one for both."""
    if not parts:
        raise ValueError("a question needs a text, a picture, a sound or a video")
    first = parts[0]
    if not forms or not isinstance(first, Text):
        return [list(parts)]
    return [[Text(SOUGHT + first.text), *parts[1:]], list(parts)]


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
