"""One line of JSON per answer: what was asked, wanted and answered, and its scores.  Media are left out."""

import json
from collections.abc import Mapping
from typing import Any

from castor.content import Message, Text
from castor.example import Example


def record(example: Example, answer: Message, scores: Mapping[str, float]) -> dict[str, Any]:
    """A record as JSON values; a media part is shown by its kind only, {"omitted": "image"}."""
    return {
        "task": example.task,
        "language": example.language,
        "tags": list(example.tags),
        "prompt": [without_media(message) for message in example.prompt],
        "reference": without_media(example.answer),
        "answer": without_media(answer),
        "scores": dict(scores),
    }


def record_line(example: Example, answer: Message, scores: Mapping[str, float]) -> str:
    """A record as a line of JSON, its end included."""
    return json.dumps(record(example, answer, scores), ensure_ascii=False) + "\n"


def without_media(message: Message) -> dict[str, Any]:
    """A message as JSON whose media parts are replaced by the name of their kind."""
    parts = [
        {"text": part.text} if isinstance(part, Text) else {"omitted": type(part).__name__.lower()}
        for part in message.parts
    ]
    return {"role": message.role, "parts": parts}
