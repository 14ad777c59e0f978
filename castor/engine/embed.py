"""Vectors of many prompts at once: batches of prompts of like length, several short ones in a row."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import torch

from castor.models.decoder import Decoder
from castor.tokens.pack import collate, plan
from castor.tokens.sequence import Sequence

BATCH_TOKENS = 4096  # in the rows of one batch, unless a single prompt is longer


def embed_sequences(decoder: Decoder, sequences: Seq[Sequence], device: torch.device) -> torch.Tensor:
    """Vectors of length 1 in the order given, float32 [N, E] on the CPU; ValueError for one that is too long."""
    dim = decoder.config.text.embedding_dim
    assert dim is not None
    for sequence in sequences:
        decoder.check_length(len(sequence))
    vectors_NE = torch.zeros(len(sequences), dim)
    for rows in batches([len(sequence) for sequence in sequences]):
        width = max(sum(len(sequences[index]) for index in row) for row in rows)
        batch = collate([[sequences[index] for index in row] for row in rows], width).to(device)
        vectors_NE[[index for row in rows for index in row]] = decoder.vectors(batch).cpu()
    return vectors_NE


def batches(lengths: Seq[int], most_tokens: int = BATCH_TOKENS) -> Iterator[list[list[int]]]:
    """Indices by batch and row: longest first, as many rows of the longest one's length as hold `most_tokens`."""
    left = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while left:
        width = max(1, lengths[left[0]])
        num_rows = min(64, max(1, most_tokens // width))
        rows = plan([lengths[index] for index in left[: 4 * num_rows]], num_rows, width)
        yield [[left[at] for at in row] for row in rows if row]
        placed = {at for row in rows for at in row}
        left = [index for at, index in enumerate(left) if at not in placed]
