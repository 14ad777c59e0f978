"""One step of computing: spans of requests through the decoder, and the logits of those whose next id is due.

Requests that speak make one batch of one token each, by the compiled step (`decode.py`) where it can. Chunks that are
read go in batches of similar length, so that little is padded; what enters the layers, pictures and sound included, is
made once for a request and cut into chunks.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from castor.engine.blocks import Blocks
from castor.engine.compiled import CompiledStep
from castor.engine.decode import DecodeStep, can_decode
from castor.engine.media import MediaMemory
from castor.engine.request import Entering, Request
from castor.engine.schedule import Span
from castor.models.decoder import Decoder
from castor.models.text_config import FULL, SLIDING
from castor.nn.attention import LayerContext, TokenPlaces
from castor.nn.blocks import BlockCache, BlockStore, LayerShape, RowBlocks, block_bytes
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence

LARGEST_PICTURE = 1120  # tokens, Gemma 4's largest budget; it is computed at once, whatever the token budget


def layer_shapes(decoder: Decoder) -> list[LayerShape]:
    """The layers with keys of their own."""
    config = decoder.config
    kinds = (config.text.layer_types or ())[: config.text.num_own_layers]
    return [LayerShape(kind, *shape) for kind, shape in zip(kinds, config.kv_shapes, strict=True)]


def windows(decoder: Decoder) -> dict[str, int | None]:
    """How far each kind of layer that there is looks back."""
    kinds = {shape.kind for shape in layer_shapes(decoder)}
    return {kind: decoder.config.text.sliding_window if kind == SLIDING else None for kind in sorted(kinds)}


class Forward:
    """A decoder and the store of its keys and values."""

    def __init__(
        self, decoder: Decoder, blocks: Blocks, *, media_tokens: int, is_int8: bool = False, compiled_rows: int = 0
    ) -> None:
        """`media_tokens`: of pictures and clips that are remembered as they enter the layers.

        With `compiled_rows` PyTorch compiles the step of up to so many requests that speak.
        """
        self.decoder, self.blocks, self.media = decoder, blocks, MediaMemory(decoder, media_tokens)
        self.device, self._nothing = decoder.device, collate([[]], 1)
        num_blocks = {kind: pool.num_blocks for kind, pool in blocks.pools.items()}
        self.store = BlockStore(
            layer_shapes(decoder), num_blocks, blocks.block_tokens, self.device, decoder.dtype, is_int8=is_int8
        )
        self.decode: DecodeStep | CompiledStep | None = None
        if compiled_rows:
            self.decode = CompiledStep(decoder, blocks, self.store, max_rows=compiled_rows)
        elif can_decode(decoder) and not is_int8:
            self.decode = DecodeStep(decoder, blocks, self.store)

    @torch.inference_mode()
    def run(self, spans: Seq[Span]) -> torch.Tensor:
        """Compute the spans; float logits [number of spans that are last, V] in their order, on the CPU."""
        self._enter([span.request for span in spans if span.request.is_reading and span.request.entering is None])
        batches: defaultdict[int, list[Span]] = defaultdict(list)
        for span in spans:
            length = span.stop - span.start
            batches[(length - 1).bit_length() + 1 if span.request.is_reading else 0].append(span)
        found = {size: self._logits(batch, is_reading=size > 0) for size, batch in sorted(batches.items())}
        if len(found) == 1:
            return next(iter(found.values()))
        of_span: dict[int, torch.Tensor] = {}
        for size, logits_BV in found.items():
            of_span |= zip((id(span) for span in self._due(batches[size])), logits_BV, strict=True)
        rows = [of_span[id(span)] for span in self._due(spans)]
        return torch.stack(rows) if rows else torch.cat([*found.values()])  # of no rows

    def _due(self, spans: Seq[Span]) -> list[Span]:
        return [span for span in spans if span.is_last]

    def _logits(self, batch: Seq[Span], *, is_reading: bool) -> torch.Tensor:
        """Float logits on the CPU of those of these spans that are last; all of them where requests speak."""
        if is_reading:
            hidden_BD = self._read(batch)[[at for at, span in enumerate(batch) if span.is_last]]
        elif self.decode is not None and len(batch) <= self.decode.max_rows:
            return self.decode.run(batch)
        else:
            hidden_BD = self._speak(batch)
        return self.decoder.project(hidden_BD).float().cpu()

    def _enter(self, requests: list[Request]) -> None:
        """Make what enters the layers of these requests, all in one go."""
        if not requests:
            return
        text = self.decoder.config.text
        tails = [r.sequence.followed_by(r.said_ids).taken(np.arange(r.num_computed, len(r.ids))) for r in requests]
        batch = collate([[_without_media(tail) for tail in tails]], sum(len(tail) for tail in tails)).to(self.device)
        x_XD, block_X = self.decoder.embed(batch)[0], self.decoder.places(batch).block_BT[0]
        ids_X, of_medium = batch.ids_BT[0], self.media.look(requests)
        at = 0
        for request, tail in zip(requests, tails, strict=True):
            own = slice(at, at + len(tail))
            request.entering = Entering(request.num_computed, x_XD[own], ids_X[own], block_X[own])
            for medium in request.prefix.media:
                first = max(medium.start, request.num_computed)
                if first < medium.stop:  # a known beginning may end within it
                    there = slice(at + first - request.num_computed, at + medium.stop - request.num_computed)
                    from_start = medium.first - medium.start
                    x_XD[there] = of_medium[medium.digest][from_start + first : from_start + medium.stop]
                    if text.vocab_size_per_layer_input is not None and text.pad_token_id is not None:
                        ids_X[there] = text.pad_token_id  # as media are looked up
            at += len(tail)

    def _speak(self, spans: Seq[Span]) -> torch.Tensor:
        """The last id of every request; the stream after the final norm, [B, D]."""
        ids_B1 = torch.tensor([[span.last_id] for span in spans])
        batch = replace(self._nothing, ids_BT=ids_B1)  # nothing else of it is asked for
        batch = batch if self.device.type == "cpu" else batch.to(self.device)
        no_block_B1 = torch.full_like(batch.ids_BT, -1)
        return self._through(spans, self.decoder.embed(batch), batch.ids_BT, no_block_B1)[:, 0]

    def _read(self, spans: Seq[Span]) -> torch.Tensor:
        """Chunks of prompts; the stream at the end of each, [B, D]. Padding repeats a row's last token."""
        width = max(span.stop - span.start for span in spans)
        x, ids, block = [], [], []
        for span in spans:
            entering = span.request.entering
            assert entering is not None
            at_T = torch.arange(span.start, span.start + width, device=self.device).clamp(max=span.stop - 1)
            at_T = at_T - entering.start
            x.append(entering.x_TD[at_T])
            ids.append(entering.ids_T[at_T])
            block.append(entering.block_T[at_T])
        hidden_BTD = self._through(spans, torch.stack(x), torch.stack(ids), torch.stack(block))
        for span in spans:
            if span.is_last:
                span.request.entering = None
        return hidden_BTD[:, -1]  # which padding repeats

    def _through(
        self, spans: Seq[Span], x_BTD: torch.Tensor, ids_BT: torch.Tensor, block_BT: torch.Tensor
    ) -> torch.Tensor:
        """All layers with the cache."""
        start_B, stop_B = (np.array([getattr(span, name) for span in spans]) for name in ("start", "stop"))
        position_BT = np.minimum(start_B[:, None] + np.arange(ids_BT.shape[1]), stop_B[:, None] - 1)
        is_padding_BT = start_B[:, None] + np.arange(ids_BT.shape[1]) >= stop_B[:, None]
        queries = TokenPlaces(torch.zeros_like(ids_BT), self._tensor(position_BT), block_BT)
        rows = {kind: self._row_blocks(kind, spans, position_BT, is_padding_BT) for kind in self.blocks.pools}
        contexts = self._contexts(spans, queries, rows, self._tensor(stop_B))
        cache: Any = BlockCache(self.store, rows)  # the decoder asks nothing but `append` of it
        return self.decoder.run(x_BTD, ids_BT, contexts, cache)

    def _row_blocks(self, kind: str, spans: Seq[Span], position_BT: np.ndarray, is_padding_BT: np.ndarray) -> RowBlocks:
        tables = [span.request.tables[kind] for span in spans]
        table_BN = np.zeros((len(tables), max(len(table.blocks) for table in tables)), dtype=np.int64)
        for row, table in enumerate(tables):
            table_BN[row, : len(table.blocks)] = table.blocks
        size = self.blocks.block_tokens
        first_B1 = np.array([[table.first] for table in tables])
        slot_BT = np.take_along_axis(table_BN, position_BT // size - first_B1, 1) * size + position_BT % size
        slot_BT = np.where(is_padding_BT, 0, slot_BT)
        return RowBlocks(*(self._tensor(array) for array in (table_BN, first_B1[:, 0] * size, slot_BT.reshape(-1))))

    def _contexts(
        self, spans: Seq[Span], queries: TokenPlaces, rows: dict[str, RowBlocks], stop_B: torch.Tensor
    ) -> tuple[LayerContext, LayerContext]:
        """Masks and rotary tables; once for both kinds where nothing has yet left a window."""
        size, kind = self.blocks.block_tokens, SLIDING if SLIDING in rows else FULL
        keys = rows[kind].places(stop_B, size)
        first = [span.request.tables[kind].first for span in spans]
        if queries.doc_BT.shape[1] > 1:  # which new keys are of which picture; older ones concern no token of now
            for row, span in enumerate(spans):
                at, length = span.start - first[row] * size, span.stop - span.start
                keys.block_BT[row, at : at + length] = queries.block_BT[row, :length]
        contexts = self.decoder.context(queries, keys)
        if any(first):
            contexts = contexts[0], self.decoder.context(queries, rows[FULL].places(stop_B, size))[1]
        return contexts

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def _without_media(sequence: Sequence) -> Sequence:
    media = ("patches_PC", "patch_xy_P2", "patch_at_P", "frames_SF", "frame_at_S", "clip_S")
    none = {name: getattr(sequence, name)[:0] for name in media}
    return replace(sequence, **none)


def new_blocks(
    decoder: Decoder,
    cache_tokens: int | None,
    *,
    max_rows: int,
    block_tokens: int,
    token_budget: int,
    is_int8: bool = False,
) -> Blocks:
    """Pools for `cache_tokens` on full layers, and on sliding ones for as many or for all that rows need at most.

    None: as many as half the free memory holds, but no more than `max_rows` of the longest answers.
    """
    text, looks_back = decoder.config.text, windows(decoder)
    num_sliding = max_rows * (-(-(text.sliding_window + token_budget) // block_tokens) + 1)
    num_sliding = num_sliding + LARGEST_PICTURE // block_tokens if SLIDING in looks_back else 0
    if cache_tokens is None:
        size = {
            kind: block_bytes(layer_shapes(decoder), kind, block_tokens, decoder.dtype, is_int8=is_int8)
            for kind in (SLIDING, FULL)
        }
        room = (_free_bytes(decoder.device) // 2 - num_sliding * size[SLIDING]) // size[FULL]
        cache_tokens = min(max(room, 1) * block_tokens, max_rows * text.max_position_embeddings)
    num_full = -(-cache_tokens // block_tokens)
    most = {SLIDING: min(num_full, num_sliding), FULL: num_full}
    return Blocks({kind: most[kind] + 1 for kind in looks_back}, looks_back, block_tokens)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30  # where the system does not say
