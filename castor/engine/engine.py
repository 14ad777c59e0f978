"""Engine: many requests answered at once by one model, joining and leaving between steps.

Every request has a random generator and a grammar of its own, and no token sees another request's, so what else runs
does not change an answer, but for the rounding of matrix products of another size. Steps are made by whoever calls
`step`, or by a thread (`start`); everything else may be called from any thread.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from castor.content import Message
from castor.engine.constrain import Constrainer, ConstraintError
from castor.engine.forward import Forward, new_blocks
from castor.engine.request import Reason, Request, Said
from castor.engine.sample import SamplingConfig, grammar_of, pick
from castor.engine.schedule import Scheduler, Span
from castor.engine.vectors import VectorQueue
from castor.runtime import chosen
from castor.tokens.sequence import Sequence as Tokens

if TYPE_CHECKING:
    from castor.engine.model import Model


MEDIA_TOKENS = 4096  # of pictures and clips, remembered as they enter the layers
CACHE_TYPES = ("model", "int8")  # of keys and values: as the layers compute, or half of bfloat16


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much is done at once."""

    max_rows: int = 16  # requests that run at once
    token_budget: int = 512  # tokens computed in a step
    cache_tokens: int | None = None  # room for keys and values; None: from what memory is free
    max_waiting: int = 256  # requests that wait; more are refused
    block_tokens: int = 16  # tokens in a block of the cache
    reuse_prefixes: bool = True  # find beginnings of prompts that are already computed
    num_guesses: int | None = None  # ids guessed ahead for each of few that speak; None: as the model says
    cache_type: str | None = None  # of keys and values: "model" as the layers compute, "int8"; None: as the model says

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_waiting", "block_tokens", "cache_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.num_guesses is not None:
            check_guesses(self.num_guesses)
        if self.cache_type is not None:
            check_cache_type(self.cache_type)
        if self.token_budget <= self.max_rows:
            raise ValueError(f"token_budget={self.token_budget} must be more than max_rows={self.max_rows}")


def check_cache_type(name: str) -> None:
    """ValueError unless keys and values can be kept so."""
    if name not in CACHE_TYPES:
        raise ValueError(f"cache_type={name!r} is neither 'model' nor 'int8'")


def check_guesses(number: int) -> None:
    """ValueError for fewer than none."""
    if number < 0:
        raise ValueError(f"guess={number} must not be negative")


class QueueFull(RuntimeError):
    """As many requests wait as may; try again later."""


