"""How a medium is looked at: how finely, and which stretch of a film at which rate. What is not said is the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["image", "frame", "page"]
Resolution = Literal["low", "medium", "high"]
RESOLUTIONS: tuple[str, ...] = get_args(Resolution)
MAX_FPS = 24.0
# Tokens of a picture, a film's frame and a page, times those that the model spends by itself. Of Gemma 4's 280, 70 and
# 1120 this makes 70, 280, 1120 for pictures, 70, 70, 280 for frames and 280, 560, 1120 for pages.
SHARES: dict[Kind, dict[str, float]] = {
    "image": {"low": 0.25, "medium": 1.0, "high": 4.0},
    "frame": {"low": 1.0, "medium": 1.0, "high": 4.0},
    "page": {"low": 0.25, "medium": 0.5, "high": 1.0},
}
WHOLE = (0.0, None)  # of a film


@dataclass(frozen=True, kw_only=True)
class Look:
    """ValueError for what cannot be."""

    resolution: str | None = None  # one of RESOLUTIONS
    num_tokens: int | None = None  # of a picture, page or frame, in place of a resolution's
    start_s: float = 0.0  # of a film
    end_s: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution not in RESOLUTIONS:
            raise ValueError(f"resolution={self.resolution!r} is not one of {', '.join(RESOLUTIONS)}")
        tokens, fps = self.num_tokens, self.fps
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"num_tokens={tokens!r} must be a whole number of at least 1")
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= self.start_s):
            raise ValueError(f"start_s={self.start_s:g} and end_s={self.end_s} hold nothing of a film")
        if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS):
            raise ValueError(f"fps={fps!r} must be above 0 and at most {MAX_FPS:g}")

    @property
    def span(self) -> tuple[float, float | None]:
        """Which stretch of a film, in seconds from its beginning; None: up to its end."""
        return (self.start_s, self.end_s)

    def check(self, kind: str, name: str) -> None:
        """ValueError where media of that kind ("image", "audio", "video", "document") cannot be looked at like this."""
        if kind != "video" and (self.span != WHOLE or self.fps is not None):
            raise ValueError(f"{name}: start, end and fps (videoMetadata) are for films, not for {kind}")
        if kind == "audio" and (self.resolution is not None or self.num_tokens is not None):
            raise ValueError(f"{name}: a sound has no resolution (mediaResolution)")

    def budget(self, kind: Kind, own: int, most: int) -> int:
        """Tokens of one picture, frame or page, where the model spends `own` on it by itself, and `most` on any."""
        if self.num_tokens is not None:
            if self.num_tokens > most:
                raise ValueError(f"num_tokens={self.num_tokens}: this model looks at a picture with {most} at most")
            return self.num_tokens
        return own if self.resolution is None else max(1, round(own * SHARES[kind][self.resolution]))
