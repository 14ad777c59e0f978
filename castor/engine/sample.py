"""Sampling: from logits to one id, and what a next id may be at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from castor.tokens.space import MAX_GRID, GemmaSpace, IdSpace


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a reply is drawn. Temperature 0 takes the likeliest id; top_k and top_p narrow what may be drawn.

    Pictures have a temperature of their own: a model that is unsure of shape or colour paints mixtures at a high one,
    and blank ground, the likeliest code at every single place, at none.
    """

    max_tokens: int = 256  # a begun picture is finished even past it
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    image_temperature: float = 0.4  # of picture codes
    seed: int = 0
    stop: tuple[str, ...] = ()  # texts that end the reply and are left out of it
    logprobs: int | None = None  # 0: the log-probability of what was said; k: those of the k likeliest ids besides
    response_schema: dict[str, Any] | None = None  # JSON schema: the reply is JSON and valid, and has no pictures
    may_draw: bool = True  # where the model can: False keeps pictures out of the reply
    must_draw: bool = False  # the reply begins with a picture
    response_regex: str | None = None  # the reply is a text that all of this matches
    response_grammar: str | None = None  # the reply follows this grammar (Lark as llguidance reads it), special ids too
    choices: tuple[str, ...] | None = None  # the reply is one of these texts

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1")
        for name in ("temperature", "image_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and 0 or more")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} does not fit 64 bits")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.logprobs is not None and not 0 <= self.logprobs <= 100:
            raise ValueError(f"logprobs={self.logprobs} must be 0 to 100")
        held = (self.response_schema, self.response_regex, self.response_grammar, self.choices)
        if self.must_draw and (not self.may_draw or any(each is not None for each in held)):
            raise ValueError(
                "must_draw: a reply cannot begin with a picture and have none, or be held to a form of text"
            )
        if sum(each is not None for each in held) > 1:
            raise ValueError(
                "response_schema, response_regex, response_grammar, choices: only one of them can hold a reply"
            )
        if self.choices is not None and (not self.choices or "" in self.choices):
            raise ValueError(f"choices={self.choices!r} must be one text or more, and none of them empty")
        if "" in self.stop:
            raise ValueError("a stop text must not be empty")


def pick(
    logits_V: torch.Tensor, config: SamplingConfig, generator: torch.Generator | None, *, is_code: bool = False
) -> int:
    """One id drawn from float logits in which what may not be said is -inf."""
    temperature = config.image_temperature if is_code else config.temperature
    if temperature < 1e-6:  # numbers near the smallest there are may count as zero, and must not divide
        return int(logits_V.argmax())
    logits_V = (logits_V.float() - logits_V.max()) / temperature  # the likeliest at 0: no temperature overflows
    if config.top_k is not None and config.top_k < logits_V.numel():
        threshold = logits_V.topk(config.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < threshold, -torch.inf)
    probability_V = logits_V.softmax(-1)
    if config.top_p < 1:
        ordered, index = probability_V.sort(descending=True, stable=True)
        beyond = ordered.cumsum(0) - ordered >= config.top_p
        probability_V = probability_V.index_fill(0, index[beyond], 0.0)
    return int(torch.multinomial(probability_V, 1, generator=generator))


class Grammar:
    """What a reply may say next: text, the end, or a picture; a begun picture is held to its grid of codes."""

    def __init__(self, space: IdSpace | GemmaSpace, *, may_draw: bool, max_cells: int = 1024) -> None:
        self.space, self.max_cells = space, max_cells
        self._brackets = space.special("<|draw>"), space.special("<draw|>")
        code = torch.zeros(space.vocab_size, dtype=torch.bool)
        code[space.first_code : space.end] = True
        self._text, self._code = _sayable_V(space), code
        self._text[space.special("<|draw>")] = may_draw

    def allowed_V(self, said: list[int], *, must_draw: bool = False) -> torch.Tensor:
        """bool [V] after the ids `said` so far in this reply, which begins with a picture where it `must_draw`."""
        if must_draw and not said:
            return self._only(self.space.special("<|draw>"))
        open_ids = self._open_drawing(said)
        if open_ids is None:
            return self._text
        if len(open_ids) < 2:
            return self._grid(self.max_cells // (self.space.cells(open_ids[0]) if open_ids else 1))
        num_codes = self.space.cells(open_ids[0]) * self.space.cells(open_ids[1])
        return self._code if len(open_ids) - 2 < num_codes else self._only(self.space.special("<draw|>"))

    def is_code(self, allowed_V: torch.Tensor) -> bool:
        """Whether what `allowed_V` gave leaves image codes alone."""
        return allowed_V is self._code

    def is_drawing(self, said: list[int]) -> bool:
        """Whether a picture is begun and not ended."""
        return self._open_drawing(said) is not None

    def _open_drawing(self, said: list[int]) -> list[int] | None:
        begin, end = self._brackets
        if begin not in said:
            return None
        for index in range(len(said) - 1, -1, -1):
            if said[index] == end:
                return None
            if said[index] == begin:
                return said[index + 1 :]
        return None

    def _grid(self, most: int) -> torch.Tensor:
        allowed = torch.zeros_like(self._text)
        allowed[self.space.grid(1) : self.space.grid(min(most, MAX_GRID)) + 1] = True
        return allowed

    def _only(self, token_id: int) -> torch.Tensor:
        allowed = torch.zeros_like(self._text)
        allowed[token_id] = True
        return allowed


class OpenGrammar:
    """What a published checkpoint that draws nothing may say: every id but those that it suppresses itself."""

    max_cells = 0

    def __init__(self, space: GemmaSpace) -> None:
        self._allowed = _sayable_V(space)

    def allowed_V(self, said: list[int], *, must_draw: bool = False) -> torch.Tensor:
        """bool [V], whatever was said so far."""
        assert not must_draw
        return self._allowed

    def is_code(self, allowed_V: torch.Tensor) -> bool:
        """Never."""
        return False

    def is_drawing(self, said: list[int]) -> bool:
        """Never."""
        return False


def _sayable_V(space: IdSpace | GemmaSpace) -> torch.Tensor:
    """bool [V]: the ids outside drawings."""
    allowed_V = torch.zeros(space.vocab_size, dtype=torch.bool)
    if isinstance(space, GemmaSpace):
        allowed_V[: space.num_text] = True
        allowed_V[list(space.suppressed)] = False
    else:
        allowed_V[4 : space.num_text] = True  # pad, end and beginning of sequence and the unknown piece are never said
        allowed_V[space.special("<turn|>")] = True
    return allowed_V


def grammar_of(space: IdSpace | GemmaSpace, *, may_draw: bool) -> Grammar | OpenGrammar:
    """The grammar of replies in this id space."""
    if isinstance(space, GemmaSpace) and not space.num_codes:
        return OpenGrammar(space)
    return Grammar(space, may_draw=may_draw)
