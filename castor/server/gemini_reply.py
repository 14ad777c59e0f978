"""Answers in the Gemini API's form: chunks of a stream, one whole reply, and the use of tokens."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from castor.content import Image, Part, Text, part_to_json
from castor.server.answering import End, Modality
from castor.server.errors import ApiError, google_error
from castor.server.grounding import grounding
from castor.server.logprobs import gemini_logprobs
from castor.server.safety import gemini_ratings, text_of
from castor.server.service import Talk

RECENT = 4000  # letters of an answer that are looked at with every part of it
REASONS = {"stop": "STOP", "length": "MAX_TOKENS"}


async def chunks(talk: Talk, model_name: str) -> AsyncIterator[dict[str, Any]]:
    """GenerateContentResponse for GenerateContentResponse: one for each part, and one for each candidate's end."""
    head, watch = {"modelVersion": model_name, "responseId": secrets.token_urlsafe(12)}, Ratings(talk)
    if (feedback := watch.prompt()) is not None:
        yield {"promptFeedback": feedback, "usageMetadata": usage(talk), **head}
        return
    said: dict[int, list[dict[str, Any]]] = {}
    async for index, item in talk.items():
        candidate: dict[str, Any] = {"index": index}
        if (ratings := watch.blocking(index, item)) is not None:
            talk.stopped.add(index)
            candidate |= {"finishReason": "SAFETY", "safetyRatings": ratings}
        elif isinstance(item, End):
            candidate |= {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": REASONS[item.reason]}
            candidate |= watch.at_end(index)
            if talk.query.sources:
                candidate["groundingMetadata"] = grounding(talk.query.sources, said.get(index, []))
            if talk.query.samplings[index].logprobs is not None:
                candidate |= gemini_logprobs(item.said, talk.answerer.model.tokenizer)
        elif is_wanted(talk, item):
            candidate["content"] = {"role": "model", "parts": [part_to_json(item)]}
            if talk.query.sources:
                _join(said.setdefault(index, []), part_to_json(item))
        else:
            continue
        yield {"candidates": [candidate], "usageMetadata": usage(talk), **head}


class Ratings:
    """Safety ratings of a prompt, and of each candidate as it comes; none where the server has no classifier."""

    def __init__(self, talk: Talk) -> None:
        self._classifier, self._query = talk.service.classifier, talk.query
        self._texts: dict[int, str] = {}

    def prompt(self) -> dict[str, Any] | None:
        """promptFeedback of a prompt that is blocked."""
        if self._classifier is None or not self._query.blocks:
            return None
        scores = self._classifier.scores(text_of(self._query.messages))
        ratings, is_blocked = gemini_ratings(scores, self._query.blocks)
        return {"blockReason": "SAFETY", "safetyRatings": ratings} if is_blocked else None

    def blocking(self, index: int, item: Part | End) -> list[dict[str, Any]] | None:
        """The ratings of a candidate that is blocked from this part on."""
        if self._classifier is None or not isinstance(item, Text):
            return None
        self._texts[index] = self._texts.get(index, "") + item.text
        if not self._query.blocks:
            return None
        recent = self._texts[index][-RECENT:]  # what was there before has been looked at
        ratings, is_blocked = gemini_ratings(self._classifier.scores(recent), self._query.blocks)
        return ratings if is_blocked else None

    def at_end(self, index: int) -> dict[str, Any]:
        """safetyRatings of a whole candidate."""
        if self._classifier is None:
            return {}
        scores = self._classifier.scores(self._texts.get(index, ""))
        return {"safetyRatings": gemini_ratings(scores, {})[0]}


def is_wanted(talk: Talk, part: Part) -> bool:
    """Whether the request asked to be given a part of this kind."""
    if isinstance(part, Text):
        return talk.query.shows_thoughts if part.thought else talk.query.writes
    return not isinstance(part, Image) or talk.query.draws


async def whole_reply(pieces: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """All chunks as one reply: neighbouring texts of a candidate joined."""
    reply: dict[str, Any] = {}
    candidates: dict[int, dict[str, Any]] = {}
    async for piece in pieces:
        reply |= piece
        if "candidates" not in piece:
            continue
        [candidate] = piece["candidates"]
        kept = candidates.setdefault(
            candidate["index"], {"index": candidate["index"], "content": {"role": "model", "parts": []}}
        )
        kept |= {key: value for key, value in candidate.items() if key not in ("index", "content")}
        for part in candidate.get("content", {}).get("parts", ()):
            _join(kept["content"]["parts"], part)
        if candidate.get("finishReason") == "SAFETY":
            del kept["content"]
    return {**reply, "candidates": list(candidates.values())} if candidates else reply


def _join(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    if parts and "text" in part and "text" in parts[-1] and part.get("thought") == parts[-1].get("thought"):
        parts[-1] = {**parts[-1], "text": parts[-1]["text"] + part["text"]}
    elif part != {"text": ""} or not parts:
        parts.append(part)


def usage(talk: Talk) -> dict[str, Any]:
    """usageMetadata with the counts of each modality that occurs; those of an answer are without its thoughts."""
    prompt, said, thought = talk.prompt, talk.answered, talk.num_thought
    num_prompt, num_found, num_said = (sum(tokens.values()) for tokens in (prompt.tokens, prompt.found, said))
    found = {"toolUsePromptTokenCount": num_found, "toolUsePromptTokensDetails": details(prompt.found)}
    return {
        "promptTokenCount": num_prompt,
        "candidatesTokenCount": num_said,
        "totalTokenCount": num_prompt + num_found + num_said + thought,
        "promptTokensDetails": details(prompt.tokens),
        "candidatesTokensDetails": details(said),
        **({"thoughtsTokenCount": thought} if thought else {}),
        **(found if num_found else {}),
        **({"cachedContentTokenCount": talk.num_reused} if talk.num_reused else {}),
    }


def details(tokens: Mapping[Modality, int]) -> list[dict[str, Any]]:
    """[{"modality": "TEXT", "tokenCount": 3}, ...] without zeros."""
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items() if count]


async def as_events(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Server-sent events exactly as Google's clients take them: one line of ASCII each, no comments, no end mark."""
    async for piece in told(pieces):
        yield _event(piece)


async def as_array(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """One JSON array, an element at a time."""
    opening = b"["
    async for piece in told(pieces):
        yield opening + json.dumps(piece).encode()
        opening = b",\r\n"
    yield b"]"


async def told(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The pieces; an error in their midst as a last piece, as the status has been sent."""
    try:
        async for piece in pieces:
            yield piece
    except ApiError as error:
        yield google_error(error)


def _event(piece: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(piece).encode() + b"\r\n\r\n"
