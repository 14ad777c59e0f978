"""Decoding by our own compiled step: a whole step of rows that speak in one call, from ids to logits.

`Forward` has the plain form, in torch, which this equals up to rounding. A step of torch's calls costs a small model
three times what its products do; a large one reads its weights faster by this, too, in bfloat16 or in few bits.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import nn

from castor.engine.blocks import Blocks
from castor.engine.schedule import Span
from castor.models.decoder import Decoder
from castor.models.text_config import FULL, SLIDING
from castor.nn.attention import Attention
from castor.nn.block import Block, FeedForward
from castor.nn.blocks import BlockStore
from castor.nn.kernels import Kernels, kernels
from castor.nn.linear import Linear
from castor.nn.native import native
from castor.nn.norm import RMSNorm
from castor.nn.packed import Packed, PackedEmbedding, PackedLinear

KINDS = (SLIDING, FULL)
MOST_ROWS = {torch.float32: 64, torch.bfloat16: 16}  # beyond, torch's matrix products of many rows are faster
MOST_PACKED = {False: 64, True: 15}  # of packed matrices; with AMX, which is for whole tiles of 16 rows

_Pointer, _Int, _Float = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
_WEIGHTS = ("q", "k", "v", "o", "gate", "up", "down")
_NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward", "q", "k")


class _Packed(ctypes.Structure):
    _fields_ = [("codes", _Pointer), ("scales", _Pointer)]


class _Lowbit(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("begin", "round", "work", "rows")),
        *((name, ctypes.c_int64) for name in ("job_bytes", "room_bytes")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in _WEIGHTS),
        *((f"{name}_norm", _Pointer) for name in _NORMS),
        ("room", _Pointer),
        ("frequency", _Pointer),
        ("scalar", _Float),
        *((name, _Int) for name in ("heads", "key_heads", "head_dim", "inner", "kind")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", _Pointer),
        ("embedding", _Pointer),
        ("norm", _Pointer),
        *((name, _Float) for name in ("eps", "embed_scale", "soft_cap")),
        *((name, _Int) for name in ("num_layers", "dim", "vocab", "is_bf16", "block_tokens")),
        ("window", _Int * 2),
        *((name, _Int) for name in ("bits", "table_bits", "level")),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        ("ids", _Pointer),
        ("positions", _Pointer),
        ("table", _Pointer * 2),
        ("first", _Pointer * 2),
        ("logits", _Pointer),
        ("lowbit", _Pointer),
        ("count", _Int),
        ("width", _Int * 2),
    ]


class DecodeStep:
    """The compiled step of one decoder over one store. Weights are read where they are: they must stay there."""

    def __init__(self, decoder: Decoder, blocks: Blocks, store: BlockStore) -> None:
        library = native("layers")
        assert library is not None and can_decode(decoder)
        self._step = library.castor_decode_step
        self._kept: list[object] = [store]
        self._kinds = [kind for kind in KINDS if kind in blocks.pools]
        text, table, dtype = decoder.config.text, decoder.language_model.embed_tokens, decoder.dtype
        self.vocab_size, self.max_rows, self._lowbit = text.vocab_size, MOST_ROWS[dtype], None
        if isinstance(table, PackedEmbedding):
            compiled = kernels()
            assert compiled is not None
            self.max_rows, self._lowbit = MOST_PACKED[compiled.has_amx], compiled
            self._widest = max(text.hidden_size, *map(_widest_input, decoder.language_model.layers))
        frequency = {kind: self._keep(decoder.frequencies(kind)) for kind in self._kinds}
        layers = (_Layer * text.num_hidden_layers)()
        for index, (kind, block) in enumerate(zip(text.layer_types or (), decoder.language_model.layers, strict=True)):
            assert isinstance(block, Block)
            layers[index] = self._layer(block, kind)
            layers[index].room, layers[index].frequency = store.rooms[index].data_ptr(), frequency[kind]
        windows = [blocks.windows.get(kind) or 0 for kind in KINDS]
        self._kept.append(layers)
        self._model = _Model(
            layers=ctypes.addressof(layers),
            embedding=self._matrix(table),
            norm=self._norm(decoder.language_model.norm),
            eps=text.rms_norm_eps,
            embed_scale=float(torch.tensor(math.sqrt(text.hidden_size), dtype=dtype)),
            soft_cap=text.final_logit_softcapping or 0.0,
            num_layers=len(layers),
            dim=text.hidden_size,
            vocab=text.vocab_size,
            is_bf16=dtype == torch.bfloat16,
            block_tokens=blocks.block_tokens,
            window=(_Int * 2)(*windows),
            **({} if self._lowbit is None else self._of_bits(decoder, self._lowbit)),
        )

    def _of_bits(self, decoder: Decoder, compiled: Kernels) -> dict[str, int]:
        table, first = decoder.language_model.embed_tokens, decoder.language_model.layers[0]
        assert isinstance(table, PackedEmbedding)
        bits = next(module.bits for module in first.modules() if isinstance(module, PackedLinear))
        return {"bits": bits, "table_bits": table.bits, "level": compiled.row_level}

    def _layer(self, block: Block, kind: str) -> _Layer:
        attention, feed_forward = block.self_attn, block.mlp
        assert attention.k_proj is not None and attention.k_norm is not None
        maps = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
        maps |= {name: getattr(feed_forward, f"{name}_proj") for name in ("gate", "up", "down")}
        norms = {
            "input": block.input_layernorm,
            "post_attention": block.post_attention_layernorm,
            "pre_feedforward": block.pre_feedforward_layernorm,
            "post_feedforward": block.post_feedforward_layernorm,
            "q": attention.q_norm,
            "k": attention.k_norm,
        }
        return _Layer(
            **{name: None if linear is None else self._matrix(linear) for name, linear in maps.items()},
            **{f"{name}_norm": self._norm(norm) for name, norm in norms.items()},
            scalar=float(block.get_buffer("layer_scalar")),
            heads=attention.q_proj.out_features // attention.head_dim,
            key_heads=attention.k_proj.out_features // attention.head_dim,
            head_dim=attention.head_dim,
            inner=feed_forward.gate_proj.out_features,
            kind=KINDS.index(kind),
        )

    def _matrix(self, holder: nn.Module) -> int:
        """The address of a matrix, or of where its codes and scales are."""
        if not isinstance(holder, Packed):
            return self._keep(holder.get_parameter("weight"))
        codes, scales = holder.packed
        place = _Packed(codes=self._keep(codes), scales=self._keep(scales))
        self._kept.append(place)
        return ctypes.addressof(place)

    def _norm(self, norm: RMSNorm) -> int:
        assert norm.weight is not None
        return self._keep(norm.weight.detach().float())

    def _keep(self, tensor: torch.Tensor) -> int:
        """Its address, which stays right as long as this object lives."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def run(self, spans: Seq[Span]) -> torch.Tensor:
        """Logits float32 [B, V] after the last id of each; its key and value are in the store then."""
        logits_BV = torch.empty(len(spans), self.vocab_size)
        ids, positions = np.array([(span.last_id, span.start) for span in spans], dtype=np.int64).T.copy()
        rows = _Rows(ids=ids.ctypes.data, positions=positions.ctypes.data, count=len(spans))
        rows.logits, kept = logits_BV.data_ptr(), []
        if self._lowbit is not None:
            lowbit = self._lowbit.in_company(_Lowbit, len(spans), self._widest)
            rows.lowbit = ctypes.addressof(lowbit)
            kept.append(lowbit)
        for kind in self._kinds:
            at, tables = KINDS.index(kind), [span.request.tables[kind] for span in spans]
            width = max(len(table.blocks) for table in tables)
            table_BN = np.array([table.blocks + [0] * (width - len(table.blocks)) for table in tables], dtype=np.int32)
            first_B = np.array([table.first for table in tables], dtype=np.int32)
            rows.table[at], rows.first[at], rows.width[at] = table_BN.ctypes.data, first_B.ctypes.data, width
            kept += [table_BN, first_B]
        self._step(ctypes.byref(self._model), ctypes.byref(rows), torch.get_num_threads())
        return logits_BV


