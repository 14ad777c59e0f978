"""Texts cut into passages along their own structure: headings, paragraphs, functions; no passage above a size.

    # Trip            ->  Passage("# Trip\n\nWe left early.", title="Trip", lines 1 to 3)
    We left early.
    ## Day two        ->  Passage("## Day two\n\nRain.", title="Trip > Day two", lines 4 to 5)
    Rain.

Nothing is lost: the lines of all passages are the lines of the text that are not blank.
"""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 1_200  # characters of a passage: about 300 tokens
LINE_BREAK = re.compile(r"\r\n|\r|\n")
HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*$")
FENCE = re.compile(r"\s*(```|~~~)")
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\s+")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Some lines of a text, with the headings (or the function) that they stand under."""

    text: str
    title: str
    first_line: int
    last_line: int


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Lines that belong together: [start, stop), counted from 0."""

    start: int
    stop: int
    title: str = ""


def passages(text: str, form: str, longest: int = LONGEST) -> list[Passage]:
    """Passages of at most `longest` characters. `form` is "markdown", "python", "code" or "text"."""
    lines = LINE_BREAK.split(text.removeprefix("\ufeff"))
    if form == "markdown":
        sections = list(_sections(lines))
    elif form == "python":
        sections = _definitions(text.removeprefix("\ufeff"), lines)
    elif form == "code":
        sections = list(_top_level(lines))
    else:
        sections = [_Block(start=0, stop=len(lines))]
    if form in ("python", "code"):
        sections = _gathered(sections, lines, longest)
    return [made for section in sections for made in _filled(section, lines, longest)]


def _sections(lines: list[str]) -> Iterator[_Block]:
    """A section from each Markdown heading to the next; a # inside a fence is none."""
    above: list[tuple[int, str]] = []
    start, in_fence = 0, False
    for at, line in enumerate(lines):
        in_fence ^= bool(FENCE.match(line))
        found = None if in_fence else HEADING.match(line)
        if found is None:
            continue
        depth = len(found[1])
        goes_on = bool(above) and depth > above[-1][0] and not _says(lines[start:at])  # a heading right under another
        if at > start and not goes_on:
            yield _Block(start=start, stop=at, title=_path(above))
        above = [*((d, name) for d, name in above if d < depth), (depth, found[2])]
        start = start if goes_on else at
    yield _Block(start=start, stop=len(lines), title=_path(above))


def _says(lines: list[str]) -> bool:
    """Whether there is anything but headings: a heading alone is no passage, as nothing is told by it."""
    return any(line.strip() and not HEADING.match(line) for line in lines)


def _path(above: list[tuple[int, str]]) -> str:
    return " > ".join(name for _, name in above)


def _definitions(text: str, lines: list[str]) -> list[_Block]:
    """Functions and classes of a Python file, each method apart, and what stands between them."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # not Python, or not of this version
        return list(_top_level(lines))
    spans = list(_spans(tree.body, ""))
    blocks, at = [], 0
    for start, stop, name in spans:
        if start < at:  # two on one line
            continue
        if start > at:
            blocks.append(_Block(start=at, stop=start))
        blocks.append(_Block(start=start, stop=min(stop, len(lines)), title=name))
        at = stop
    return [*blocks, _Block(start=at, stop=len(lines))] if at < len(lines) else blocks


def _spans(body: list[ast.stmt], before: str) -> Iterator[tuple[int, int, str]]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        name = f"{before}{node.name}"
        inner = list(_spans(node.body, f"{name}.")) if isinstance(node, ast.ClassDef) else []
        yield start, inner[0][0] if inner else node.end_lineno or node.lineno, name
        yield from inner


def _top_level(lines: list[str]) -> Iterator[_Block]:
    """Code of other languages: cut before an unindented line that follows a blank one."""
    start = 0
    for at in range(1, len(lines)):
        begins = lines[at][:1] not in ("", " ", "\t", "}", ")", "]") and not lines[at - 1].strip()
        if begins and at > start:
            yield _Block(start=start, stop=at)
            start = at
    yield _Block(start=start, stop=len(lines))


def _gathered(blocks: list[_Block], lines: list[str], longest: int) -> list[_Block]:
    """Neighbouring blocks of code together while they fit half a passage: a file of one-liners is not a hundred."""
    made: list[_Block] = []
    for block in blocks:
        if made and made[-1].stop == block.start:
            both = _Block(start=made[-1].start, stop=block.stop, title=made[-1].title or block.title)
            if _size(lines, both) <= longest // 2:
                made[-1] = both
                continue
        made.append(block)
    return made


def _size(lines: list[str], block: _Block) -> int:
    return sum(len(line) + 1 for line in lines[block.start : block.stop])


def _filled(section: _Block, lines: list[str], longest: int) -> Iterator[Passage]:
    """A section as passages: whole if it fits, else by paragraphs, else by lines, else by sentences."""
    start = section.start
    while start < section.stop:
        if not lines[start].strip():
            start += 1
            continue
        stop = _reach(lines, start, section.stop, longest)
        text = "\n".join(lines[start:stop]).rstrip()
        last = start + text.count("\n") + 1
        for part in _cut(text, longest):
            yield Passage(text=part, title=section.title, first_line=start + 1, last_line=last)
        start = stop


def _reach(lines: list[str], start: int, stop: int, longest: int) -> int:
    """How far a passage from `start` goes: to the end, else to the last blank line, else to the last line that fits."""
    size, blank = 0, 0
    for at in range(start, stop):
        if not lines[at].strip() and _says(lines[start:at]):
            blank = at
        size += len(lines[at]) + 1
        if size > longest + 1 and at > start:
            return blank if blank > start else at
    return stop


def _cut(text: str, longest: int) -> Iterator[str]:
    """One line that is too long, cut after sentences, else between words, else anywhere."""
    while len(text) > longest:
        ends = [found.end() for found in SENTENCE_END.finditer(text, longest // 2, longest)]
        sentence = [end for end in ends if text[:end].rstrip()[-1:] in ".!?…。！？"]
        at = (sentence or ends or [longest])[-1]
        yield text[:at].rstrip()
        text = text[at:]
    if text.strip():
        yield text


def windows(text: str, num_words: int, overlap: int = 0) -> list[Passage]:
    """Passages of `num_words` words, that is runs without white space, each with the last `overlap` of the one before.

    For who asks for sizes rather than for the text's own structure; the text of each is as it stands, lines and all.
    """
    assert 0 <= overlap < num_words
    text = text.removeprefix("\ufeff")
    words = list(re.finditer(r"\S+", text))
    breaks = [found.start() for found in LINE_BREAK.finditer(text)]
    made: list[Passage] = []
    for start in range(0, len(words), num_words - overlap):
        first, last = words[start].start(), words[min(start + num_words, len(words)) - 1].end()
        lines = [bisect.bisect_left(breaks, at) + 1 for at in (first, last)]
        made.append(Passage(text=text[first:last], title="", first_line=lines[0], last_line=lines[1]))
        if start + num_words >= len(words):
            break
    return made
