"""Renderer of published Gemma 4 checkpoints: their turns, thinking, functions and media, forward and back.

    <bos><|turn>system\\n<|think|>\\nINSTRUCTION<|tool>declaration...<tool|><turn|>\\n
    <|turn>user\\nTEXT<|image>PATCHES<image|>TEXT<turn|>\\n
    <|turn>model\\n<|channel>thought\\nTHOUGHT\\n<channel|><|tool_call>call...<tool_call|>
        <|tool_response>response...<tool_response|>ANSWER<turn|>\\n

The form is that of the chat templates published with the checkpoints, media as transformers' `Gemma4UnifiedProcessor`
expands them. Thoughts of earlier answers are not shown again, except between a call and its response. What a text
spells never becomes a special token. Neighbouring texts are cut into pieces together, as in one string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from castor.calls import FunctionCall, FunctionResponse
from castor.content import Audio, Document, Image, Message, Part, Text, Video
from castor.media.limits import Limits
from castor.tokens.audio import raw_frames
from castor.tokens.gemma_calls import Mark, declarations, read_call, write_call, write_declaration, write_response
from castor.tokens.render import RenderConfig, Writer, time_stamp
from castor.tokens.sequence import Sequence
from castor.tokens.text_json import JsonTokenizer

# The special tokens that the format needs; the published vocabulary has all of them.
NEEDED = ("<bos>", "<eos>", "<|turn>", "<turn|>")
STOPS = ("<turn|>", "<eos>", "<|tool_response>")
SoundFeatures = Callable[[np.ndarray], np.ndarray]  # float32 [S] at 16 kHz -> float32 [frames, numbers]


@dataclass(frozen=True, kw_only=True)
class GemmaSpace:
    """Ids as the checkpoint has them: text pieces and special tokens in one vocabulary, and no image codes."""

    vocab_size: int  # rows of the embedding table
    specials: Mapping[str, int] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()  # never said, by the checkpoint's generation_config.json

    @property
    def num_text(self) -> int:
        """All of them; what is special is left out by the tokenizer."""
        return self.vocab_size

    def special(self, name: str) -> int:
        """The id of a special token; ValueError where this checkpoint has none of that name."""
        if name not in self.specials:
            raise ValueError(f"this checkpoint's tokenizer has no special token {name!r}")
        return self.specials[name]


@dataclass(frozen=True, kw_only=True)
class TurnStyle:
    """In what the published templates differ from each other; `of_template` reads it off a checkpoint's own."""

    empty_thought: bool = False  # a reply without thinking begins with a thought of nothing (12B and larger)
    think_line: bool = True  # a line break follows <|think|>
    media_margin: str = ""  # around pictures and videos

    @staticmethod
    def of_template(template: str) -> TurnStyle:
        """The style of a chat template's text (Jinja)."""
        plain = template.replace("\n", "\\n")
        return TurnStyle(
            empty_thought="<|channel>thought\\n<channel|>" in plain,
            think_line="<|think|>\\n" in plain,
            media_margin="\n\n" if "\\n\\n<|image|>\\n\\n" in plain else "",
        )


