"""Log-probabilities of what was said in the forms of both APIs: the model's own, before temperature and grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from castor.engine.request import Said
from castor.tokens.text import Tokenizer

MOST_ALTERNATIVES = 20


def gemini_logprobs(said: Sequence[Said], tokenizer: Tokenizer) -> dict[str, Any]:
    """A candidate's avgLogprobs and logprobsResult."""

    def one(token_id: int, logprob: float | None) -> dict[str, Any]:
        text = _piece(token_id, tokenizer).decode(errors="replace")
        return {"token": text, "tokenId": token_id, "logProbability": logprob}

    result: dict[str, Any] = {"chosenCandidates": [one(item.token_id, item.logprob) for item in said]}
    if any(item.alternatives for item in said):
        result["topCandidates"] = [{"candidates": [one(*other) for other in item.alternatives]} for item in said]
    mean = sum(item.logprob or 0.0 for item in said) / max(len(said), 1)
    return {"avgLogprobs": mean, "logprobsResult": result}


def openai_logprobs(said: Sequence[Said], tokenizer: Tokenizer) -> dict[str, Any]:
    """A choice's logprobs."""

    def one(token_id: int, logprob: float | None) -> dict[str, Any]:
        piece = _piece(token_id, tokenizer)
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    content = [
        {**one(item.token_id, item.logprob), "top_logprobs": [one(*other) for other in item.alternatives]}
        for item in said
    ]
    return {"content": content, "refusal": None}


def _piece(token_id: int, tokenizer: Tokenizer) -> bytes:
    """The bytes that an id adds to a text; none for special ids and codes of pictures."""
    return (tokenizer.piece_bytes(token_id) or b"") if token_id < tokenizer.vocab_size else b""
