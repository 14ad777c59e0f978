"""A loaded model with a sense it lacked: so far, drawing."""

from __future__ import annotations

import copy
from typing import Any

import torch

from castor.engine.model import Model
from castor.models.codec import ImageCodec
from castor.models.extend import drawing_ids, drawing_space, extended_decoder
from castor.tokens.embedding import EmbeddingRenderer


def add_drawing(model: Model, codec: ImageCodec, seed: int = 0) -> tuple[Model, torch.Tensor]:
    """`model` with `codec` to draw by, and bool [V]: the ids that are to be learned for it.

    What it says to the ids it knew stays as it was, until it is trained. ValueError where it draws already.
    """
    if model.codec is not None:
        raise ValueError("senses=draw: this model has an image codec already, so it can draw")
    if isinstance(model.renderer, EmbeddingRenderer):
        raise ValueError("senses=draw: this model makes vectors and says nothing, so it cannot draw")
    old = model.renderer.space
    space = drawing_space(old, codec.config.num_codes)
    decoder = extended_decoder(model.decoder, space.vocab_size, old.end, seed)
    renderer: Any = copy.copy(model.renderer)  # either kind, with a space of its own kind
    renderer.space, renderer.encode_image, renderer.decode_image = space, codec.encode, codec.decode
    return Model(decoder, renderer, codec, card=model.card), drawing_ids(space)
