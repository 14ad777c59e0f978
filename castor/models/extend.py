"""New senses for old weights: a model that reads pictures learns to draw them, one that writes gets a head to embed.

Its id space gets the codes of an image codec, its embedding table their rows; every weight that was there stays. The
new rows begin as the mean of the old ones (Hewitt 2021, "Initializing new word embeddings for pretrained language
models"), each with a little noise of its own so that they can part.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch

from castor.models.decoder import Decoder
from castor.models.vector_adapters import VectorAdapters
from castor.tokens.space import DRAWING, MAX_GRID, DrawnIds

NOISE = 0.05  # of the old rows' spread
PER_LAYER = "language_model.ple.embed_tokens_per_layer.weight"
HEAD = "language_model.embedding_projection.weight"
ADAPTERS = "vector_adapters"
Space = TypeVar("Space", bound=DrawnIds)


@torch.no_grad()
def extended_decoder(decoder: Decoder, num_ids: int, num_known: int, seed: int = 0) -> Decoder:
    """The decoder with an embedding table of `num_ids` rows, the first `num_known` of them as they were.

    Logits of the known ids are what they were: new rows change no other number. A table of per-layer inputs grows by
    its mean. ValueError where ids would be lost.
    """
    old_VD = decoder.output_weight_VD
    if num_ids < num_known or num_known > len(old_VD):
        raise ValueError(f"{num_ids} rows cannot hold the {num_known} known ones of a table of {len(old_VD)}")
    sizes = {"vocab_size": num_ids}
    known_VD = old_VD[:num_known].float().cpu()
    generator = torch.Generator().manual_seed(seed)
    noise_VD = torch.randn(num_ids - num_known, known_VD.shape[1], generator=generator)
    new_VD = known_VD.mean(0) + NOISE * known_VD.std(0) * noise_VD
    tensors = dict(decoder.state_dict())
    tensors["language_model.embed_tokens.weight"] = torch.cat([old_VD[:num_known], new_VD.to(old_VD)])
    if (known_rows := decoder.config.text.vocab_size_per_layer_input) is not None and known_rows < num_ids:
        sizes["vocab_size_per_layer_input"] = num_ids
        table_VF = tensors[PER_LAYER]
        mean_1F = table_VF.mean(0, keepdim=True, dtype=torch.float32).to(table_VF)
        tensors[PER_LAYER] = torch.cat([table_VF, mean_1F.expand(num_ids - known_rows, -1)])
    config = dataclasses.replace(decoder.config, text=dataclasses.replace(decoder.config.text, **sizes))
    with torch.device("meta"):
        extended = Decoder(config)
    extended.load_state_dict(tensors, assign=True)
    return extended.requires_grad_(True).train(decoder.training)


@torch.no_grad()
def with_embedding_head(decoder: Decoder, dim: int, seed: int = 0) -> Decoder:
    """The decoder with a fresh head that makes vectors of `dim` numbers; every weight that was there stays.

    The head begins as a random linear map that keeps lengths (Gemini Embedding 2, section 2). One that has a head
    already of that size is given back as it is; ValueError for another size.
    """
    text = decoder.config.text
    if text.embedding_dim == dim:
        return decoder
    if text.embedding_dim is not None or dim < 1:
        raise ValueError(f"embedding_dim={dim}: this model has a head of {text.embedding_dim} numbers")
    kind = "castor"  # no published family both writes and embeds
    config = dataclasses.replace(decoder.config, text=dataclasses.replace(text, embedding_dim=dim), model_type=kind)
    with torch.device("meta"):
        extended = Decoder(config)
    old_VD = decoder.output_weight_VD
    generator = torch.Generator().manual_seed(seed)
    head_ED = torch.randn(dim, text.hidden_size, generator=generator) * text.hidden_size**-0.5
    extended.load_state_dict({**decoder.state_dict(), HEAD: head_ED.to(old_VD)}, assign=True)
    return extended.requires_grad_(True).train(decoder.training)


@torch.no_grad()
def with_vector_adapters(decoder: Decoder, rank: int, seed: int = 0) -> Decoder:
    """The decoder with fresh low-rank changes of its matrices that hold only where vectors are made.

    Nothing is changed at first, and what it writes never is. One that has them of that rank is given back as it is;
    ValueError for another rank, or where there is no head for vectors.
    """
    text = decoder.config.text
    if text.embedding_rank == rank:
        return decoder
    if text.embedding_rank is not None or text.embedding_dim is None or rank < 1:
        about = f"a head of {text.embedding_dim} numbers and adapters of rank {text.embedding_rank}"
        raise ValueError(f"embedding_rank={rank}: this model has {about}")
    config = dataclasses.replace(decoder.config, text=dataclasses.replace(text, embedding_rank=rank))
    with torch.device("meta"):
        extended = Decoder(config)
    adapters = VectorAdapters(decoder, rank)
    adapters.reset_parameters(torch.Generator().manual_seed(seed))
    added = {f"{ADAPTERS}.{name}": tensor.to(decoder.device) for name, tensor in adapters.state_dict().items()}
    extended.load_state_dict({**decoder.state_dict(), **added}, assign=True)
    return extended.requires_grad_(True).train(decoder.training)


@torch.no_grad()
def with_vectors_of(decoder: Decoder, other: Decoder) -> Decoder:
    """The decoder, its head for vectors and its adapters as they are in another model; ValueError where shapes differ.

    Where the two models differ little otherwise, as a model and what it became by further training, so do vectors.
    """
    own, taken = decoder.state_dict(), other.state_dict()
    names = [name for name in own if name == HEAD or name.startswith(f"{ADAPTERS}.")]
    if unlike := [name for name in names if name not in taken or taken[name].shape != own[name].shape]:
        theirs = tuple(taken[unlike[0]].shape) if unlike[0] in taken else None
        raise ValueError(f"{unlike[0]} is {tuple(own[unlike[0]].shape)} here and {theirs} in the model to go on from")
    decoder.load_state_dict({**own, **{name: taken[name].to(own[name]) for name in names}})
    return decoder


def train_vectors_alone(decoder: Decoder, last_layers: int = 0, stems: bool = True) -> None:
    """Let the head for vectors be trained with its adapters, or with the last layers and the norm; nothing else.

    Without `stems`, adapters of what stands before the layers stay as they are. ValueError where the decoder has fewer
    layers.
    """
    num_layers = decoder.config.text.num_hidden_layers
    if not 0 <= last_layers <= num_layers:
        raise ValueError(f"last_layers={last_layers}: this model has {num_layers} layers")
    layers = range(num_layers - last_layers, num_layers)
    trained = (HEAD, f"{ADAPTERS}.", *(f"language_model.layers.{layer}." for layer in layers))
    trained += ("language_model.norm.",) if last_layers else ()
    adapted = () if decoder.vector_adapters is None else decoder.vector_adapters.names
    of_stems = {str(at) for at, name in enumerate(adapted) if not name.startswith("language_model.") and not stems}
    for name, parameter in decoder.named_parameters():
        is_left = name.startswith(f"{ADAPTERS}.") and name.rpartition(".")[2] in of_stems
        parameter.requires_grad_(name.startswith(trained) and not is_left)


def drawing_space(space: Space, num_codes: int) -> Space:
    """The id space with `num_codes` image codes behind the ids there are; ValueError where it has codes already."""
    if space.num_codes:
        raise ValueError(f"this model has {space.num_codes} image codes already; it can draw, or needs its own codec")
    return dataclasses.replace(space, num_codes=num_codes)


def drawing_ids(space: DrawnIds) -> torch.Tensor:
    """bool [V], true for the ids that only drawings use: their brackets, grid sizes and codes."""
    is_drawn_V = torch.zeros(space.vocab_size, dtype=torch.bool)
    is_drawn_V[[space.special(name) for name in DRAWING]] = True
    is_drawn_V[space.grid(1) : space.grid(MAX_GRID) + 1] = True
    is_drawn_V[space.first_code : space.end] = True
    return is_drawn_V


def train_rows(decoder: Decoder, is_trained_V: torch.Tensor) -> None:
    """Let the chosen rows of the embedding table be trained, and no other: their gradients alone come through.

    An optimizer must not decay weights then, as decay needs no gradient.
    """
    weight_VD = decoder.language_model.embed_tokens.weight
    weight_VD.requires_grad_(True)
    mask_V1 = is_trained_V.to(weight_VD.device)[:, None]
    weight_VD.register_hook(lambda slope_VD: torch.where(mask_V1, slope_VD, 0))
