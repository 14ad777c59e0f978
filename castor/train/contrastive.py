"""The contrastive objective of Gemini Embedding 2 (arXiv 2605.27295, equation 2), exact for batches of any size.

For query i with its target, at most one hard negative, and temperature tau:

    -log  e^(q.t/tau) / ( e^(q.t/tau) + e^(q.n/tau) + sum_j mask(i, j) e^(q_i.t_j/tau) )

mask(i, j) is 0 where the queries or the targets of i and j are the same, so that duplicates are no negatives (the
diagonal is one of them). Queries are never compared with queries, nor targets with targets, unless `same_tower`. The
loss is taken on nested prefixes of the vectors (Matryoshka, Kusupati et al. 2022) and averaged over them.

A teacher's similarities may be learned beside it (Hinton et al. 2015): of each query, the divergence of the targets'
probabilities from those that the teacher's vectors give them, among the pairs of one process.

A batch that is too large for its activations runs in chunks twice: first for the vectors, then, once their gradients
are known, for those of the weights (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory
limited setup"). Vectors of several processes are gathered; each takes the gradient of the whole loss with regard to
its own ones, so that a step gives what one process with all pairs would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from castor.models.decoder import Decoder
from castor.tokens.pairs import PairBatch
from castor.train.gradients import LossTerms


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """What the loss is made of."""

    temperature: float = 0.05
    dimensions: tuple[int, ...] = (256, 128, 64, 32)  # of the nested prefixes; the first is the whole vector
    both_ways: bool = True  # also from target to query, which the paper's loss leaves out
    duplicate_mask: bool = True
    same_tower: bool = False  # queries are negatives of queries, too, and targets of targets
    hold_chunks: int = 16  # a part of more chunks than this runs twice instead of keeping its activations

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        if not self.dimensions or list(self.dimensions) != sorted(set(self.dimensions), reverse=True):
            raise ValueError(f"dimensions={self.dimensions} must fall, the whole vector first")
        if self.hold_chunks < 0:
            raise ValueError(f"hold_chunks={self.hold_chunks} must not be negative")


@dataclass(frozen=True)
class PairVectors:
    """Vectors before they get length 1, float32: queries [N, E], targets [N, E], negatives [N, E] where there are any.

    has_negative_N bool; keys_N2 int64, equal where two queries or two targets are the same.
    """

    query_NE: torch.Tensor
    target_NE: torch.Tensor
    negative_NE: torch.Tensor
    has_negative_N: torch.Tensor
    keys_N2: torch.Tensor

    @staticmethod
    def joined(parts: Sequence[PairVectors]) -> PairVectors:
        """Those of several processes, end to end."""
        names = PairVectors.__dataclass_fields__
        return PairVectors(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


class Gather(Protocol):
    """Brings together what the processes of a step have."""

    num_parts: int

    def __call__(self, part: PairVectors, rank: int) -> list[PairVectors]:
        """The parts of all, in their order; this one's is what was given, with its gradient."""
        ...


