"""Media of published checkpoints as tokens: pictures, sound and video between the texts of a prompt.

Sizes, features and what stands around them are those of transformers' processors of Gemma 4 (unified or with towers)
and EmbeddingGemma 2. Sounds are heard whole, where transformers cuts them off after 30 s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from castor.content import Audio, Document, Image, Part, Video
from castor.tokens.gemma_calls import Mark
from castor.tokens.render import RenderConfig, Writer, sound_frames
from castor.tokens.sequence import Sequence
from castor.tokens.video import Frame, Stretch

if TYPE_CHECKING:
    from castor.tokens.gemma import GemmaRenderer

# Media of Gemma 4 unified as its processor's defaults have them. Checkpoints with towers hear with audio="usm".
GEMMA_MEDIA = RenderConfig(
    patch_size=16,
    pooling=3,
    image_tokens=280,
    frame_tokens=70,
    page_tokens=1120,
    audio="raw",
    samples_per_token=640,
    num_mels=128,
    page_dpi=144,
)


class GemmaWriter(Writer):
    """Holds text back until a special token comes, so that neighbouring texts are cut into pieces as one."""

    def __init__(self, renderer: GemmaRenderer) -> None:
        super().__init__(renderer.config, renderer.space.special)
        self.renderer, self.encode_image = renderer, renderer.encode_image
        self._held: list[tuple[str, bool]] = []

    def text(self, text: str) -> None:
        """Plain text, a target or not as `is_target` says now."""
        if text:
            self._held.append((text, self.is_target))

    def write(self, written: Iterable[str]) -> None:
        """Plain text and marks."""
        for part in written:
            if isinstance(part, Mark):
                self.special(part)
            else:
                self.text(part)

    def medium(self, part: Part) -> None:
        """A picture, sound, video or document that is read; ValueError for any other part."""
        config, limits = self.config, self.renderer.limits
        if isinstance(part, Image):
            self._picture(part.pixels(limits), config.budget("image", part.look))
        elif isinstance(part, Audio):
            self.frames(sound_frames(part.samples(limits), config))
        elif isinstance(part, Video):
            self._video(part)
        elif isinstance(part, Document):
            for page in part.pages(limits, dpi=config.page_dpi):
                self._picture(page, config.budget("page", part.look))
        else:
            raise ValueError(f"not a part that this format has a place for: {part!r}")

    def said(self, image: Image) -> None:
        """A picture that the model draws."""
        assert self.encode_image is not None
        self.drawing(self.encode_image(image.pixels(self.renderer.limits)), self.renderer.space)

    def _picture(self, pixels_HWC: np.ndarray, max_tokens: int) -> None:
        """A picture in the message's flow, with the margin of the style."""
        self.text(self.renderer.style.media_margin)
        self.image(pixels_HWC, max_tokens, "<|image|>")
        self.text(self.renderer.style.media_margin)

    def _video(self, video: Video) -> None:
        """Frames, with their times and the sound track where the checkpoint's rule tells these."""
        rule = self.renderer.video
        if video.look.fps is not None:  # asked for: as many frames as that makes
            rule = dataclasses.replace(rule, fps=video.look.fps, num_frames=None)
        clip = video.clip(self.renderer.limits, choose=rule.choose)
        sound_SF = np.zeros((0, self.config.frame_dim), dtype=np.float32)
        if rule.with_sound and clip.samples_S is not None:
            sound_SF = sound_frames(clip.samples_S, self.config)
        track: int | None = None
        self.text(self.renderer.style.media_margin)
        for told in rule.tell(clip.times_s, clip.end_s, len(sound_SF)):
            if isinstance(told, Frame):
                self.image(clip.frames_FHWC[told.index], self.config.budget("frame", video.look), "<|video|>")
            elif isinstance(told, Stretch):
                track = self.frames(sound_SF[told.start : told.stop], track)
            else:
                self.text(told)
        self.text(self.renderer.style.media_margin)

    def ids(self, ids: list[int], block: int = -1) -> None:
        self._flush()
        super().ids(ids, block)

    def _flush(self) -> None:
        if not self._held:
            return
        held, self._held = self._held, []
        ids, begins = self.renderer.tokenizer.encode_at("".join(text for text, _ in held))
        ends = np.cumsum([len(text) for text, _ in held])
        kept = self.is_target
        for token_id, begin in zip(ids, begins, strict=True):
            self.is_target = held[int(np.searchsorted(ends, begin, side="right"))][1]
            super().ids([token_id])
        self.is_target = kept

    def finish(self) -> Sequence:
        self._flush()
        sequence = super().finish()
        specials = self.renderer.space.specials
        seen, heard = len(sequence.patch_at_P), len(sequence.frame_at_S)
        for names, count in ((("<|image|>", "<|video|>"), seen), (("<|audio|>",), heard)):
            places = [specials[name] for name in names if name in specials]
            if (found := int(np.isin(sequence.ids_T, places).sum())) != count:
                raise ValueError(f"{found} places of {' and '.join(names)} for {count} features")
        return sequence
