"""Renderer: Message <-> Sequence. The only place that knows special tokens, forward and back.

One turn is `<|turn>` role parts `<turn|>`. What a part becomes:

    Text                 pieces
    Image (read)         <|image> patches <image|>
    Image (said)         <|draw> rows columns codes <draw|>
    Audio                <|audio> frames <audio|>
    Video                for each frame: "mm:ss" <|image> patches <image|>; after every few of them, their sound
    Document             each page like an Image that is read

A picture that a user gives is read as patches; one in a model turn is said, so it is coded by the image codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from castor.content import Audio, Document, Image, Message, Part, Role, Text, Video
from castor.media.limits import Limits
from castor.media.look import Kind, Look
from castor.media.video import Clip
from castor.tokens.audio import HOP, RATE_HZ, USM_COLUMNS, log_mel_frames, raw_frames, usm_frames
from castor.tokens.prompts import prompt_of
from castor.tokens.sequence import Sequence
from castor.tokens.space import DrawnIds, IdSpace
from castor.tokens.text import BOS_ID, Tokenizer
from castor.tokens.video import time_stamp
from castor.tokens.vision import patchify, resize_to_budget, unpatchify

EncodeImage = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> codes [h, w]
DecodeImage = Callable[[np.ndarray], np.ndarray]  # codes [h, w] -> uint8 [H, W, 3]


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """How media become tokens."""

    patch_size: int = 32  # pixels
    pooling: int = 1  # patches merged per side; a merged patch is one token
    image_tokens: int = 16  # budget per image
    frame_tokens: int = 4  # budget per video frame
    page_tokens: int = 32  # budget per document page
    num_frames: int = 16  # per video, equally spaced
    fps: float | None = None  # frames per second instead of `num_frames`
    sound_every: int = 4  # frames of a video between two stretches of its sound
    audio: Literal["raw", "log_mel", "usm"] = "log_mel"  # "usm": what audio towers take, four 10 ms columns a token
    num_mels: int = 80
    frames_per_token: int = 8  # 10 ms log-mel frames in one token
    samples_per_token: int = 640  # raw samples in one token: 40 ms
    page_dpi: int = 72

    @property
    def merged_px(self) -> int:
        """Side of a merged patch."""
        return self.patch_size * self.pooling

    @property
    def patch_dim(self) -> int:
        """Numbers in a merged patch."""
        return self.merged_px**2 * 3

    def budget(self, kind: Kind, look: Look) -> int:
        """Tokens of a picture, a film's frame or a page that is looked at like this."""
        own = {"image": self.image_tokens, "frame": self.frame_tokens, "page": self.page_tokens}
        return look.budget(kind, own[kind], max(4 * self.image_tokens, self.page_tokens))

    @property
    def token_samples(self) -> int:
        """Samples of sound in one token."""
        return {"raw": self.samples_per_token, "log_mel": HOP * self.frames_per_token, "usm": HOP * USM_COLUMNS}[
            self.audio
        ]

    @property
    def frame_dim(self) -> int:
        """Numbers in an audio frame."""
        if self.audio == "raw":
            return self.samples_per_token
        return self.num_mels * (USM_COLUMNS if self.audio == "usm" else self.frames_per_token)


def sound_frames(samples_S: np.ndarray, config: RenderConfig) -> np.ndarray:
    """The features of a sound, float32 [S, frame_dim], one row a token."""
    if config.audio == "raw":
        return raw_frames(samples_S, config.samples_per_token)
    if config.audio == "usm":
        return usm_frames(samples_S, config.num_mels)
    return log_mel_frames(samples_S, config.num_mels, config.frames_per_token)


