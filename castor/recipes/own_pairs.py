"""One's own examples for a model that makes vectors: what is asked with, and what is to be found by it.

    {"contents": [{"role": "user", ...}, {"role": "model", ...}]}  ->  Pair(query, target)

The user's turn is the query, the model's turn what it should find; either may hold any medium.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from castor.content import Message
from castor.example import Example, Pair
from castor.models.decoder import Decoder
from castor.recipes.pairs import RenderPair
from castor.tokens.embedding import EmbeddingRenderer
from castor.tokens.pairs import PairBatch, Rendered, pack_pairs
from castor.train.contrastive import ContrastiveConfig, contrastive

PREFIXES = (512, 256, 128)  # of a vector, that become embeddings too, where they are shorter than it
NUM_ROWS, ROW_TOKENS = 4, 256  # of a chunk, where nothing is longer


def pair_of(example: Example) -> Pair:
    """An example as a pair; ValueError for more than one turn of the user's."""
    if len(example.prompt) != 1 or example.prompt[0].role != "user":
        raise ValueError("for a model of vectors a line is one user turn, the query, and one model turn, what it finds")
    query, target = example.prompt[0], Message.user(*example.answer.parts)
    keys = [json.dumps(message.to_json(), sort_keys=True) for message in (query, target)]
    return Pair(query=query, target=target, source=example.task, query_key=keys[0], target_key=keys[1])


def renders_pairs(renderer: EmbeddingRenderer) -> Callable[[Example], Rendered]:
    """Example -> the sequences of its pair, without words of a task."""
    render = RenderPair(renderer, task_strings=0.0)
    return lambda example: render.rendered(pair_of(example))


def packed_pairs(pairs: Sequence[Rendered], row_tokens: int) -> PairBatch:
    """All of the pairs in chunks of one shape, as wide as the longest sequence needs."""
    longest = max(len(sequence) for pair in pairs for sequence in pair.sequences)
    return pack_pairs(pairs, num_rows=NUM_ROWS, row_tokens=max(longest, min(ROW_TOKENS, row_tokens)))


def pair_loss(decoder: Decoder) -> Any:
    """Contrastive among the pairs of a batch, on the whole vector and its published prefixes."""
    whole = decoder.config.text.embedding_dim
    assert whole is not None
    dimensions = (whole, *(length for length in PREFIXES if length < whole))
    return contrastive(decoder, ContrastiveConfig(dimensions=dimensions))
