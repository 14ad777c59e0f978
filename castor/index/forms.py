"""What a file is to an index, told from its first bytes and, where these are text, from its name."""

from __future__ import annotations

from pathlib import PurePath

from castor.media.sniff import sniff

MEDIA_FORMS = ("image", "audio", "video", "document")
TEXT_FORMS = {"markdown": "text", "text": "text", "python": "code", "code": "code"}  # form -> kind
MARKDOWN = {".md", ".markdown", ".mdown", ".mkd"}
PYTHON = {".py", ".pyi", ".pyw"}
CODE = {
    ".c", ".cc", ".cpp", ".cs", ".css", ".cu", ".dart", ".ex", ".go", ".h", ".hpp", ".hs", ".java", ".jl", ".js",
    ".jsx", ".kt", ".lua", ".m", ".mjs", ".ml", ".php", ".pl", ".r", ".rb", ".rs", ".scala", ".scss", ".sh", ".sql",
    ".swift", ".ts", ".tsx", ".vue", ".zig",
}  # fmt: skip
# Text to a program, not to a reader.
NOT_READ = (".lock", ".map", ".svg", ".min.js", ".min.css", ".ipynb", ".jsonl")


def form_of(head: bytes, path: str) -> str | None:
    """ "image", "audio", "video", "document", a key of `TEXT_FORMS`, or None where it is none of these.

    `head` is the file's first kilobytes. Of an animation the first picture is meant.
    """
    mime_type = sniff(head)
    if mime_type is not None:
        kind = mime_type.partition("/")[0]
        return "document" if kind == "application" else kind
    if not is_text(head):
        return None
    name = PurePath(path).name.lower()
    suffix = PurePath(name).suffix
    if name.endswith(NOT_READ):
        return None
    if suffix in MARKDOWN:
        return "markdown"
    return "python" if suffix in PYTHON else "code" if suffix in CODE else "text"


def kind_of(form: str) -> str:
    """The kind of piece that a form gives: one of `castor.index.piece.KINDS`."""
    return TEXT_FORMS.get(form, form)


def is_text(head: bytes) -> bool:
    """Whether bytes look like UTF-8 text: no control characters, and nothing malformed but at the cut end."""
    if b"\0" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3 or "unexpected end" not in error.reason:
            return False
        text = head[: error.start].decode("utf-8")
    return sum(letter < " " and letter not in "\t\n\r\f\x1b" for letter in text) * 100 <= len(text)
