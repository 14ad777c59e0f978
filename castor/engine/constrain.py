"""Replies held to a JSON schema or a regular expression, by llguidance (the extra `constrain`), or to some texts.

The library follows the grammar and says which pieces may come next; here it learns our tokenizer's pieces, bytes among
them, and its answer becomes a mask over the id space.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from castor.engine.sample import SamplingConfig
from castor.tokens.gemma import GemmaSpace
from castor.tokens.space import IdSpace
from castor.tokens.text import Tokenizer


class ConstraintError(RuntimeError):
    """A grammar that its library gave up on, being too complex."""


class Constraint:
    """One reply on its way through a grammar."""

    def __init__(self, matcher: Any, num_text: int, vocab_size: int, stop_id: int) -> None:
        self._matcher, self._num_text, self._vocab_size, self._stop_id = matcher, num_text, vocab_size, stop_id

    def allowed_V(self) -> torch.Tensor:
        """bool [V]: what may come next; the id that ends a turn where the text may end here."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        pieces = np.unpackbits(bits, bitorder="little")[: self._num_text + 1].astype(bool)
        allowed_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        allowed_V[: self._num_text] = torch.from_numpy(pieces[: self._num_text])
        allowed_V[self._stop_id] = bool(pieces[self._num_text])
        return allowed_V

    def take(self, token_id: int) -> None:
        """Go on with a piece that was allowed."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"the reply's grammar: {self._matcher.get_error()}")


class Choice:
    """One reply on its way to one of some texts, each as the tokenizer cuts it: a trie of ids, walked down."""

    def __init__(self, choices: Iterable[list[int]], vocab_size: int, stop_id: int) -> None:
        self._vocab_size = vocab_size
        self._next: dict[int, Any] = {}
        for ids in choices:
            node = self._next
            for token_id in (*ids, stop_id):
                node = node.setdefault(token_id, {})

    def allowed_V(self) -> torch.Tensor:
        """bool [V]: what goes on with one of the texts, or ends it."""
        allowed_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        allowed_V[list(self._next)] = True
        return allowed_V

    def take(self, token_id: int) -> None:
        """Go on with an id that was allowed."""
        self._next = self._next[token_id]


class Constrainer:
    """Makes constraints for one tokenizer; what the library learns of it is kept."""

    def __init__(self, tokenizer: Tokenizer, space: IdSpace | GemmaSpace, stop_id: int) -> None:
        self.tokenizer, self.space, self.stop_id = tokenizer, space, stop_id

    @functools.cached_property
    def _pieces(self) -> Any:
        library = _library()
        return library.LLTokenizer(library.TokenizerWrapper(_Pieces(self.tokenizer)))

    def of(self, sampling: SamplingConfig) -> Constraint | Choice | None:
        """What holds a reply that is drawn so; None where nothing does."""
        if sampling.response_schema is not None:
            return self.of_schema(sampling.response_schema)
        if sampling.response_regex is not None:
            return self.of_regex(sampling.response_regex)
        if sampling.response_grammar is not None:
            return self.of_grammar(sampling.response_grammar)
        return None if sampling.choices is None else self.of_choices(sampling.choices)

    def of_schema(self, schema: dict[str, Any]) -> Constraint:
        """Text that is JSON and valid under `schema`; ValueError where the schema is wrong or asks for the impossible.

        Bound strings, numbers and lists: a reply that reaches max_tokens inside one is cut off.
        """
        compact = {"whitespace_flexible": False}
        grammar = _library().LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=compact)
        return self._constraint(grammar, "schema")

    def of_regex(self, pattern: str) -> Constraint:
        """Text that the whole of a regular expression matches (Rust's dialect); ValueError where it is none."""
        return self._constraint(_library().LLMatcher.grammar_from_regex(pattern), "regex")

    def of_grammar(self, grammar: str) -> Constraint:
        """Ids that a grammar in llguidance's dialect of Lark derives; ValueError where it is none."""
        return self._constraint(_library().LLMatcher.grammar_from_lark(grammar), "grammar")

    def of_choices(self, choices: Sequence[str]) -> Choice:
        """One of these texts, without a library."""
        encoded = (self.tokenizer.encode(text) for text in choices)
        return Choice(encoded, self.space.vocab_size, self.stop_id)

    def _constraint(self, grammar: str, what: str) -> Constraint:
        matcher = _library().LLMatcher(self._pieces, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(f"response_{what}: {matcher.get_error()}")
        return Constraint(matcher, self.tokenizer.vocab_size, self.space.vocab_size, self.stop_id)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ValueError("a reply held to a grammar needs llguidance: pip install 'castor[constrain]'") from None
    return llguidance


class _Pieces:
    """Our tokenizer as the library wants to see it: every piece as bytes, and one id more for the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = [tokenizer.piece_bytes(index) for index in range(tokenizer.vocab_size)] + [None]
        self.tokens = [b"<special>" if piece is None else piece for piece in pieces]
        self.special_token_ids = [index for index, piece in enumerate(pieces) if piece is None]
        self.eos_token_id, self.bos_token_id = tokenizer.vocab_size, None

    def __call__(self, text: str | bytes) -> list[int]:
        return self.tokenizer.encode(text.decode() if isinstance(text, bytes) else text)
