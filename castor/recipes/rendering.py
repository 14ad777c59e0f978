"""The renderer of a run, and examples rendered in whatever process they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castor.example import Example
from castor.models.codec import ImageCodec
from castor.tokens.render import RenderConfig, Renderer
from castor.tokens.space import IdSpace
from castor.tokens.text import Tokenizer


def make_renderer(folder: str | Path, config: RenderConfig, codec: ImageCodec) -> Renderer:
    """The renderer of a run's tokenizer and codec."""
    tokenizer = Tokenizer.load(folder)
    space = IdSpace(num_text=tokenizer.vocab_size, num_codes=codec.config.num_codes)
    return Renderer(tokenizer, space, config, encode_image=codec.encode, decode_image=codec.decode)


@dataclass
class RenderExample:
    """Example -> Sequence, in whatever process it is called: tokenizer and codec are loaded there, at first use."""

    folder: str
    config: RenderConfig
    _renderer: Renderer | None = None

    def __call__(self, example: Example) -> Any:
        if self._renderer is None:
            self._renderer = make_renderer(self.folder, self.config, ImageCodec.load(self.folder))
        return self._renderer.encode(example.messages)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "config": self.config, "_renderer": None}
