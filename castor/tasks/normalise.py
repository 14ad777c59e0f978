"""Forms under which two answers are the same: case, width, punctuation and spacing are not knowledge."""

import re
import unicodedata

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "km"})

_IN_NUMBER = re.compile(r"(?<=\d)[.,:/](?=\d)|(?<![\w.])[-\u2212](?=\d)")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?\d[\d,]*(?:\.\d+)?")


def _is_kept(character: str) -> bool:
    return character.isspace() or unicodedata.category(character)[0] in "LMN"


def normalise(text: str) -> str:
    """Folded text: NFKC, case-folded, without punctuation, single spaces.  "Red,  Circle." -> "red circle".

    A sign, decimal point or slash that belongs to a number stays ("-3.5", "1/2"); a hyphen between words
    becomes a space; other punctuation and symbols vanish.
    """
    folded = _fold(text)
    while folded != text:  # what vanishes may bring a sign and a number together: "0!-0" -> "0-0" -> "0 0"
        text, folded = folded, _fold(folded)
    return folded


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    kept_at = {match.start() for match in _IN_NUMBER.finditer(text)}
    pieces = []
    for at, character in enumerate(text):
        if at in kept_at:
            pieces.append("-" if character == "\u2212" else character)
        elif _is_kept(character):
            pieces.append(character)
        elif unicodedata.category(character) == "Pd":
            pieces.append(" ")
    return " ".join("".join(pieces).split())


def units(text: str, language: str) -> list[str]:
    """The units errors are counted in: words, or characters where the script writes no spaces."""
    folded = normalise(text)
    if language.split("-")[0].lower() in UNSPACED_LANGUAGES:
        return list(folded.replace(" ", ""))
    return folded.split()


def final_number(text: str) -> float | None:
    """The last number written in a text, which is where worked steps end.  "3+4=7, 7*2=14" -> 14.0"""
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text))
    if not found:
        return None
    return float(found[-1].replace("\u2212", "-").replace(",", ""))
