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

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

from castor.calls import FunctionCall, FunctionResponse
from castor.content import Image, Message, Part, Text
from castor.media.limits import Limits
from castor.tokens.gemma_calls import Mark, declarations, read_call, write_call, write_declaration, write_response
from castor.tokens.gemma_grammar import call_grammar
from castor.tokens.gemma_media import GEMMA_MEDIA, GemmaWriter
from castor.tokens.render import DecodeImage, EncodeImage, RenderConfig, read_drawing
from castor.tokens.sequence import Sequence
from castor.tokens.space import GemmaSpace
from castor.tokens.text_json import JsonTokenizer
from castor.tokens.video import VideoRule

STOPS = ("<turn|>", "<eos>", "<|tool_response>")


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

    # The special tokens that the format needs; the published vocabulary has all of them.
    NEEDED: tuple[str, ...] = ("<bos>", "<eos>", "<|turn>", "<turn|>")

    def __init__(
        self,
        tokenizer: JsonTokenizer,
        vocab_size: int,
        config: RenderConfig | None = None,
        style: TurnStyle | None = None,
        *,
        suppressed: tuple[int, ...] = (),
        video: VideoRule | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`config` says how pictures and sound become tokens, `video` which frames are seen and how they are told."""
        self.tokenizer = tokenizer
        self.space = GemmaSpace(num_text=vocab_size, num_codes=0, specials=tokenizer.specials, suppressed=suppressed)
        self.config = config or GEMMA_MEDIA
        self.style = style or TurnStyle()
        self.video = video or VideoRule()
        self.limits = limits or Limits()
        self.encode_image: EncodeImage | None = None  # of a checkpoint that was taught to draw
        self.decode_image: DecodeImage | None = None
        self.companions: dict[str, bytes] = {}  # files beside the weights, kept for saving
        for name in self.NEEDED:
            self.space.special(name)
        if max([tokenizer.vocab_size, *self.space.specials.values()]) > vocab_size:
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
        writer = GemmaWriter(self)
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

    def call_grammar(self, tools: Iterable[Mapping[str, Any]], **options: Any) -> str:
        """The grammar of replies that call these functions; `options` and ValueError as `gemma_grammar` has them."""
        return call_grammar(declarations(tools), self.space.special, **options)

    def decode(self, ids: Iterable[int]) -> tuple[Part, ...]:
        """The parts that a reply's ids say: thoughts, text, function calls, pictures.

        A call that breaks off stays text; a picture that breaks off is left out.
        """
        parts: list[Part] = []
        names = {token_id: name for name, token_id in self.space.specials.items()}
        ends = {"<|channel>": "<channel|>", "<|tool_call>": "<tool_call|>"}
        pieces: list[int] = []
        begun: str | None = None
        stream = iter([int(i) for i in ids])
        for token_id in stream:
            if token_id in self.stop_ids and begun is None:
                break
            if token_id >= self.space.num_text:
                self._finish_part(parts, pieces, begun, closed=False)
                begun = None
                parts += self._drawings(token_id, stream)
                continue
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

    def _drawings(self, token_id: int, stream: Iterator[int]) -> list[Part]:
        """The picture that begins with this id, where it is one and whole."""
        if not self.space.num_codes or token_id != self.space.special("<|draw>"):
            return []
        image = read_drawing(stream, self.space, self.decode_image)
        return [] if image is None else [image]


def _call_or_text(written: list[str], closed: bool) -> FunctionCall | Text:
    """The call that is written here; one that breaks off or breaks the notation as the text that it is."""
    if closed:
        try:
            return read_call(written)
        except ValueError:
            pass
    return Text("".join(["<|tool_call>", *written, "<tool_call|>" if closed else ""]))


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
    writer: GemmaWriter, messages: list[Message], tools: list[dict[str, Any]], thinking: bool
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


def _write_turn(writer: GemmaWriter, turn: _Turn, *, goes_on: bool, shows_thought: bool) -> bool:
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


def _write_part(writer: GemmaWriter, part: Part, said: bool) -> None:
    if isinstance(part, Text):
        writer.text(part.text.strip())
    elif isinstance(part, FunctionCall | FunctionResponse):
        raise ValueError(f"not a part that this format has a place for: {part!r}")
    elif not said:
        writer.medium(part)
    elif isinstance(part, Image) and writer.encode_image is not None:
        writer.said(part)
    else:
        kinds = "text, function calls and pictures" if writer.encode_image else "text and function calls"
        raise ValueError(f"a model turn holds {kinds}, not {type(part).__name__.lower()}")
