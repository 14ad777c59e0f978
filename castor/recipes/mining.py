"""Hard negatives and filtered pairs of finite sets, found with the model itself (Gemini Embedding, arXiv 2503.07891).

For each query, of the k targets nearest to it that mean another thing, the negative is the one least likely to be a
right answer after all: by two rankings, fused by reciprocal rank. One is how near the target is to the right one; the
other, where the query is a text and the model writes, how likely the model is to say the query of it. A pair whose
own target is not among the nearest quarter is left out by the filter.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from castor.checkpoint import load_json, save_json
from castor.content import Message, Text
from castor.data.pairs import Pairs
from castor.engine.model import Model
from castor.example import Pair
from castor.models.decoder import Decoder
from castor.nn.losses import IGNORE, cross_entropy
from castor.tokens.embedding import EmbeddingRenderer
from castor.tokens.pack import collate

POOL = 1000  # pairs of a set that are compared with each other
FILTER_SHARE = 0.25
RRF_K = 60  # Cormack et al. 2009, "Reciprocal rank fusion"


@dataclasses.dataclass(frozen=True)
class MinedPairs:
    """Pairs of a source by number, those that were kept, with the target of another as negative."""

    name: str
    source: Pairs
    kept: tuple[int, ...]
    negatives: dict[int, int]

    def at(self, number: int) -> Pair:
        """Pair `number` of the pool."""
        return self.source.pair(random.Random(f"{self.name}/{number}"))

    def pair(self, rng: random.Random) -> Pair:
        """One of the kept."""
        number = rng.choice(self.kept)
        pair = self.at(number)
        if number not in self.negatives:
            return pair
        return dataclasses.replace(pair, negative=self.at(self.negatives[number]).target)


class PoolMiner:
    """Looks once through the pool of each set; what it finds is kept in `folder`."""

    def __init__(self, model: Model, rank: int, folder: Path, say: Callable[[str], None] = print) -> None:
        self.model, self.rank, self.folder, self.say = model, rank, folder, say

    def source(self, name: str, source: Pairs, *, negatives: bool, filtered: bool) -> MinedPairs:
        """The source with what was found."""
        path = self.folder / f"{name.replace('/', '-')}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_json(path, self._look(MinedPairs(name, source, (), {})))
        found = load_json(path)
        kept = found["kept"] if filtered else list(range(POOL))
        mined = {int(key): value for key, value in found["negatives"].items()} if negatives else {}
        self.say(f"{name}: {len(kept)} of {POOL} pairs kept, {len(mined)} with a mined negative")
        return MinedPairs(name, source, tuple(kept), mined)

    def _look(self, pool: MinedPairs) -> dict[str, object]:
        pairs = [pool.at(number) for number in range(POOL)]
        query_NE, target_NE = (
            self.model.embed(*([getattr(pair, side)] for pair in pairs)).numpy() for side in ("query", "target")
        )
        near_NN = query_NE @ target_NE.T
        same_NN = same_meaning(pairs)
        kept = filtered_pairs(near_NN, same_NN, FILTER_SHARE)
        negatives = {}
        for number in kept:
            nearest = neighbours(near_NN[number], same_NN[number], self.rank)
            if not nearest:
                continue
            scores = [target_NE[nearest] @ target_NE[number]]
            if (said := self._likelihoods(pairs[number], [pairs[other].target for other in nearest])) is not None:
                scores.append(said)
            negatives[str(number)] = nearest[int(np.argmin(fused(scores)))]
        return {"kept": kept, "negatives": negatives}

    def _likelihoods(self, pair: Pair, targets: Sequence[Message]) -> np.ndarray | None:
        """How likely the model is to say the query of each target, nats a token; None where it cannot say it."""
        is_text = all(isinstance(part, Text) for part in pair.query.parts)
        if not is_text or isinstance(self.model.renderer, EmbeddingRenderer):
            return None
        said = Message.model(*pair.query.parts)
        sequences = [self.model.renderer.encode([target, said]) for target in targets]
        return likelihoods(self.model.decoder, sequences, self.model.device)


@torch.no_grad()
def likelihoods(decoder: Decoder, sequences: Sequence, device: torch.device) -> np.ndarray:
    """The mean log-probability of each sequence's targets, float64 [N]."""
    found = []
    for sequence in sequences:
        batch = collate([[sequence]], len(sequence)).to(device)
        loss = cross_entropy(decoder.hidden(batch), decoder.output_weight_VD, batch.target_BT)
        found.append(-float(loss.sum) / max(1, int((batch.target_BT != IGNORE).sum())))
    return np.array(found)


def same_meaning(pairs: Sequence[Pair]) -> np.ndarray:
    """bool [N, N], true where two pairs have one query or one target."""
    keys = [np.array([getattr(pair, side) for pair in pairs]) for side in ("query_key", "target_key")]
    return np.logical_or(*(key[:, None] == key[None] for key in keys))


def filtered_pairs(near_NN: np.ndarray, same_NN: np.ndarray, share: float) -> list[int]:
    """The queries whose own target is among the nearest `share` of what means another thing."""
    better_N = ((near_NN > near_NN.diagonal()[:, None]) & ~same_NN).sum(1)
    others_N = np.maximum(1, (~same_NN).sum(1))
    return np.flatnonzero(better_N <= share * others_N).tolist()


def neighbours(near_N: np.ndarray, same_N: np.ndarray, count: int) -> list[int]:
    """The `count` nearest targets that mean another thing, nearest first."""
    order = np.argsort(-np.where(same_N, -np.inf, near_N), kind="stable")
    return [int(at) for at in order[: min(count, int((~same_N).sum()))]]


def fused(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Reciprocal rank fusion of scores of the same things: the higher, the more of them rank it high."""
    ranks = [np.argsort(np.argsort(-score, kind="stable"), kind="stable") for score in scores]
    return sum((1.0 / (RRF_K + 1 + rank) for rank in ranks), np.zeros(len(scores[0])))
