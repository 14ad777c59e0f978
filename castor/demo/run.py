"""run_demo(): asks every question, streams the answers, writes the page, prints a summary."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text as TerminalText

from castor.content import Audio, Image, Message, Part, Text, Video
from castor.demo.items import Drawing, Inputs, Item, Question, sample_inputs
from castor.demo.seen import Seen, see
from castor.diorama.parse import parse, scene_f1
from castor.diorama.scene import Scene
from castor.tasks.distance import word_error_rate
from castor.tasks.normalise import final_number, normalise
from castor.tokens.render import Renderer

if TYPE_CHECKING:
    from castor.engine.model import Model


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question with the answer the model gave."""

    question: Question
    answer: str
    num_prompt_tokens: int
    num_answer_tokens: int
    seconds: float

    @property
    def verdict(self) -> str | None:
        """ "right", "wrong" or, for longer answers, "close"; None where the truth is not known."""
        if self.question.truth is None:
            return None
        if normalise(self.answer) == normalise(self.question.truth):
            return "right"
        if self.question.truth.isdecimal() and final_number(self.answer) == float(self.question.truth):
            return "right"  # worked out loud
        is_long = len(self.question.truth.split()) > 3
        return "close" if is_long and word_error_rate(self.question.truth, self.answer) <= 0.34 else "wrong"


@dataclass(frozen=True, kw_only=True)
class Looked:
    """An item, the model's view of it, and its answers."""

    item: Item
    part: Part
    seen: Seen
    answers: tuple[Answered, ...]
    samples_S: np.ndarray | None = None  # sound to show as a waveform, 16 kHz


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Words to draw and the picture that came; `image` is None if the model wrote none."""

    drawing: Drawing
    image: Image | None
    words: str
    num_prompt_tokens: int
    num_answer_tokens: int
    seconds: float

    @property
    def read_back(self) -> str:
        """What a program, not a model, sees: "large red circle (left), small blue square (right)"."""
        if self.image is None:
            return ""
        things = parse(self.image.pixels()).things
        return ", ".join(f"{t.size} {t.colour} {t.shape} ({t.place})" for t in things) or "nothing it knows"

    @property
    def share_right(self) -> float | None:
        """How much of what was asked for the program finds, in [0, 1]; None where that is not known."""
        if self.drawing.scene is None:
            return None
        if self.image is None:
            return 0.0
        return scene_f1(parse(self.image.pixels()), Scene.from_json(dict(self.drawing.scene)))


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that the page shows."""

    looked: tuple[Looked, ...]
    drawn: tuple[Drawn, ...]
    model_name: str
    seconds: float

    @property
    def num_known(self) -> int:
        """Answers whose truth is known."""
        return sum(answer.verdict is not None for looked in self.looked for answer in looked.answers)

    @property
    def num_right(self) -> int:
        """Answers that match their truth word for word."""
        return sum(answer.verdict == "right" for looked in self.looked for answer in looked.answers)


def run_demo(
    model: "Model",
    inputs: Inputs | None = None,
    out_html: str | Path = "castor-demo.html",
    *,
    model_name: str = "atom",
    console: Console | None = None,
    seed: int = 0,
) -> Path:
    """Shows what a model can do with a picture, a page, a recording and a clip, and what it draws.

    Streams the answers to the terminal, writes one self-contained HTML page and returns its path.
    """
    from castor.demo.page import page

    console = console or Console()
    inputs = inputs or sample_inputs()
    start_s = time.perf_counter()
    looked = tuple(_look(model, item, console) for item in inputs.items)
    drawn = tuple(_draw(model, drawing, console, seed) for drawing in inputs.drawings)
    result = Result(looked=looked, drawn=drawn, model_name=model_name, seconds=time.perf_counter() - start_s)
    path = Path(out_html)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(result), encoding="utf-8")
    console.print()
    console.print(summary_table(result))
    console.print("[dim]A small model: it may be wrong.  Judge it by its scores (castor eval), not by one page.[/dim]")
    size = f"[dim]{path.stat().st_size / 1024:.0f} KiB[/dim]"
    console.print(f"The page: [bold]{escape(str(path.resolve()))}[/bold]  {size}", soft_wrap=True)
    return path


def _look(model: "Model", item: Item, console: Console) -> Looked:
    console.print(f"\n[bold]{escape(item.title)}[/bold] [dim]{escape(item.path.name)}[/dim]")
    part = item.part()
    answers = tuple(_ask(model, part, question, console) for question in item.questions)
    prompt = [Message.user(part, item.questions[0].text)]
    if not isinstance(model.renderer, Renderer):
        raise ValueError("the demo shows Castor's own models; a published checkpoint answers with: castor chat --model")
    seen = see(model.renderer, model.renderer.encode(prompt, reply=True))
    samples_S = None
    if isinstance(part, Audio):
        samples_S = part.samples()
    elif isinstance(part, Video):
        samples_S = part.clip().samples_S
    return Looked(item=item, part=part, seen=seen, answers=answers, samples_S=samples_S)


