"""The one id space: text pieces, then special tokens, then the image codes that a drawing is made of.

A published checkpoint has its own order of the first two; codes come behind them all the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

SPECIALS = (
    "<|turn>",
    "<turn|>",
    "<|user|>",
    "<|model|>",
    "<|system|>",
    "<|image>",
    "<image|>",
    "<|image|>",
    "<|video|>",
    "<|audio>",
    "<audio|>",
    "<|audio|>",
    "<|draw>",
    "<draw|>",
)
CONFIG_IDS = {  # keys of config.json, and the special tokens whose ids they state
    "image_token_id": "<|image|>",
    "audio_token_id": "<|audio|>",
    "video_token_id": "<|video|>",
    "boi_token_id": "<|image>",
    "eoi_token_id": "<image|>",
    "boa_token_id": "<|audio>",
    "eoa_token_index": "<audio|>",
}
DRAWING = SPECIALS[-2:]  # the brackets of a drawing
MAX_GRID = 32
NUM_SPECIALS = 64  # room kept for tokens to come, so that code ids never move


@dataclass(frozen=True, kw_only=True)
class DrawnIds(ABC):
    """Where the ids of drawings are in a space: sizes of grids, and image codes behind 64 places for special tokens.

    The vocabulary is rounded up to a multiple of 64 for the matrix units; the ids above `end` are never used.
    """

    num_text: int
    num_codes: int

    @abstractmethod
    def special(self, name: str) -> int:
        """The id of a special token, for example "<|draw>"."""

    @property
    @abstractmethod
    def first_grid(self) -> int:
        """The id that states a side of one cell."""

    def grid(self, num_cells: int) -> int:
        """The id that states a side of a drawing's grid, 1 to 32 cells."""
        if not 1 <= num_cells <= MAX_GRID:
            raise ValueError(f"a drawing has 1 to {MAX_GRID} cells a side, got {num_cells}")
        return self.first_grid + num_cells - 1

    def cells(self, token_id: int) -> int:
        """The inverse of `grid`; 0 for an id that states no side."""
        cells = token_id - self.first_grid + 1
        return cells if 1 <= cells <= MAX_GRID else 0

    @property
    def first_code(self) -> int:
        """The id of image code 0."""
        return self.num_text + NUM_SPECIALS

    @property
    def end(self) -> int:
        """One past the last id in use."""
        return self.first_code + self.num_codes

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return -(-self.end // 64) * 64

    def is_code(self, token_id: int) -> bool:
        """Whether an id is an image code."""
        return self.first_code <= token_id < self.end


@dataclass(frozen=True, kw_only=True)
class IdSpace(DrawnIds):
    """text [0, num_text) | specials [num_text, num_text + 64) | image codes, `num_codes` of them."""

    def __post_init__(self) -> None:
        if self.num_text < 260 or self.num_codes < 0:
            raise ValueError(f"an id space needs at least 260 text pieces, got {self.num_text}, {self.num_codes}")

    def special(self, name: str) -> int:
        """The id of a special token, for example "<|turn>"."""
        return self.num_text + SPECIALS.index(name)

    @property
    def first_grid(self) -> int:
        return self.num_text + len(SPECIALS)


@dataclass(frozen=True, kw_only=True)
class GemmaSpace(DrawnIds):
    """Ids of a published checkpoint: text pieces and special tokens in one vocabulary of `num_text` rows.

    One that was taught to draw has behind them brackets of drawings, sizes of grids and, from the 65th on, image codes.
    """

    specials: Mapping[str, int] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()  # never said, by the checkpoint's generation_config.json

    def special(self, name: str) -> int:
        """The id of a special token; ValueError where this checkpoint has none of that name."""
        if self.num_codes and name in DRAWING:
            return self.num_text + DRAWING.index(name)
        if name not in self.specials:
            raise ValueError(f"this checkpoint's tokenizer has no special token {name!r}")
        return self.specials[name]

    @property
    def first_grid(self) -> int:
        return self.num_text + len(DRAWING)

    @property
    def end(self) -> int:
        """One past the last id in use."""
        return self.first_code + self.num_codes if self.num_codes else self.num_text

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table: as published, or rounded up behind the codes."""
        return -(-self.end // 64) * 64 if self.num_codes else self.num_text


assert len(SPECIALS) + MAX_GRID <= NUM_SPECIALS