class Renderer:
    """Turns conversations into sequences and ids back into messages."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        space: IdSpace,
        config: RenderConfig | None = None,
        *,
        encode_image: EncodeImage | None = None,
        decode_image: DecodeImage | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.tokenizer, self.space = tokenizer, space
        self.config = config or RenderConfig()
        self.encode_image, self.decode_image = encode_image, decode_image
        self.limits = limits or Limits()
        self._roles: dict[Role, int] = {role: space.special(f"<|{role}|>") for role in ("user", "model", "system")}

    @property
    def stop_id(self) -> int:
        """The id that ends a turn."""
        return self.space.special("<turn|>")

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply."""
        return frozenset((self.stop_id,))

    def encode(self, messages: Iterable[Message], *, reply: bool = False) -> Sequence:
        """The sequence of a conversation; with `reply`, it ends where the model's answer begins.

        Every model turn, with the token that ends it, is a target.
        """
        writer = Writer(self.config, self.space.special)
        writer.ids([BOS_ID])
        for message in messages:
            said = message.role == "model"
            writer.special("<|turn>")
            writer.ids([self._roles[message.role]])
            writer.is_target = said
            for part in message.parts:
                self._write_part(writer, part, said)
            writer.special("<turn|>")
            writer.is_target = False
        if reply:
            writer.special("<|turn>")
            writer.ids([self._roles["model"]])
        return writer.finish()

    def encode_task(self, messages: list[Message], task: str | None = None) -> Sequence:
        """What the vector of one message of a user's is made of: its parts alone, without a turn.

        `task` puts the words of that name before a text (`prompts.py`). ValueError for an unknown one, or for media.
        """
        parts = parts_to_embed(messages, task)
        writer = Writer(self.config, self.space.special)
        writer.ids([BOS_ID])
        if task is not None:
            first = parts[0]
            assert isinstance(first, Text)
            parts = (Text(prompt_of(task) + first.text), *parts[1:])
        for part in parts:
            self._write_part(writer, part, False)
        writer.special("<turn|>")
        return writer.finish()

    def _write_part(self, writer: Writer, part: Part, said: bool) -> None:
        if isinstance(part, Text):
            writer.ids(self.tokenizer.encode(part.text))
        elif said:
            if not isinstance(part, Image):
                raise ValueError(f"a model turn holds text and images, not {type(part).__name__.lower()}")
            self._write_drawing(writer, part)
        elif isinstance(part, Image):
            writer.image(part.pixels(self.limits), self.config.budget("image", part.look), "<|image|>")
        elif isinstance(part, Audio):
            writer.frames(sound_frames(part.samples(self.limits), self.config))
        elif isinstance(part, Video):
            self._write_video(writer, part)
        elif isinstance(part, Document):
            for page in part.pages(self.limits, dpi=self.config.page_dpi):
                writer.image(page, self.config.budget("page", part.look), "<|image|>")
        else:
            raise ValueError(f"not a part of a message: {part!r}")

    def _write_video(self, writer: Writer, video: Video) -> None:
        clip = video.clip(self.limits, num_frames=self.config.num_frames, fps=self.config.fps)
        sound_SF = sound_frames(clip.samples_S, self.config) if clip.samples_S is not None else None
        track = None
        for index, (pixels, time_s) in enumerate(zip(clip.frames_FHWC, clip.times_s, strict=True)):
            writer.ids(self.tokenizer.encode(time_stamp(time_s)))
            writer.image(pixels, self.config.budget("frame", video.look), "<|video|>")
            last = index + 1 == len(clip.times_s)
            if sound_SF is not None and (last or (index + 1) % self.config.sound_every == 0):
                written = writer.frames(sound_SF[self._sound_span(clip, index)], track)
                track = written if self.config.audio == "usm" else None  # a tower hears the track whole

    def _sound_span(self, clip: Clip, index: int) -> slice:
        """The sound tokens of the stretch of frames that ends with frame `index`, up to where the next frame begins."""
        token_s = self.config.token_samples / RATE_HZ
        first = index // self.config.sound_every * self.config.sound_every
        start = 0 if first == 0 else round(float(clip.times_s[first] - clip.start_s) / token_s)
        last = index + 1 == len(clip.times_s)
        return slice(start, None if last else round(float(clip.times_s[index + 1] - clip.start_s) / token_s))

    def _write_drawing(self, writer: Writer, image: Image) -> None:
        if self.encode_image is None:
            raise ValueError("this model has no image codec, so it cannot be taught a picture in a model turn")
        writer.drawing(self.encode_image(image.pixels(self.limits)), self.space)

    def decode(self, ids: Iterable[int]) -> tuple[Part, ...]:
        """The parts that a model turn's ids say; a picture that was cut off is left out, its start never guessed."""
        parts: list[Part] = []
        pieces: list[int] = []
        stream = iter([int(i) for i in ids])
        for token_id in stream:
            if token_id == self.stop_id:
                break
            if token_id == self.space.special("<|draw>"):
                self._flush(pieces, parts)
                if (image := read_drawing(stream, self.space, self.decode_image)) is not None:
                    parts.append(image)
            elif token_id < self.space.num_text:
                pieces.append(token_id)
        self._flush(pieces, parts)
        return tuple(parts)

    def _flush(self, pieces: list[int], parts: list[Part]) -> None:
        if pieces:
            parts.append(Text(self.tokenizer.decode(pieces)))
            pieces.clear()

    def parse(self, sequence: Sequence) -> list[Message]:
        """The conversation as the model sees it: media come back resized, and sound only where frames are raw.

        A video comes back as its time-stamped frames, one image each.
        """
        return _parse(self, sequence)


