"""The one id space: text pieces, then special tokens, then the image codes that a drawing is made of."""

from __future__ import annotations

from dataclasses import dataclass

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
MAX_GRID = 32
NUM_SPECIALS = 64  # room kept for tokens to come, so that code ids never move


@dataclass(frozen=True, kw_only=True)
class IdSpace:
    """text [0, num_text) | specials [num_text, num_text + 64) | image codes, `num_codes` of them.

    The vocabulary is rounded up to a multiple of 64 for the matrix units; the ids above `end` are never used.
    """

    num_text: int
    num_codes: int

    def __post_init__(self) -> None:
        if self.num_text < 260 or self.num_codes < 0:
            raise ValueError(f"an id space needs at least 260 text pieces, got {self.num_text}, {self.num_codes}")

    def special(self, name: str) -> int:
        """The id of a special token, for example "<|turn>"."""
        return self.num_text + SPECIALS.index(name)

    def grid(self, num_cells: int) -> int:
        """The id that states a side of a drawing's grid, 1 to 32 cells."""
        if not 1 <= num_cells <= MAX_GRID:
            raise ValueError(f"a drawing has 1 to {MAX_GRID} cells a side, got {num_cells}")
        return self.num_text + len(SPECIALS) + num_cells - 1

    def cells(self, token_id: int) -> int:
        """The inverse of `grid`; 0 for an id that states no side."""
        cells = token_id - self.num_text - len(SPECIALS) + 1
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


assert len(SPECIALS) + MAX_GRID <= NUM_SPECIALS
