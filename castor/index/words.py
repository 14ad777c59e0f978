"""Words as a full-text index takes them, and a question as a query to it.

SQLite's tokenizer cuts between letters and others; Chinese, Japanese, Korean and Thai run words together, so that
each of their characters stands as a word, and a run of them in a question must be found as a run.
"""

from __future__ import annotations

import re
import unicodedata

# Han with extensions, kana, Hangul syllables, Thai and Lao.
RUN_TOGETHER = "\u2e80-\u2fdf\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0eff\U00020000-\U0003ffff"
ONE = re.compile(f"([{RUN_TOGETHER}])")
TERMS = re.compile(f"[{RUN_TOGETHER}]+|[^\\W_{RUN_TOGETHER}]+")


def spaced(text: str) -> str:
    """The text with each run-together character as a word, and marks composed.

    "红色 circle_2" -> " 红  色  circle 2"
    """
    return ONE.sub(r" \1 ", unicodedata.normalize("NFC", text)).replace("_", " ")


def terms(question: str) -> list[str]:
    """The words of a question, each once: "Red 红色, red" -> ["red", "红色"]."""
    found = TERMS.findall(unicodedata.normalize("NFC", question).replace("_", " "))
    return list(dict.fromkeys(term.lower() for term in found))


def phrase(term: str) -> str:
    """A term as FTS5 asks for it: a string, in which a run of characters is a phrase."""
    return '"' + " ".join(spaced(term).split()).replace('"', '""') + '"'