class Engine:
    """Answers requests with a model. `with Engine(model) as engine:` runs a thread that makes the steps."""

    def __init__(
        self, model: Model, config: EngineConfig | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """The model's weights must not change from here on: the cache would keep what they were."""
        self.model, self.config, self._clock = model, config or EngineConfig(), clock
        decoder, renderer, config = model.decoder, model.renderer, self.config
        self.answers = not decoder.config.text.sees_both_ways
        is_int8 = (config.cache_type or model.cache_type) == "int8"
        blocks = new_blocks(
            decoder,
            config.cache_tokens if self.answers else 1,
            max_rows=config.max_rows,
            block_tokens=config.block_tokens,
            token_budget=config.token_budget,
            is_int8=is_int8,
        )
        media_tokens = MEDIA_TOKENS if config.reuse_prefixes else 0
        compiled_rows = config.max_rows if chosen("CASTOR_STEPS", "own", "compiled") == "compiled" else 0
        self.forward = Forward(decoder, blocks, media_tokens=media_tokens, is_int8=is_int8, compiled_rows=compiled_rows)
        self.scheduler = Scheduler(
            blocks,
            max_rows=config.max_rows,
            token_budget=config.token_budget,
            reuse_prefixes=config.reuse_prefixes,
            num_guesses=model.num_guesses if config.num_guesses is None else config.num_guesses,
        )
        can_draw = model.codec is not None
        self._grammars = {wish: grammar_of(renderer.space, may_draw=wish and can_draw) for wish in (False, True)}
        self.constrainer = Constrainer(renderer.tokenizer, renderer.space, renderer.stop_id)
        self.vectors = VectorQueue(decoder, model.device, most_tokens=config.token_budget)
        self._inbox: deque[Request] = deque()
        self._arrivals = itertools.count()
        self._stepping, self._news = threading.Lock(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(
        self,
        messages: Sequence[Message],
        sampling: SamplingConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        thinking: bool = False,
        deadline_s: float | None = None,
        priority: int = 0,
    ) -> Request:
        """A request for the model's next turn, which waits until there is room.

        Of higher priority first, else in the order of arrival. After `deadline_s` seconds it ends with what it has.
        `tools` (function declarations in the Gemini API's form) and `thinking` are for published checkpoints.
        QueueFull where too many wait; ValueError where it could never be answered.
        """
        sequence = self.model.encode_prompt(list(messages), tools=tools, thinking=thinking)
        return self.submit_tokens(sequence, sampling, deadline_s=deadline_s, priority=priority)

    def submit_tokens(
        self,
        sequence: Tokens,
        sampling: SamplingConfig | None = None,
        *,
        deadline_s: float | None = None,
        priority: int = 0,
    ) -> Request:
        """`submit` for a prompt that is rendered already."""
        sampling = sampling or SamplingConfig()
        request = Request(
            sequence,
            sampling,
            self.model.renderer,
            block_tokens=self.config.block_tokens,
            order=(-priority, next(self._arrivals)),
            deadline_at_s=None if deadline_s is None else self._clock() + deadline_s,
            constraint=self.constrainer.of(sampling),
            clock=self._clock,
        )
        self._check(request)
        with self._news:
            if self._is_closed:
                raise RuntimeError("the engine is closed")
            if len(self._inbox) + self.scheduler.num_waiting >= self.config.max_waiting:
                raise QueueFull(f"{self.config.max_waiting} requests wait already")
            self._inbox.append(request)
            self._news.notify_all()
        return request

    def submit_vectors(self, sequences: Sequence[Tokens]) -> Future[torch.Tensor]:
        """One vector for every rendered prompt, float32 [N, E]; they are computed between the steps of answers.

        QueueFull where too many requests wait; ValueError where the model makes no vectors, or a prompt is too long.
        """
        with self._news:
            if self._is_closed:
                raise RuntimeError("the engine is closed")
            if len(self.vectors) >= self.config.max_waiting:
                raise QueueFull(f"{self.config.max_waiting} requests wait already")
            future = self.vectors.submit(sequences)
            self._news.notify_all()
        return future

    def _check(self, request: Request) -> None:
        if not self.answers:
            raise ValueError("this model makes vectors, it does not answer")
        decoder, sequence, most = self.model.decoder, request.sequence, request.sampling.max_tokens
        decoder.check_length(len(sequence), most)
        if len(sequence.patches_PC) and decoder.config.vision is None:
            raise ValueError("a picture for a model without vision")
        if len(sequence.frames_SF) and decoder.config.audio is None:
            raise ValueError("sound for a model without audio")
        if request.sampling.must_draw and self.model.codec is None:
            raise ValueError("must_draw: this model draws no pictures")
        if not self.scheduler.fits(request, len(sequence) + most):
            raise ValueError(
                f"{len(sequence)} tokens and an answer of up to {most} do not fit the engine's cache "
                f"(cache_tokens={self.config.cache_tokens})"
            )

    @property
    def is_closed(self) -> bool:
        """Whether it answers nothing any more: closed, or ended by an error."""
        return self._is_closed

    def step(self) -> bool:
        """Compute one step; False where nothing runs or waits."""
        with self._stepping:
            with self._news:
                while self._inbox:
                    self.scheduler.add(self._inbox.popleft())
            now_s = self._clock()
            for request in [*self.scheduler.running, *self.scheduler.waiting]:
                if (reason := request.overdue(now_s)) is not None:
                    self._end(request, reason)
            spans = self.scheduler.plan()
            if self.scheduler.exhausted is not None:
                self._end(self.scheduler.exhausted, "memory")
            elif not spans:
                assert not self.scheduler.running and not self.scheduler.waiting, "the earliest always gets on"
            if spans:
                logits_NV = self.forward.run(spans)
                for span in spans:
                    if span.guess is None:
                        self.scheduler.advance(span)
                self._say([span for span in spans if span.is_last], logits_NV)
            self.vectors.step()
            return bool(self.scheduler.running or self.scheduler.num_waiting or self._inbox or self.vectors)

    def _say(self, spans: Sequence[Span], logits_NV: torch.Tensor) -> None:
        """Choose the next id of every request, and what follows right guesses; end those that are done."""
        for span, logits_V in zip(spans, logits_NV, strict=True):
            request = span.request
            if span.guess is not None and not self._was_right(span):
                continue
            try:
                said = self._choose(request, logits_V)
            except ConstraintError as error:
                self._end(request, "error", str(error))
                continue
            if said.token_id in self.model.renderer.stop_ids:
                self._end(request, "stop")
                continue
            request.say(said)
            if (reason := self._over(request)) is not None:
                self._end(request, reason)

    def _was_right(self, span: Span) -> bool:
        """Whether a guess was said, so that its keys and values stay, and what follows it is known."""
        request = span.request
        if request.reason is not None or len(request.ids) != span.stop:  # one before it was wrong
            return False
        is_right = request.ids[-1] == span.guess
        request.lookup.count(is_right=is_right)
        if is_right:
            self.scheduler.advance(span)
        return is_right

    def _choose(self, request: Request, logits_V: torch.Tensor) -> Said:
        sampling, constraint = request.sampling, request.constraint
        grammar = self._grammars[sampling.may_draw]
        if constraint is None:
            allowed_V = grammar.allowed_V(request.said_ids, must_draw=sampling.must_draw)
        else:
            allowed_V = constraint.allowed_V()
        permitted_V = logits_V.masked_fill(~allowed_V, -torch.inf)
        token_id = pick(permitted_V, sampling, request.generator, is_code=grammar.is_code(allowed_V))
        if constraint is not None and token_id != self.model.renderer.stop_id:
            constraint.take(token_id)
        if sampling.logprobs is None:
            return Said(token_id)
        logprob_V = logits_V.log_softmax(-1)
        best = logprob_V.topk(sampling.logprobs)
        alternatives = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Said(token_id, float(logprob_V[token_id]), alternatives)

    def _over(self, request: Request) -> Reason | None:
        sampling, ids = request.sampling, request.said_ids
        if sampling.stop:
            text = request.renderer.tokenizer.decode([i for i in ids if i < request.renderer.space.num_text])
            if any(stop in text for stop in sampling.stop):
                return "stop"
        is_drawing = self._grammars[sampling.may_draw].is_drawing(ids)
        return "length" if len(ids) >= sampling.max_tokens and not is_drawing else None

    def _end(self, request: Request, reason: Reason, error: str = "") -> None:
        self.scheduler.remove(request)
        request.end(reason, error)

    def run(self) -> None:
        """Make steps until `close`, waiting while there is nothing to do. Should a step fail, all requests end."""
        error = "the engine's thread ended by an error"
        try:
            while not self._is_closed:
                if not self.step():
                    with self._news:
                        self._news.wait_for(lambda: self._inbox or self.vectors or self._is_closed)
            error = ""
        finally:
            self._end_all(error)

    def _end_all(self, error: str) -> None:
        with self._stepping, self._news:
            self._is_closed = True
            for request in [*self.scheduler.running, *self.scheduler.waiting]:
                self._end(request, "error" if error else "cancelled", error)
            while self._inbox:
                self._inbox.popleft().end("error" if error else "cancelled", error)
            self.vectors.end(error)

    def start(self) -> Engine:
        """Make steps in a thread from now on."""
        self._thread = threading.Thread(target=self.run, name="castor-engine", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop; what has not ended is cancelled."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._end_all("")

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