class Writer:
    """Collects a sequence token by token."""

    def __init__(self, config: RenderConfig, special: Callable[[str], int]) -> None:
        """`special` gives the id of a special token by its name."""
        self.config, self._special = config, special
        self.is_target = False
        self._ids: list[int] = []
        self._targets: list[bool] = []
        self._blocks: list[int] = []
        self._num_blocks = 0
        self._patches: list[np.ndarray] = []
        self._patch_xy: list[np.ndarray] = []
        self._patch_at: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._frame_at: list[np.ndarray] = []
        self._clip: list[np.ndarray] = []
        self._num_clips = 0

    def ids(self, ids: list[int], block: int = -1) -> None:
        self._ids += ids
        self._targets += [self.is_target] * len(ids)
        self._blocks += [block] * len(ids)

    def special(self, name: str) -> None:
        self.ids([self._special(name)])

    def image(self, pixels_HWC: np.ndarray, max_tokens: int, placeholder: str) -> None:
        config = self.config
        resized = resize_to_budget(pixels_HWC, config.patch_size, config.pooling, max_tokens)
        patches_PC, xy_P2 = patchify(resized, config.merged_px)
        self.special("<|image>")
        self._patches.append(patches_PC)
        self._patch_xy.append(xy_P2)
        self._patch_at.append(np.arange(len(self._ids), len(self._ids) + len(patches_PC)))
        self.ids([self._special(placeholder)] * len(patches_PC), self._num_blocks)
        self._num_blocks += 1
        self.special("<image|>")

    def frames(self, frames_SF: np.ndarray, clip: int | None = None) -> int | None:
        """A sound, where `clip` is given one that goes on with that clip; gives its clip, None if none is begun."""
        if not len(frames_SF):
            return clip
        if clip is None:
            clip = self._num_clips
            self._num_clips += 1
        self._clip.append(np.full(len(frames_SF), clip))
        self.special("<|audio>")
        self._frames.append(frames_SF)
        self._frame_at.append(np.arange(len(self._ids), len(self._ids) + len(frames_SF)))
        self.ids([self._special("<|audio|>")] * len(frames_SF))
        self.special("<audio|>")
        return clip

    def drawing(self, codes_hw: np.ndarray, space: DrawnIds) -> None:
        """A picture that is said: brackets, the sides of its grid, its codes."""
        self.special("<|draw>")
        self.ids([space.grid(codes_hw.shape[0]), space.grid(codes_hw.shape[1])])
        self.ids((codes_hw.reshape(-1) + space.first_code).tolist())
        self.special("<draw|>")

    def finish(self) -> Sequence:
        config = self.config
        return Sequence(
            ids_T=np.array(self._ids, dtype=np.int32),
            is_target_T=np.array(self._targets, dtype=bool),
            block_T=np.array(self._blocks, dtype=np.int32),
            patches_PC=_stack(self._patches, (0, config.patch_dim), np.uint8),
            patch_xy_P2=_stack(self._patch_xy, (0, 2), np.int32),
            patch_at_P=_stack(self._patch_at, (0,), np.int32),
            frames_SF=_stack(self._frames, (0, config.frame_dim), np.float32),
            frame_at_S=_stack(self._frame_at, (0,), np.int32),
            clip_S=_stack(self._clip, (0,), np.int32),
        )


