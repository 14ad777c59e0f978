"""Keys and values of the tokens seen so far, and where those stand, so that a decode step need not redo them.

Rows of different length share one write position: shorter rows carry padding (document -1), which nothing
sees. An image must be appended whole, since its tokens see each other both ways. Layers that share another's keys
have no room here. Leaves out rows that come and go, and dropping keys that have left every window: see `blocks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from castor.nn.attention import TokenPlaces


class CachedShapes(Protocol):
    """A model's config, as far as a cache needs it."""

    @property
    def kv_shapes(self) -> Sequence[tuple[int, int]]:
        """(number of key heads, head dim) of each layer that has keys of its own."""


class KVCache:
    """Room for `max_tokens` tokens of `batch_size` rows; `length` of them are filled."""

    def __init__(
        self,
        config: CachedShapes,
        batch_size: int,
        max_tokens: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        def room(num_heads: int, head_dim: int) -> torch.Tensor:
            return torch.zeros(batch_size, num_heads, max_tokens, head_dim, device=device, dtype=dtype)

        self.config = config
        self.length = 0
        self.max_tokens = max_tokens
        self.keys = [room(*shape) for shape in config.kv_shapes]
        self.values = [room(*shape) for shape in config.kv_shapes]
        self.places = TokenPlaces(*(torch.full((batch_size, max_tokens), fill, device=device) for fill in (-1, 0, -1)))
        self._start = 0

    @property
    def batch_size(self) -> int:
        """Rows."""
        return self.places.doc_BT.shape[0]

    def extend(self, new: TokenPlaces) -> TokenPlaces:
        """Take in where the next tokens stand, give where all stand; layers then `append` their keys."""
        rows, num_new = new.doc_BT.shape
        if rows != self.batch_size:
            raise ValueError(f"{rows} rows for a cache of {self.batch_size}")
        if self.length + num_new > self.max_tokens:
            raise ValueError(f"{self.length} + {num_new} tokens exceed the cache's {self.max_tokens}")
        self._start, self.length = self.length, self.length + num_new
        for held, added in zip(self.places, new, strict=True):
            held[:, self._start : self.length] = added
        return TokenPlaces(*(held[:, : self.length] for held in self.places))

    def append(self, layer: int, key_BKTH: torch.Tensor, value_BKTH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values; give all of them, [B, K, length, H], in the new type."""
        held = (self.keys[layer], self.values[layer])
        for room, new in zip(held, (key_BKTH, value_BKTH), strict=True):
            room[:, :, self._start : self.length] = new
        key, value = (room[:, :, : self.length].to(key_BKTH.dtype) for room in held)
        return key, value

    def trim(self, length: int) -> None:
        """Forget every token after the first `length`."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot trim a cache of {self.length} tokens to {length}")
        self.places.doc_BT[:, length:] = -1
        self.length = length

    def trim_row(self, row: int, position: int) -> None:
        """Forget the tokens of one row from `position` on; the room they took is not reused."""
        self.places.doc_BT[row].masked_fill_(self.places.position_BT[row] >= position, -1)

    def select(self, rows: Sequence[int] | torch.Tensor) -> KVCache:
        """A cache of copies of these rows in this order, repeats allowed (shared prompts, finished rows)."""
        index = torch.as_tensor(rows, device=self.places.doc_BT.device)
        chosen = KVCache.__new__(KVCache)
        chosen.config, chosen.length, chosen.max_tokens = self.config, self.length, self.max_tokens
        chosen.keys = [room[index] for room in self.keys]
        chosen.values = [room[index] for room in self.values]
        chosen.places = TokenPlaces(*(held[index] for held in self.places))
        chosen._start = self._start
        return chosen
