"""Renderer of published checkpoints that make vectors (EmbeddingGemma 2): what is embedded, without turns.

    <bos>TEXT<|image>PATCHES<image|>TEXT<eos>

Parts follow each other as transformers' `EmbeddingGemma2Processor` puts media in the place of their marks; what stands
before and after is said by the tokenizer's own post-processor. A task is a text before the text, by the names that the
checkpoint's `config_sentence_transformers.json` has for them; media carry no task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from castor.content import Message, Text
from castor.media.limits import Limits
from castor.tokens.gemma import GemmaRenderer
from castor.tokens.gemma_media import GemmaWriter
from castor.tokens.prompts import prompt_of
from castor.tokens.render import RenderConfig, parts_to_embed
from castor.tokens.sequence import Sequence
from castor.tokens.text_json import JsonTokenizer
from castor.tokens.video import VideoRule


class EmbeddingRenderer(GemmaRenderer):
    """Turns prompts into what a vector is made of. It writes no turns and asks for no reply."""

    NEEDED = ()

    def __init__(
        self,
        tokenizer: JsonTokenizer,
        vocab_size: int,
        config: RenderConfig | None = None,
        *,
        prompts: Mapping[str, str] | None = None,
        video: VideoRule | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`prompts` are the texts that stand before a text, by the name of the task."""
        super().__init__(tokenizer, vocab_size, config, video=video, limits=limits)
        self.prompts = dict(prompts or {})
        self._before, self._after = tokenizer.surroundings()

    def encode(self, messages: Iterable[Message], **writing: Any) -> Sequence:
        """The same as `encode_task` of the one message; ValueError where a reply, tools or thoughts are asked for."""
        if any(writing.values()):
            raise ValueError("this checkpoint makes vectors and writes no answers; use embed")
        return self.encode_task(list(messages))

    def encode_task(self, messages: list[Message], task: str | None = None) -> Sequence:
        """What the vector of one message of a user's is made of; ValueError names a task that has no text here."""
        parts = parts_to_embed(messages, task)
        writer = GemmaWriter(self)
        writer.ids(self._before)
        if task is not None:
            writer.text(self._prompt(task))
        for part in parts:
            if isinstance(part, Text):
                writer.text(part.text)
            else:
                writer.medium(part)
        writer.ids(self._after)
        return writer.finish()

    def _prompt(self, task: str) -> str:
        if not self.prompts:
            raise ValueError(f"task={task!r}: this checkpoint has no config_sentence_transformers.json with prompts")
        return prompt_of(task, self.prompts)