def parts_to_embed(messages: list[Message], task: str | None) -> tuple[Part, ...]:
    """The parts of the one message that a vector is made of; ValueError where it is another thing, or empty."""
    if len(messages) != 1 or messages[0].role != "user":
        roles = ", ".join(message.role for message in messages)
        raise ValueError(f"a vector is made of one message from the user, not of {len(messages)} ({roles})")
    parts = messages[0].parts
    if not any(not isinstance(part, Text) or part.text for part in parts):
        raise ValueError("a vector of nothing: give a text, a picture, a sound or a video")
    if task is not None and not isinstance(parts[0], Text):
        raise ValueError(f"task={task!r} is for prompts that begin with a text; media carry no task")
    return parts


def read_drawing(stream: Iterator[int], space: DrawnIds, decode_image: DecodeImage | None) -> Image | None:
    """The picture whose ids, behind the opening bracket, come next; None where it breaks off."""
    height, width = (space.cells(next(stream, -1)) for _ in range(2))
    codes = [next(stream, -1) - space.first_code for _ in range(height * width)]
    if not codes or not all(0 <= code < space.num_codes for code in codes):
        return None
    next(stream, None)  # <draw|>
    if decode_image is None:
        raise ValueError("this model has no image codec, so it cannot paint")
    return Image.from_pixels(decode_image(np.array(codes).reshape(height, width)), name="drawing")


def _stack(arrays: list[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(empty, dtype=dtype)


def _parse(renderer: Renderer, sequence: Sequence) -> list[Message]:
    space, ids = renderer.space, sequence.ids_T.tolist()
    role_of = {token_id: role for role, token_id in renderer._roles.items()}
    messages: list[Message] = []
    at = 1  # past the beginning-of-sequence id
    while at < len(ids):
        assert ids[at] == space.special("<|turn>"), "a turn begins with its special token"
        role = role_of[ids[at + 1]]
        stop = ids.index(renderer.stop_id, at) if renderer.stop_id in ids[at:] else len(ids)
        messages.append(Message(role, tuple(_parse_parts(renderer, sequence, at + 2, stop))))
        at = stop + 1
    return messages


def _parse_parts(renderer: Renderer, sequence: Sequence, at: int, stop: int) -> Iterable[Part]:
    space, ids = renderer.space, sequence.ids_T.tolist()
    closing = {space.special(f"<|{name}>"): space.special(f"<{name}|>") for name in ("image", "audio", "draw")}
    while at < stop:
        if ids[at] in closing:
            end = ids.index(closing[ids[at]], at)
            if ids[at] == space.special("<|draw>"):
                yield from renderer.decode(ids[at : end + 1])
            elif ids[at] == space.special("<|image>"):
                chosen = (sequence.patch_at_P > at) & (sequence.patch_at_P < end)
                pixels = unpatchify(sequence.patches_PC[chosen], sequence.patch_xy_P2[chosen])
                yield Image.from_pixels(pixels)
            else:
                if renderer.config.audio != "raw":
                    raise ValueError("log-mel frames do not give the sound back; only raw frames do")
                chosen = (sequence.frame_at_S > at) & (sequence.frame_at_S < end)
                yield Audio.from_samples(sequence.frames_SF[chosen].reshape(-1))
            at = end + 1
        else:
            end = at
            while end < stop and ids[end] < space.num_text:
                end += 1
            assert end > at, f"special token {ids[at]} out of place"
            yield Text(renderer.tokenizer.decode(ids[at:end]))
            at = end
