"""Pictures and clips as they enter the layers, remembered by what they show."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

import numpy as np
import torch

from castor.engine.request import Request
from castor.models.decoder import Decoder
from castor.tokens.pack import collate
from castor.tokens.sequence import Sequence


class MediaMemory:
    """What pictures and clips become as they enter the layers, by their digests; those used last are kept.

    A beginning is known in whole blocks, so the picture at its end is often needed once more.
    """

    def __init__(self, decoder: Decoder, max_tokens: int) -> None:
        self.decoder, self.max_tokens = decoder, max_tokens
        self._known: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._num_tokens = 0

    def look(self, requests: Seq[Request]) -> dict[bytes, torch.Tensor]:
        """[tokens, D] of every medium that these requests have yet to compute; new ones together."""
        found: dict[bytes, torch.Tensor] = {}
        new: dict[bytes, tuple[Sequence, list[int]]] = {}
        for request in requests:
            for medium in request.prefix.media:
                if medium.stop <= request.num_computed or medium.digest in found or medium.digest in new:
                    continue
                if medium.digest in self._known:
                    self._known.move_to_end(medium.digest)
                    found[medium.digest] = self._known[medium.digest]
                else:  # with the token in front of each stretch, which keeps them apart
                    places = np.concatenate([np.arange(start - 1, stop) for start, stop in medium.runs])
                    own = np.concatenate([np.arange(start - 1, stop) >= start for start, stop in medium.runs])
                    new[medium.digest] = request.sequence.taken(places), np.flatnonzero(own).tolist()
        if new:
            parts = [part for part, _ in new.values()]
            sizes = [len(part) for part in parts]
            batch = collate([parts], sum(sizes)).to(self.decoder.device)
            for digest, x_TD in zip(new, self.decoder.embed(batch)[0].split(sizes), strict=True):
                found[digest] = x_TD[new[digest][1]]
                self._keep(digest, found[digest])
        return found

    def _keep(self, digest: bytes, x_TD: torch.Tensor) -> None:
        self._known[digest] = x_TD
        self._num_tokens += len(x_TD)
        while self._num_tokens > self.max_tokens:
            self._num_tokens -= len(self._known.popitem(last=False)[1])
