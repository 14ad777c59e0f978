"""Examples kept from fine-tuning: the loss on them and the answers to them, before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from castor.content import Message, Text
from castor.data.epochs import packed
from castor.data.own import OwnExamples
from castor.engine.model import Model
from castor.example import Example
from castor.tasks.scores import exact_match
from castor.train.gradients import LossFunction

SHOWN = 3  # answers printed
BATCH_SIZE = 16


class HeldOut:
    """The examples numbered `indices`, which no training step sees."""

    def __init__(
        self, examples: OwnExamples, indices: Sequence[int], pack: Callable[[Sequence[Any], int], Any] = packed
    ) -> None:
        """`pack` makes a batch of rendered examples and the tokens of a row."""
        self.examples, self.indices, self.pack = examples, list(indices), pack

    @torch.no_grad()
    def loss(self, loss: LossFunction, device: str, precision: str) -> dict[str, float]:
        """Mean nats of a token that the model should have said; of pairs, of one, and the share found first."""
        total = count = nearest = 0.0
        is_pairs = False
        for at in range(0, len(self.indices), BATCH_SIZE):
            sequences = [self.examples.sequence(index) for index in self.indices[at : at + BATCH_SIZE]]
            batch = self.pack(sequences, self.examples.row_tokens).to(device)
            with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                part_sum, part_count, metrics = loss(batch)
            total, count = total + float(part_sum), count + float(part_count)
            is_pairs, nearest = "nearest" in metrics, nearest + float(metrics.get("nearest", 0.0))
        if not count:
            return {}
        return {"loss": total / count} | ({"nearest": nearest / count} if is_pairs else {})

    def answers(self, model: Model, most: int, max_tokens: int) -> dict[str, Any]:
        """The model's answers to up to `most` of the prompts, and the share equal to the wanted words.

        Answers with pictures are given, and not compared.
        """
        room = model.decoder.config.text.max_position_embeddings - max_tokens
        fitting = [index for index in self.indices if self.examples.lengths[index] <= room]
        asked = [example for example in map(self.examples.example, fitting[:most]) if example.prompt]
        if not asked:
            return {}
        said: list[Message] = []
        for at in range(0, len(asked), BATCH_SIZE):
            prompts = [list(example.prompt) for example in asked[at : at + BATCH_SIZE]]
            said += model.generate_batch(prompts, max_tokens=max_tokens)
        pairs = zip(asked, said, strict=True)
        scores = [exact_match(example, answer) for example, answer in pairs if not example.answer.images]
        return {
            "exact": sum(scores) / len(scores) if scores else None,
            "answers": [_row(example, answer) for example, answer in zip(asked, said, strict=True)],
        }


def _row(example: Example, answer: Message) -> dict[str, str]:
    asked, wanted = in_words(example.prompt[-1:]), in_words([example.answer])
    return {"asked": asked, "wanted": wanted, "said": in_words([answer])}


def in_words(messages: Sequence[Message]) -> str:
    """What messages hold, media as the name of their kind."""
    parts = [part for message in messages for part in message.parts]
    return " ".join(part.text if isinstance(part, Text) else f"[{type(part).__name__.lower()}]" for part in parts)


def told(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Lines for a person: the figures, and a few answers."""
    if not before:
        yield "no examples were held out, so nothing was measured (held_out=0.1 keeps a tenth)"
        return
    unit = "pair" if "nearest" in before else "token"
    yield f"held-out loss: {before['loss']:.3f} nats a {unit} before, {after['loss']:.3f} after"
    if "nearest" in before:
        shares = f"{before['nearest']:.0%} before, {after['nearest']:.0%} after"
        yield f"held-out queries whose target is the nearest of up to {BATCH_SIZE}: {shares}"
    if before.get("exact") is not None:
        yield f"held-out answers that are right to the word: {before['exact']:.0%} before, {after['exact']:.0%} after"
    for then, now in list(zip(before.get("answers", ()), after.get("answers", ()), strict=True))[:SHOWN]:
        yield f"  asked   {now['asked']:.100}"
        yield f"  wanted  {now['wanted']:.100}"
        yield f"  before  {then['said']:.100}"
        yield f"  after   {now['said']:.100}"