def _ask(model: "Model", part: Part, question: Question, console: Console) -> Answered:
    console.print(f"  {escape(question.text)} ", end="")
    prompt = [Message.user(part, question.text)]
    start_s = time.perf_counter()
    pieces = []
    for piece in model.stream(prompt, max_tokens=96, temperature=0.0):
        if isinstance(piece, Text):
            pieces.append(piece.text)
            console.print(escape(piece.text), end="", style="cyan", soft_wrap=True)
    seconds = time.perf_counter() - start_s
    answer = "".join(pieces).strip()
    answered = Answered(
        question=question,
        answer=answer,
        num_prompt_tokens=len(model.renderer.encode(prompt, reply=True)),
        num_answer_tokens=_num_answer_tokens(model, Message.model(answer)),
        seconds=seconds,
    )
    truth = f"  true answer: {escape(question.truth)}" if question.truth and answered.verdict != "right" else ""
    console.print(f"  [dim]{seconds:.1f} s{truth}[/dim]")
    return answered


def _draw(model: "Model", drawing: Drawing, console: Console, seed: int) -> Drawn:
    console.print(f"\n[bold]{escape(drawing.prompt)}[/bold] ", end="")
    prompt = [Message.user(drawing.prompt)]
    start_s = time.perf_counter()
    answer = model.generate(prompt, max_tokens=200, temperature=0.0, seed=seed)
    seconds = time.perf_counter() - start_s
    image = answer.images[-1] if answer.images else None
    console.print("a picture came" if image else escape(answer.text or "no picture came"), end="", style="cyan")
    console.print(f"  [dim]{seconds:.1f} s[/dim]")
    if image is not None and console.is_terminal:
        console.print(terminal_picture(image.pixels()))
    return Drawn(
        drawing=drawing,
        image=image,
        words=answer.text,
        num_prompt_tokens=len(model.renderer.encode(prompt, reply=True)),
        num_answer_tokens=_num_answer_tokens(model, answer),
        seconds=seconds,
    )


def terminal_picture(pixels_HWC: np.ndarray, num_columns: int = 32) -> TerminalText:
    """A picture in half blocks: one character is two pixels, one above the other."""
    step = max(1, pixels_HWC.shape[1] // num_columns)
    small_HWC = pixels_HWC[step // 2 :: step, step // 2 :: step]
    lines = TerminalText()
    for top, bottom in zip(small_HWC[::2], small_HWC[1::2], strict=False):
        lines.append("  ")
        for upper, lower in zip(top.tolist(), bottom.tolist(), strict=True):
            colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (upper, lower))
            lines.append("▀", style=" on ".join(colours))
        lines.append("\n")
    return lines


def _num_answer_tokens(model: Any, answer: Message) -> int:
    """Tokens an answer takes in a conversation, without the marks around the turn."""
    return len(model.renderer.encode([answer])) - len(model.renderer.encode([Message.model()]))


def summary_table(result: Result) -> Table:
    """What was asked, what came, what is true."""
    table = Table(title="What was asked and what came", title_justify="left", box=SIMPLE_HEAD, expand=True)
    table.add_column("item", no_wrap=True)
    for name, ratio in (("question", 4), ("answer", 4), ("true answer", 3)):
        table.add_column(name, ratio=ratio, overflow="fold")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in _summary_rows(result):
        table.add_row(*row)
    if result.num_known:
        table.caption = f"{result.num_right} of {result.num_known} answers match the known truth word for word"
    return table


def _short(text: str, max_characters: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"


def _summary_rows(result: Result) -> Iterator[list[str]]:
    colour = {"right": "green", "close": "yellow", "wrong": "red", None: "white"}
    for looked in result.looked:
        for at, answer in enumerate(looked.answers):
            yield [
                escape(looked.item.title) if at == 0 else "",
                escape(answer.question.text),
                f"[{colour[answer.verdict]}]{escape(_short(answer.answer)) or '–'}[/]",
                escape(answer.question.truth or "not known"),
                f"{answer.num_prompt_tokens}→{answer.num_answer_tokens}",
                f"{answer.seconds:.1f} s",
            ]
    for drawn in result.drawn:
        came = escape(_short(drawn.words)) or "–"
        if drawn.image is not None:
            came = f"read back: {drawn.read_back}"
        share = drawn.share_right
        found = "not known" if share is None else f"{100 * share:.0f} % of it found"
        tokens = f"{drawn.num_prompt_tokens}→{drawn.num_answer_tokens}"
        yield ["Drawing", escape(drawn.drawing.prompt), came, found, tokens, f"{drawn.seconds:.1f} s"]