class GemmaRenderer:
    """Turns conversations into sequences for a published checkpoint, and its ids back into parts."""

    def __init__(
        self,
        tokenizer: JsonTokenizer,
        vocab_size: int,
        config: RenderConfig | None = None,
        style: TurnStyle | None = None,
        *,
        suppressed: tuple[int, ...] = (),
        sound_features: SoundFeatures | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`sound_features` takes the place of raw frames where a checkpoint hears through a tower."""
        self.tokenizer = tokenizer
        self.space = GemmaSpace(vocab_size=vocab_size, specials=tokenizer.specials, suppressed=suppressed)
        self.config = config or GEMMA_MEDIA
        self.style = style or TurnStyle()
        self.limits = limits or Limits()
        self._sound_features = sound_features
        self.companions: dict[str, bytes] = {}  # files beside the weights, kept for saving
        for name in NEEDED:
            self.space.special(name)
        if max(tokenizer.vocab_size, *self.space.specials.values()) > vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}")

    @property
    def stop_id(self) -> int:
        """The id that ends a turn."""
        return self.space.special("<turn|>")

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply: the turn's end, the text's end, and waiting for a function's response."""
        return frozenset(self.space.specials[name] for name in STOPS if name in self.space.specials)

    def encode(
        self,
        messages: Iterable[Message],
        *,
        reply: bool = False,
        tools: Iterable[Mapping[str, Any]] = (),
        thinking: bool = False,
    ) -> Sequence:
        """The sequence of a conversation; with `reply`, it ends where the model's answer begins.

        `tools` are function declarations in the Gemini API's form. Answers of model turns, and what ends them, are
        targets. ValueError names a message that the format has no place for.
        """
        writer = _GemmaWriter(self)
        writer.special("<bos>")
        rest = _write_system(writer, list(messages), declarations(tools), thinking)
        turns = _turns(rest)
        last_user = max((turn.at for turn in turns if turn.message.role == "user"), default=-1)
        waiting = False
        for number, turn in enumerate(turns):
            goes_on = turn.message.role == "model" and number > 0 and turns[number - 1].message.role == "model"
            waiting = _write_turn(writer, turn, goes_on=goes_on, shows_thought=turn.at > last_user)
        if reply and not waiting:
            writer.special("<|turn>")
            writer.text("model\n")
            if self.style.empty_thought and not thinking:
                writer.write([Mark("<|channel>"), "thought\n", Mark("<channel|>")])
        return writer.finish()

    def decode(self, ids: Iterable[int]) -> tuple[Part, ...]:
        """The parts that a reply's ids say: thoughts, text, function calls. A call that breaks off stays text."""
        parts: list[Part] = []
        names = {token_id: name for name, token_id in self.space.specials.items()}
        ends = {"<|channel>": "<channel|>", "<|tool_call>": "<tool_call|>"}
        pieces: list[int] = []
        begun: str | None = None
        for token_id in (int(i) for i in ids):
            if token_id in self.stop_ids and begun is None:
                break
            name = names.get(token_id)
            if (begun is None and name in ends) or (begun is not None and name == ends[begun]):
                self._finish_part(parts, pieces, begun, closed=begun is not None)
                begun = name if begun is None else None
            else:
                pieces.append(token_id)
        self._finish_part(parts, pieces, begun, closed=False)
        return tuple(parts)

    def _finish_part(self, parts: list[Part], pieces: list[int], begun: str | None, *, closed: bool) -> None:
        if begun == "<|tool_call>":
            parts.append(_call_or_text(self._written(pieces), closed))
        elif begun == "<|channel>":
            _, _, thought = self.tokenizer.decode(pieces).partition("\n")
            if thought.strip("\n"):
                parts.append(Text(thought.strip("\n"), thought=True))
        elif text := self.tokenizer.decode(pieces):
            parts.append(Text(text))
        pieces.clear()

    def _written(self, ids: list[int]) -> list[str]:
        """Ids as plain text and marks."""
        names = {token_id: name for name, token_id in self.space.specials.items()}
        written: list[str] = []
        plain: list[int] = []
        for token_id in ids:
            if token_id in names:
                written += [self.tokenizer.decode(plain), Mark(names[token_id])]
                plain = []
            else:
                plain.append(token_id)
        return [*written, self.tokenizer.decode(plain)]

    def sound_frames(self, samples_S: np.ndarray) -> np.ndarray:
        """The features of a sound, float32 [S, frame_dim], one row a token."""
        if self._sound_features is not None:
            return self._sound_features(samples_S)
        return raw_frames(samples_S, self.config.samples_per_token)


def _call_or_text(written: list[str], closed: bool) -> FunctionCall | Text:
    """The call that is written here; one that breaks off or breaks the notation as the text that it is."""
    if closed:
        try:
            return read_call(written)
        except ValueError:
            pass
    return Text("".join(["<|tool_call>", *written, "<tool_call|>" if closed else ""]))


# Media of Gemma 4 unified as its processor's defaults have them.
GEMMA_MEDIA = RenderConfig(
    patch_size=16,
    pooling=3,
    image_tokens=280,
    frame_tokens=70,
    page_tokens=1120,
    num_frames=32,
    audio="raw",
    samples_per_token=640,
    page_dpi=144,
)


@dataclass(frozen=True)
class _Turn:
    """A message with the function responses that follow it; `at` counts the messages."""

    at: int
    message: Message
    responses: tuple[FunctionResponse, ...] = ()


def _turns(messages: Seq[Message]) -> list[_Turn]:
    """Messages as turns: responses belong to the model turn that called."""
    turns: list[_Turn] = []
    for at, message in enumerate(messages):
        responses = tuple(part for part in message.parts if isinstance(part, FunctionResponse))
        if not responses:
            turns.append(_Turn(at, message))
            continue
        if len(responses) < len(message.parts) or message.role == "system":
            raise ValueError("function responses stand in a message of their own, from the user")
        if not turns or not any(isinstance(part, FunctionCall) for part in turns[-1].message.parts):
            raise ValueError(f"a response of {responses[0].name!r} follows no message that calls a function")
        turns[-1] = _Turn(turns[-1].at, turns[-1].message, (*turns[-1].responses, *responses))
    return turns


def _write_system(
    writer: _GemmaWriter, messages: list[Message], tools: list[dict[str, Any]], thinking: bool
) -> list[Message]:
    """The first turn where there is one; gives the messages that are left."""
    first = messages[0] if messages and messages[0].role == "system" else None
    if first is None and not tools and not thinking:
        return messages
    writer.special("<|turn>")
    writer.text("system\n")
    if thinking:
        writer.write([Mark("<|think|>"), "\n" if writer.renderer.style.think_line else ""])
    if first is not None:
        writer.text(_only_text(first))
    for function in tools:
        writer.write([Mark("<|tool>"), *write_declaration(function), Mark("<tool|>")])
    writer.special("<turn|>")
    writer.text("\n")
    return messages[1:] if first is not None else messages


def _only_text(message: Message) -> str:
    texts = [part.text.strip() for part in message.parts if isinstance(part, Text)]
    if len(texts) < len(message.parts):
        raise ValueError("a system message holds text only")
    return " ".join(texts)


def _write_turn(writer: _GemmaWriter, turn: _Turn, *, goes_on: bool, shows_thought: bool) -> bool:
    """One turn; gives whether a reply would go on with it: after a function's response, or while waiting for one."""
    message = turn.message
    if not goes_on:
        writer.special("<|turn>")
        writer.text(f"{message.role}\n")
    writer.is_target = said = message.role == "model"
    calls = [part for part in message.parts if isinstance(part, FunctionCall)]
    if calls and not said:
        raise ValueError(f"a {message.role} message cannot call a function")
    thought = "\n".join(part.text for part in message.parts if isinstance(part, Text) and part.thought)
    if thought and calls and shows_thought:
        writer.write([Mark("<|channel>"), f"thought\n{thought}\n", Mark("<channel|>")])
    for call in calls:
        writer.write([Mark("<|tool_call>"), *write_call(call), Mark("<tool_call|>")])
    for response in turn.responses:
        writer.write([Mark("<|tool_response>")])  # the first of them is what the model ends its calls with
        writer.is_target = False
        writer.write([*write_response(response), Mark("<tool_response|>")])
    writer.is_target = said
    rest = [p for p in message.parts if not isinstance(p, FunctionCall) and not (isinstance(p, Text) and p.thought)]
    for part in rest:
        _write_part(writer, part, said)
    has_content = any(not isinstance(part, Text) or part.text.strip() for part in rest)
    waits = bool(calls) and not turn.responses
    if waits:
        writer.special("<|tool_response>")
    elif has_content or not turn.responses:
        writer.special("<turn|>")
        writer.is_target = False
        writer.text("\n")
    writer.is_target = False
    return waits or bool(turn.responses)


def _write_part(writer: _GemmaWriter, part: Part, said: bool) -> None:
    renderer = writer.renderer
    if isinstance(part, Text):
        writer.text(part.text.strip())
    elif said:
        raise ValueError(f"a model turn holds text and function calls, not {type(part).__name__.lower()}")
    elif isinstance(part, Image):
        writer.picture(part.pixels(renderer.limits), renderer.config.image_tokens)
    elif isinstance(part, Audio):
        writer.frames(renderer.sound_frames(part.samples(renderer.limits)))
    elif isinstance(part, Video):
        _write_video(writer, part)
    elif isinstance(part, Document):
        for page in part.pages(renderer.limits, dpi=renderer.config.page_dpi):
            writer.picture(page, renderer.config.page_tokens)
    else:
        raise ValueError(f"not a part that this format has a place for: {part!r}")


def _write_video(writer: _GemmaWriter, video: Video) -> None:
    """Time stamps and frames, a space between them; the sound track is not heard unless it is given as Audio."""
    config = writer.renderer.config
    clip = video.clip(writer.renderer.limits, num_frames=config.num_frames, fps=config.fps)
    writer.text(writer.renderer.style.media_margin)
    for at, (pixels, time_s) in enumerate(zip(clip.frames_FHWC, clip.times_s, strict=True)):
        writer.text(f"{' ' if at else ''}{time_stamp(time_s)} ")
        writer.image(pixels, config.frame_tokens, "<|video|>")
    writer.text(writer.renderer.style.media_margin)


class _GemmaWriter(Writer):
    """Holds text back until a special token comes, so that neighbouring texts are cut into pieces as one."""

    def __init__(self, renderer: GemmaRenderer) -> None:
        super().__init__(renderer.config, renderer.space.special)
        self.renderer = renderer
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

    def picture(self, pixels_HWC: np.ndarray, max_tokens: int) -> None:
        """A picture in the message's flow, with the margin of the style."""
        self.text(self.renderer.style.media_margin)
        self.image(pixels_HWC, max_tokens, "<|image|>")
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
