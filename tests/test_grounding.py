"""What an answer's sentences rest on, filters over metadata, and passages by words: each beside a slow way."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from castor.index.passages import windows
from castor.index.piece import Place
from castor.server.errors import ApiError
from castor.server.grounding import grounding
from castor.server.metadata import read_filter, read_metadata, values_of

PASSAGES = (
    "The lease ends on 3 May 2031, says the owner.",
    "Boil the leeks for twenty minutes.",
    "红色的船在港口里停了三天",
)


def supports(text: str, *more: dict[str, Any]) -> list[tuple[str, list[int], int]]:
    def source(passage: str) -> Any:
        hit = SimpleNamespace(text=passage, place=Place(), kind="text")
        return SimpleNamespace(hit=hit, chunk=dict)

    found = grounding([source(passage) for passage in PASSAGES], [*more, {"text": text}])
    made = []
    for support in found.get("groundingSupports", []):
        segment = support["segment"]
        assert text.encode()[segment["startIndex"] : segment["endIndex"]].decode() == segment["text"]
        made.append((segment["text"], support["groundingChunkIndices"], segment.get("partIndex", 0)))
    return made


def test_a_sentence_rests_on_what_it_names_or_quotes() -> None:
    assert supports("I think so. Boil the leeks for twenty minutes! Fine.") == [
        ("Boil the leeks for twenty minutes!", [1], 0)
    ]
    assert supports("It ends in May [1]. Ünder 4.5 pages, boil them. [2] [9]") == [
        ("It ends in May [1].", [0], 0),
        ("Ünder 4.5 pages, boil them. [2] [9]", [1], 0),
    ]
    assert supports("红色的船在港口里停了三天。") == [("红色的船在港口里停了三天。", [2], 0)]
    assert supports("Leeks for twenty") == [] and supports("the lease ends") == []
    assert supports("Soup [2].", {"text": "Soup [2].", "thought": True}) == [("Soup [2].", [1], 1)]


def test_filters_say_what_python_says() -> None:
    chance = random.Random(0)
    documents: list[dict[str, Any]] = [
        {
            key: value
            for key, value in (
                ("year", float(chance.randint(1, 4))),
                ("name", chance.choice(["ann", "bob", "anna"])),
                ("tags", tuple(chance.sample(["x", "y", "z"], chance.randint(1, 3)))),
            )
            if chance.random() < 0.8
        }
        for _ in range(60)
    ]
    leaves = {
        "year = 2": lambda d: d.get("year") == 2,
        "year != 2": lambda d: "year" in d and d["year"] != 2,
        "year<=2.5": lambda d: "year" in d and d["year"] <= 2.5,
        'year > "3"': lambda d: "year" in d and d["year"] > 3,
        "year: *": lambda d: "year" in d,
        'name = "ann"': lambda d: d.get("name") == "ann",
        "name = 'ann*'": lambda d: d.get("name", "").startswith("ann"),
        "name: *b": lambda d: d.get("name", "").endswith("b"),
        "name >= b": lambda d: d.get("name", "") >= "b",
        'tags: "x"': lambda d: "x" in d.get("tags", ()),
        "tags != x": lambda d: "tags" in d and "x" not in d["tags"],
        "tags = *y*": lambda d: "y" in d.get("tags", ()),
    }

    def made(depth: int) -> tuple[str, Any]:
        how = chance.choice(["leaf", "and", "or", "not", "side"]) if depth else "leaf"
        if how == "leaf":
            text, fits = chance.choice(list(leaves.items()))
            return text, fits
        text, fits = made(depth - 1)
        if how == "not":
            return f"{chance.choice(['NOT ', '-'])}({text})", lambda d: not fits(d)
        other_text, other = made(depth - 1)
        both = {"and": " AND ", "or": " OR ", "side": " "}[how].join([f"({text})", f"({other_text})"])
        return both, (lambda d: fits(d) or other(d)) if how == "or" else (lambda d: fits(d) and other(d))

    for _ in range(300):
        text, fits = made(3)
        condition = read_filter(text)
        assert [condition(d) for d in documents] == [fits(d) for d in documents], text
    assert read_filter("a = 1 AND b = 1 OR b = 2")({"a": 2.0, "b": 2.0}) is False, "OR binds closer"
    assert read_filter(r'a = "say \"hi\""')({"a": 'say "hi"'})


def test_metadata_is_checked_and_kept_as_it_came() -> None:
    entries = [
        {"key": "a", "stringValue": "x"},
        {"key": "b", "numericValue": 2020.0},
        {"key": "c", "stringListValue": {"values": ["x", "y"]}},
    ]
    assert read_metadata(entries) == entries
    assert read_metadata([{"key": "b", "numeric_value": "7"}]) == [{"key": "b", "numericValue": 7.0}]
    assert values_of(entries) == {"a": "x", "b": 2020.0, "c": ("x", "y")}
    for wrong in ([{"key": "a"}], [{"stringValue": "a"}], [entries[0], entries[0]], [entries[0]] * 21, {"a": 1}):
        with pytest.raises((ApiError, ValueError), match="customMetadata"):
            read_metadata(wrong)


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (5, 2), (7, 6), (100, 3)])
def test_windows_of_words(size: int, overlap: int) -> None:
    chance = random.Random(size)
    text = "".join(f"w{number}{chance.choice([' ', '  ', chr(10), chr(13) + chr(10)])}" for number in range(40))
    words, made = text.split(), windows(text, size, overlap)
    starts = [start for start in range(0, 40, size - overlap) if start == 0 or start + overlap < 40]
    assert [each.text.split() for each in made] == [words[start : start + size] for start in starts]
    lines = re.split(r"\r\n|\n", text)
    for each in made:
        inside = "\n".join(lines[each.first_line - 1 : each.last_line]).split()
        assert set(each.text.split()) <= set(inside)
        assert each.text.split()[0] in lines[each.first_line - 1] and each.text.split()[-1] in lines[each.last_line - 1]
    assert windows("  \n ", 3) == []
