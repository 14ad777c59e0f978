"""Reading and writing through the engine, as requests find it: prompts of random words, answers that do not end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from castor.bench.subject import Cost
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import PREFILL_TOKENS, Model
from castor.engine.request import Request, Said
from castor.engine.sample import SamplingConfig
from castor.tokens.sequence import Sequence

PLAIN = 5  # an id that means nothing, said in place of one that would end an answer


@dataclass(frozen=True, kw_only=True)
class Point:
    """Figures of some requests at once with prompts of some length; medians."""

    batch: int
    context: int
    first_s: float  # until every request has its first token
    prefill_per_s: float  # tokens of prompts
    decode_per_s: float  # tokens of answers, all requests together
    bandwidth_share: float  # of what memory gives, by the bytes that a step must read
    matrix_share: float  # of what matrix units do, while prompts are read


class Unending(Engine):
    """Answers that go on until they are long enough."""

    def _choose(self, request: Request, logits_V: torch.Tensor) -> Said:
        said = super()._choose(request, logits_V)
        return Said(PLAIN) if said.token_id in self.model.renderer.stop_ids else said


def measure(
    model: Model,
    cost: Cost,
    batch: int,
    context: int,
    *,
    tokens: int,
    rounds: int,
    cache_type: str,
    bytes_per_s: float,
    flops: float,
    progress: Callable[[], None],
) -> Point:
    """One point of the table; the first round warms up."""
    firsts, steps = [], []
    for number in range(rounds + 1):
        first_s, step_s = _round(model, batch, context, tokens, cache_type)
        progress()
        if number:
            firsts.append(first_s)
            steps.append(median(step_s))
    first_s, step_s = median(firsts), median(steps)
    text = model.decoder.config.text
    attended = 2 * sum(  # of one token, on average: scores and sums over what is before it
        text.num_attention_heads * text.kind_head_dim(kind) * context for kind in text.layer_types or ()
    )
    read_bytes = cost.weight_bytes + batch * (context + tokens / 2) * cost.cache_bytes
    return Point(
        batch=batch,
        context=context,
        first_s=first_s,
        prefill_per_s=batch * context / first_s,
        decode_per_s=batch / step_s,
        bandwidth_share=read_bytes / step_s / bytes_per_s,
        matrix_share=batch * context * (2 * cost.num_multiplied + attended) / first_s / flops,
    )


def answer_tokens(batch: int, context: int, tokens: int) -> int:
    """How long an answer may get: requests that are read first go on writing while the others are still read."""
    return -(-batch * context // max(1, PREFILL_TOKENS - batch)) + tokens + 1


def _round(model: Model, batch: int, context: int, tokens: int, cache_type: str) -> tuple[float, list[float]]:
    """Seconds to the first token of all requests, and of `tokens` steps after it."""
    longest = context + answer_tokens(batch, context, tokens)
    config = EngineConfig(
        max_rows=batch,
        token_budget=PREFILL_TOKENS,
        cache_tokens=batch * (longest + 2 * EngineConfig.block_tokens),
        reuse_prefixes=False,
        num_guesses=0,
        cache_type=cache_type,
    )
    engine = Unending(model, config)
    sampling = SamplingConfig(max_tokens=longest - context, may_draw=False)
    requests = [engine.submit_tokens(random_prompt(model, context, seed), sampling) for seed in range(batch)]
    start_s = time.perf_counter()
    while not all(request.said for request in requests):
        engine.step()
    first_s, seconds = time.perf_counter() - start_s, []
    for _ in range(tokens):
        start_s = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start_s)
    engine.close()
    return first_s, seconds


def random_prompt(model: Model, context: int, seed: int) -> Sequence:
    """`context` ids of words."""
    rng = np.random.default_rng(seed)
    most = min(model.tokenizer.vocab_size, model.decoder.config.text.vocab_size)
    ids_T = rng.integers(300 if most > 600 else most // 2, most, context).astype(np.int32)
    nothing = np.zeros(0, dtype=np.int32)
    return Sequence(
        ids_T=ids_T,
        is_target_T=np.zeros(context, dtype=bool),
        block_T=np.full(context, -1, dtype=np.int32),
        patches_PC=np.zeros((0, 0), dtype=np.uint8),
        patch_xy_P2=np.zeros((0, 2), dtype=np.int32),
        patch_at_P=nothing,
        frames_SF=np.zeros((0, 0), dtype=np.float32),
        frame_at_S=nothing,
        clip_S=nothing,
    )
