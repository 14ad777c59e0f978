"""Who may see whom, and grouped-query attention with normalised queries, keys and values.

One mask rule serves training, prefill and cached decoding, because it looks only at the document, position
and image block of the two tokens. FlexAttention takes the same rule. Leaves out attention dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.flex import flex_attend, flex_mask
from castor.nn.linear import Linear
from castor.nn.norm import RMSNorm
from castor.nn.rope import rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from castor.nn.cache import KVCache


class TokenPlaces(NamedTuple):
    """Where tokens stand: document (-1: padding), position in it, image block (-1: none); int64 [B, T]."""

    doc_BT: torch.Tensor
    position_BT: torch.Tensor
    block_BT: torch.Tensor


class KeysValues(NamedTuple):
    """What a layer's queries look at: rotated keys and values of all tokens so far, [B, K, S, H] each."""

    key_BKSH: torch.Tensor
    value_BKSH: torch.Tensor


class LayerContext(NamedTuple):
    """What one kind of layer needs besides its input: who may see whom, and the rotary table."""

    mask: torch.Tensor | BlockMask  # bool [B, 1, T, S], True where a query may see a key; or the same for FlexAttention
    cos: torch.Tensor
    sin: torch.Tensor


def may_see(queries: TokenPlaces, keys: TokenPlaces, *, window: int | None, bidirectional: bool) -> torch.Tensor:
    """Whether tokens see others, whose places broadcast against theirs; only ever inside one document.

    A full layer (`window` None) sees the past. A sliding layer sees the past and all of its own image block,
    as far as fewer than `window` positions back. `bidirectional` sees both ways (a sliding layer: nearer than
    `window`). Padding sees padding, so that no row is empty.
    """
    distance = queries.position_BT - keys.position_BT
    seen = queries.doc_BT == keys.doc_BT
    if bidirectional:
        return seen if window is None else seen & (distance.abs() < window)
    if window is None:
        return seen & (distance >= 0)
    same_block = (queries.block_BT == keys.block_BT) & (queries.block_BT >= 0)
    return seen & ((distance >= 0) | same_block) & (distance < window)


def attention_mask(
    queries: TokenPlaces, keys: TokenPlaces, *, window: int | None = None, bidirectional: bool = False
) -> torch.Tensor:
    """bool [B, 1, T, S], True where a query may see a key: `may_see` of every pair."""
    queries = TokenPlaces(*(part.int()[:, :, None] for part in queries))
    keys = TokenPlaces(*(part.int()[:, None, :] for part in keys))
    return may_see(queries, keys, window=window, bidirectional=bidirectional).unsqueeze(1)


def layer_mask(
    queries: TokenPlaces, keys: TokenPlaces, *, window: int | None, bidirectional: bool, flex: bool
) -> torch.Tensor | BlockMask:
    """Who may see whom, as PyTorch's attention takes it or as FlexAttention does; of one token always the former."""
    if queries.doc_BT.shape[1] == 1 or not flex:
        return attention_mask(queries, keys, window=window, bidirectional=bidirectional)
    queries, keys = (TokenPlaces(*(part.int() for part in places)) for places in (queries, keys))

    def sees(row: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        its = TokenPlaces(*(part[row, query] for part in queries))
        others = TokenPlaces(*(part[row, key] for part in keys))
        return may_see(its, others, window=window, bidirectional=bidirectional)

    return flex_mask(sees, queries.doc_BT.shape, keys.doc_BT.shape[1], queries.doc_BT.device)


def attend(
    query_BNTH: torch.Tensor, key_BKSH: torch.Tensor, value_BKSH: torch.Tensor, mask: torch.Tensor | BlockMask
) -> torch.Tensor:
    """Softmax of unscaled dot products times values, [B, N, T, H]; a key head serves N // K query heads.

    A mask for FlexAttention takes its kernel, which skips blocks that nobody sees; a boolean one PyTorch's.

    On two CPU cores the boolean mask and grouped heads given to PyTorch's kernel are as fast as an additive
    mask or repeated keys, and faster than explicit matrix products with a softmax between.
    """
    grouped = key_BKSH.shape[1] != query_BNTH.shape[1]
    if not isinstance(mask, torch.Tensor):
        return flex_attend(query_BNTH, key_BKSH, value_BKSH, mask, grouped=grouped)
    return F.scaled_dot_product_attention(
        query_BNTH, key_BKSH, value_BKSH, attn_mask=mask, scale=1.0, enable_gqa=grouped
    )


class Attention(nn.Module):
    """Grouped-query attention: q and k normalised with a learned scale, v without; scores not scaled further.

    With `key_is_value` the values are the key projection's output before its norm and rotation. With `shares_keys`
    the layer has no keys and values of its own and takes those of an earlier layer.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        eps: float = 1e-6,
        bias: bool = False,
        key_is_value: bool = False,
        shares_keys: bool = False,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = Linear(dim, num_heads * head_dim, bias=bias)
        self.k_proj, self.v_proj, self.k_norm = None, None, None
        if not shares_keys:
            self.k_proj = Linear(dim, num_kv_heads * head_dim, bias=bias)
            self.v_proj = None if key_is_value else Linear(dim, num_kv_heads * head_dim, bias=bias)
        self.o_proj = Linear(num_heads * head_dim, dim, bias=bias)
        self.q_norm = RMSNorm(head_dim, eps)
        if not shares_keys:
            self.k_norm = RMSNorm(head_dim, eps)
        self.v_norm = RMSNorm(head_dim, eps, scaled=False)

    def forward(
        self,
        x_BTD: torch.Tensor,
        context: LayerContext,
        layer: int,
        cache: KVCache | None = None,
        shared: KeysValues | None = None,
    ) -> tuple[torch.Tensor, KeysValues]:
        """The mixed stream [B, T, D], and what was looked at; a layer that shares keys looks at `shared`."""
        query_BTNH = self.q_proj(x_BTD).view(*x_BTD.shape[:2], -1, self.head_dim)
        query_BNTH = rotate(self.q_norm(query_BTNH), context.cos, context.sin).transpose(1, 2)
        seen = shared if self.k_proj is None else self._keys_values(x_BTD, context, layer, cache)
        assert seen is not None, "the layer whose keys are shared comes first"
        out_BNTH = attend(query_BNTH, *seen, context.mask)
        return self.o_proj(out_BNTH.transpose(1, 2).reshape(*x_BTD.shape[:2], -1)), seen

    def _keys_values(self, x_BTD: torch.Tensor, context: LayerContext, layer: int, cache: KVCache | None) -> KeysValues:
        assert self.k_proj is not None and self.k_norm is not None
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        key_BTKH = self.k_proj(x_BTD).view(heads)
        value_BTKH = key_BTKH if self.v_proj is None else self.v_proj(x_BTD).view(heads)
        key_BKSH = rotate(self.k_norm(key_BTKH), context.cos, context.sin).transpose(1, 2)
        value_BKSH = self.v_norm(value_BTKH).transpose(1, 2)
        if cache is not None:
            key_BKSH, value_BKSH = cache.append(layer, key_BKSH, value_BKSH)
        return KeysValues(key_BKSH, value_BKSH)