def can_decode(decoder: Decoder) -> bool:
    """Whether the compiled step computes what this decoder is: plain layers on the CPU, all of one type or packed."""
    text, table = decoder.config.text, decoder.language_model.embed_tokens
    is_packed = isinstance(table, PackedEmbedding)
    if (type(table) is not nn.Embedding and not is_packed) or decoder.language_model.ple is not None:
        return False
    if decoder.device.type != "cpu" or decoder.dtype not in MOST_ROWS or native("layers") is None:
        return False
    if is_packed and (kernels() is None or table.asks_for_torch):
        return False
    if not is_packed and table.weight.dtype != decoder.dtype:
        return False
    if text.num_own_layers != text.num_hidden_layers or text.enable_moe_block:
        return False
    bits = {_bits(layer, decoder.dtype) for layer in decoder.language_model.layers}
    return len(bits) == 1 and bits <= ({4, 8} if is_packed else {0})


def _bits(layer: nn.Module, dtype: torch.dtype) -> int | None:
    """Of a layer with nothing but norms and matrices: 0 where all have this type, 4 or 8 where all are packed so.

    None for one with anything else, such as adapters or biases.
    """
    shells = (Block, Attention, FeedForward, RMSNorm)
    found: set[int | None] = set()
    for module in layer.modules():
        if type(module) is PackedLinear and module.bias is None:
            found.add(module.bits)
        elif type(module) in (nn.Linear, Linear) and module.bias is None and module.weight.dtype == dtype:
            found.add(0)
        elif not isinstance(module, shells):
            found.add(None)
    return found.pop() if len(found) == 1 else None


def _widest_input(layer: nn.Module) -> int:
    return max(module.in_features for module in layer.modules() if isinstance(module, PackedLinear))
