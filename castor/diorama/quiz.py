"""Quiz: questions and answers over shared media, put together as an Example.

Leaves out where the media and the questions come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from castor.content import Message, Part
from castor.diorama.draw import Draw
from castor.example import Example


@dataclass(frozen=True)
class Asked:
    """One question with its answer."""

    question: str
    answer: str
    kind: str  # the sort of question, a tag of the example
    final: str = ""  # what worked steps end in, where the answer has steps


def quiz(
    draw: Draw,
    media: Sequence[Part],
    asked: Sequence[Asked],
    meta: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> Example:
    """Media and first question in one user message (question last, or one time in four first), then the rest.

    `meta["answer"]` is the last turn's final answer, `meta["question_kind"]` its sort.
    """
    if not asked:
        raise ValueError(f"{draw.task}: a quiz needs at least one question")
    question_first = bool(media) and draw.rng.random() < 0.25
    opening = [asked[0].question, *media] if question_first else [*media, asked[0].question]
    messages = [Message.user(*opening), Message.model(asked[0].answer)]
    for each in asked[1:]:
        messages += [Message.user(each.question), Message.model(each.answer)]
    last = asked[-1]
    return Example(
        messages=tuple(messages),
        task=draw.task,
        language=draw.language,
        tags=(last.kind, *tags),
        meta={"question_kind": last.kind, "answer": last.final or last.answer, **(meta or {})},
    )
