"""The step of requests that speak, compiled by PyTorch; on a GPU its kernels are recorded once as a CUDA graph.

A step of one token a row is short of work, and a GPU waits for the calls that start its kernels. A recorded graph
starts them all at once, but takes one shape only: rows and tables of blocks are filled up to powers of two, and each
pair of sizes is compiled when it first occurs. `CASTOR_STEPS=compiled` asks for it. On a CPU, where `decode.py` is the
fast path, it serves the tests; nobody has run it on a GPU yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq

import numpy as np
import torch

from castor.engine.blocks import Blocks
from castor.engine.schedule import Span
from castor.models.decoder import Decoder
from castor.models.text_config import FULL, SLIDING
from castor.nn.attention import TokenPlaces
from castor.nn.blocks import BlockCache, BlockStore, RowBlocks
from castor.tokens.pack import collate


class CompiledStep:
    """The compiled step of one decoder over one store."""

    def __init__(self, decoder: Decoder, blocks: Blocks, store: BlockStore, *, max_rows: int) -> None:
        self.max_rows = max_rows
        self._decoder, self._blocks, self._store = decoder, blocks, store
        self._nothing = collate([[]], 1).to(decoder.device)
        for tensor in (*store.rooms, *store.scales):  # written in place, at the same address in every step
            torch._dynamo.mark_static_address(tensor)
        mode = "reduce-overhead" if decoder.device.type == "cuda" else None
        self._compiled = torch.compile(self._logits, dynamic=False, mode=mode)

    def run(self, spans: Seq[Span]) -> torch.Tensor:
        """Logits float32 [B, V] on the CPU after the last id of each; its key and value are in the store then."""
        num_rows = _rounded(len(spans))
        ids_B1, position_B1 = np.zeros((2, num_rows, 1), dtype=np.int64)
        ids_B1[: len(spans), 0] = [span.last_id for span in spans]
        position_B1[: len(spans), 0] = [span.start for span in spans]
        rows = {kind: self._rows(kind, spans, num_rows) for kind in self._blocks.pools}
        logits_BV = self._compiled(self._tensor(ids_B1), self._tensor(position_B1), rows)
        return logits_BV[: len(spans)].float().cpu()

    def _rows(self, kind: str, spans: Seq[Span], num_rows: int) -> RowBlocks:
        """The blocks of all rows. Rows that are none have block 0, which belongs to nobody, and write there."""
        tables, size = [span.request.tables[kind] for span in spans], self._blocks.block_tokens
        table_BN = np.zeros((num_rows, _rounded(max(len(table.blocks) for table in tables))), dtype=np.int64)
        first_B, slot_B = np.zeros((2, num_rows), dtype=np.int64)
        for row, (span, table) in enumerate(zip(spans, tables, strict=True)):
            table_BN[row, : len(table.blocks)] = table.blocks
            first_B[row] = table.first * size
            slot_B[row] = table.blocks[span.start // size - table.first] * size + span.start % size
        return RowBlocks(*(self._tensor(array) for array in (table_BN, first_B, slot_B)))

    def _logits(self, ids_B1: torch.Tensor, position_B1: torch.Tensor, rows: dict[str, RowBlocks]) -> torch.Tensor:
        """What is compiled: ids and where they stand to logits, [B, V]."""
        decoder, size = self._decoder, self._blocks.block_tokens
        queries = TokenPlaces(torch.zeros_like(ids_B1), position_B1, torch.full_like(ids_B1, -1))
        keys = {kind: held.places(position_B1[:, 0] + 1, size) for kind, held in rows.items()}
        sliding, full = (keys.get(kind) or next(iter(keys.values())) for kind in (SLIDING, FULL))
        contexts = decoder.context(queries, sliding)[0], decoder.context(queries, full)[1]
        x_B1D = decoder.embed(dataclasses.replace(self._nothing, ids_BT=ids_B1))
        cache = BlockCache(self._store, rows)  # the decoder asks nothing but `append` of it
        return decoder.project(decoder.run(x_B1D, ids_B1, contexts, cache)[:, 0])  # ty: ignore[invalid-argument-type]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._decoder.device)


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