def pair_losses(vectors: PairVectors, config: ContrastiveConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(the loss of every pair [N], whether its target is nearest [N] by the whole vectors)."""
    keys_N2 = vectors.keys_N2
    if config.duplicate_mask:
        same_NN = (keys_N2[:, None] == keys_N2[None]).any(-1)
    else:
        same_NN = torch.eye(len(keys_N2), dtype=torch.bool, device=keys_N2.device)
    found: list[torch.Tensor] = []
    right_N = torch.zeros(len(keys_N2), dtype=torch.bool)
    for dim in config.dimensions:
        query, target, negative = (
            F.normalize(x_NE[:, :dim], dim=-1) for x_NE in (vectors.query_NE, vectors.target_NE, vectors.negative_NE)
        )
        logits_NN = query @ target.T / config.temperature
        own_N = logits_NN.diagonal()
        others_NN = logits_NN.masked_fill(same_NN, -torch.inf)
        hard_N1 = ((query * negative).sum(-1) / config.temperature).masked_fill(~vectors.has_negative_N, -torch.inf)
        ways = [torch.cat([own_N[:, None], hard_N1[:, None], others_NN], dim=1)]
        if config.same_tower:
            ways = [torch.cat([ways[0], _among(query, same_NN, config.temperature)], dim=1)]
        if dim == config.dimensions[0]:
            right_N = ways[0].argmax(1) == 0
        if config.both_ways:
            back = torch.cat([own_N[:, None], others_NN.T], dim=1)
            if config.same_tower:
                back = torch.cat([back, _among(target, same_NN, config.temperature)], dim=1)
            ways.append(back)
        found += [way.logsumexp(1) - own_N for way in ways]
    return torch.stack(found).mean(0), right_N


def _among(x_NE: torch.Tensor, same_NN: torch.Tensor, temperature: float) -> torch.Tensor:
    """Similarities among vectors of one side, those of the same meaning left out."""
    return (x_NE @ x_NE.T / temperature).masked_fill(same_NN, -torch.inf)


def divergence(own: PairVectors, teacher: PairVectors, temperature: float) -> torch.Tensor:
    """How far each query's probabilities of all targets are from the teacher's, nats, [N]."""
    log_p, log_t = (
        F.log_softmax(F.normalize(x.query_NE, dim=-1) @ F.normalize(x.target_NE, dim=-1).T / temperature, dim=1)
        for x in (own, teacher)
    )
    return F.kl_div(log_p, log_t, reduction="none", log_target=True).sum(1)


def embed_chunks(model: Decoder, batch: PairBatch, *, twice: bool) -> torch.Tensor:
    """Vectors of all documents in the order of `slot_Y`, [Y, E], not of length 1; `twice` keeps no activations."""
    if not twice or not torch.is_grad_enabled():
        return torch.cat([model.vectors(chunk, unit=False) for chunk in batch.chunks])
    entry = torch.zeros((), device=batch.slot_Y.device, requires_grad=True)  # what makes autograd call back
    return _Twice.apply(entry, model, batch)


class _Twice(torch.autograd.Function):
    """Vectors without activations; the backward pass runs each chunk again and goes through it at once."""

    @staticmethod
    def forward(ctx: Any, entry: torch.Tensor, model: Decoder, batch: PairBatch) -> torch.Tensor:
        device = entry.device.type
        ctx.model, ctx.batch = model, batch
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }
        return torch.cat([model.vectors(chunk, unit=False) for chunk in batch.chunks])

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[None, None, None]:
        first = 0
        for chunk in ctx.batch.chunks:
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                vectors_YE = ctx.model.vectors(chunk, unit=False)
            torch.autograd.backward(vectors_YE, slopes[0][first : first + len(vectors_YE)])
            first += len(vectors_YE)
        return None, None, None


def vectors_of(model: Decoder, batch: PairBatch, *, twice: bool = False) -> PairVectors:
    """The vectors of a batch's pairs, each in its place."""
    vectors_YE = embed_chunks(model, batch, twice=twice)
    slots = vectors_YE.new_zeros(3 * len(batch), vectors_YE.shape[1])
    slots = slots.index_copy(0, batch.slot_Y, vectors_YE)
    query_NE, target_NE, negative_NE = slots.chunk(3)
    return PairVectors(query_NE, target_NE, negative_NE, batch.has_negative_N, batch.keys_N2)


def contrastive(
    model: Decoder,
    config: ContrastiveConfig,
    gather: Gather | None = None,
    *,
    teacher: Decoder | None = None,
    teaching: float = 1.0,
) -> Callable[[PairBatch], LossTerms]:
    """A loss over the pairs of all processes; each reports its share of sum and count, with the whole gradient.

    `teaching` is the weight of the divergence from a teacher.

    Metrics: the mean loss, the share of pairs whose target was nearest, and the pairs that were compared.
    """

    def loss(batch: PairBatch) -> LossTerms:
        own = vectors_of(model, batch, twice=len(batch.chunks) > config.hold_chunks)
        parts = [own] if gather is None else gather(own, batch.rank)
        with torch.autocast(own.query_NE.device.type, enabled=False):
            losses_N, right_N = pair_losses(PairVectors.joined(parts), config)
        share = 1.0 / len(parts)
        whole = losses_N.sum()
        total = whole - whole.detach() * (1.0 - share)  # value of a share, gradient of the whole
        count = torch.tensor(len(losses_N) * share)
        metrics = {
            "pair_loss": total.detach(),
            "nearest": right_N.sum() * share,
            "pair_loss_count": count,
            "nearest_count": count,
            "compared": count * len(losses_N),
            "compared_count": count,
        }
        if teacher is not None:
            with torch.no_grad():
                taught = vectors_of(teacher, batch)
            with torch.autocast(own.query_NE.device.type, enabled=False):
                apart = divergence(own, taught, config.temperature).sum()
            total = total + teaching * apart
            metrics |= {"apart": apart.detach(), "apart_count": torch.tensor(float(len(batch)))}
        return total, count, metrics

    return loss
