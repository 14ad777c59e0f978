"""Vectors for both APIs: what a request asks for, the published task forms, and the course of such a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from castor.content import Message, Part, Text
from castor.engine.engine import QueueFull
from castor.server.answering import Answerer, Modality, Tokens
from castor.server.errors import ApiError
from castor.server.service import Service
from castor.tokens.sequence import Sequence

# What stands before a text, as EmbeddingGemma's model card gives it for each of the Gemini API's task types.
TASKS = {
    "TASK_TYPE_UNSPECIFIED": "",
    "RETRIEVAL_QUERY": "task: search result | query: ",
    "RETRIEVAL_DOCUMENT": "title: {title} | text: ",
    "SEMANTIC_SIMILARITY": "task: sentence similarity | query: ",
    "CLASSIFICATION": "task: classification | query: ",
    "CLUSTERING": "task: clustering | query: ",
    "QUESTION_ANSWERING": "task: question answering | query: ",
    "FACT_VERIFICATION": "task: fact checking | query: ",
    "CODE_RETRIEVAL_QUERY": "task: code retrieval | query: ",
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One vector: what it is made of, and how many numbers it has (None: all)."""

    parts: tuple[Part, ...]
    dimensions: int | None = None


class Vectors(NamedTuple):
    """Vectors of length 1, each float32, with the tokens of each prompt."""

    values: list[np.ndarray]
    tokens: list[Tokens]

    @property
    def total(self) -> dict[Modality, int]:
        """Tokens of all prompts together."""
        sums: dict[Modality, int] = {}
        for tokens in self.tokens:
            for modality, count in tokens.items():
                sums[modality] = sums.get(modality, 0) + count
        return sums


def with_task(parts: tuple[Part, ...], task: object, title: object, place: str) -> tuple[Part, ...]:
    """The parts with the words of a task before their first text. What begins with a medium carries no task."""
    if task is None and title is None:
        return parts
    name = "RETRIEVAL_DOCUMENT" if task is None else task
    if not isinstance(name, str) or name not in TASKS:
        raise ApiError(400, f"{place}taskType={name!r:.60} is not one of {', '.join(TASKS)}", field=f"{place}taskType")
    if title is not None and (name != "RETRIEVAL_DOCUMENT" or not isinstance(title, str)):
        raise ApiError(400, f"{place}title is a text, for taskType RETRIEVAL_DOCUMENT alone", field=f"{place}title")
    words = TASKS[name].format(title=title or "none")
    if not words or not parts or not isinstance(parts[0], Text):
        return parts
    return (Text(words + parts[0].text), *parts[1:])


async def embed(
    service: Service, name: str, make: Callable[[], list[Wish]], *, deadline_s: float | None = None
) -> Vectors:
    """The vectors of what `make` reads, which runs in a thread. ApiError: wrong, or too slow."""
    if service.models.find(name).facts.vector_dim is None:
        raise ApiError(400, f"{name} makes no vectors; models whose supportedGenerationMethods name embedContent do")
    async with service.models.use(name) as answerer:
        with answerer.place():
            try:
                async with asyncio.timeout(deadline_s):
                    found = await _embed(answerer, make, service.config.vector_tokens)
            except TimeoutError:
                raise ApiError(504, f"the vectors were not done within {deadline_s:g} s") from None
    service.measures.vectors.inc(len(found.values))
    service.measures.count_tokens("prompt", found.total)
    return found


async def _embed(answerer: Answerer, make: Callable[[], list[Wish]], most_tokens: int) -> Vectors:
    try:
        wishes, sequences, tokens = await answerer.in_thread(lambda: _read(answerer, make, most_tokens))
        pending: Future[torch.Tensor] = answerer.engine.submit_vectors(sequences)
        vectors_NE = await asyncio.wrap_future(pending)
    except QueueFull as error:
        raise ApiError(429, f"{error}; try again later", retry_after_s=1) from None
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    except RuntimeError:
        if not answerer.engine.is_closed:
            raise
        raise ApiError(503, "this server's model answers no more; the server must be started again") from None
    return Vectors([_cut(vector, wish.dimensions) for vector, wish in zip(vectors_NE, wishes, strict=True)], tokens)


def _read(
    answerer: Answerer, make: Callable[[], list[Wish]], most_tokens: int
) -> tuple[list[Wish], list[Sequence], list[Tokens]]:
    wishes, model = make(), answerer.model
    messages = [Message.user(*wish.parts) for wish in wishes]
    for wish in wishes:
        model.check_dimensions(wish.dimensions)
    sequences = [model.encode_vector([message]) for message in messages]
    for at, sequence in enumerate(sequences):
        if len(sequence) > most_tokens:
            message = f"vector {at} would be made of {len(sequence)} tokens; this server takes up to {most_tokens}"
            raise ValueError(message)
    counts = [answerer.count([message], sequence) for message, sequence in zip(messages, sequences, strict=True)]
    return wishes, sequences, counts


def _cut(vector_E: torch.Tensor, dimensions: int | None) -> np.ndarray:
    """The first numbers of a vector, of length 1 again."""
    return (vector_E if dimensions is None else F.normalize(vector_E[:dimensions], dim=0)).numpy()
