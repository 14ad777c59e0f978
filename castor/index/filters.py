"""Which pieces a search may give: by kind, by path, by date. Told to SQLite, which knows the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from castor.index.piece import KINDS


@dataclass(frozen=True, kw_only=True)
class Filter:
    """All that is given must hold; of several kinds or paths, one.

    A path is a pattern (* ? [...]): of a name ("*.md"), or with a slash of the end of a path ("trips/*.jpg"), or of a
    whole one ("/home/ann/*"). Dates are YYYY, YYYY-MM, YYYY-MM-DD or with a time; a picture's is when it was taken,
    any other file's when it was last changed. `after` includes its day, `before` does not. `files` are whole paths, as
    they are and no patterns.
    """

    kinds: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    after: str | None = None
    before: str | None = None
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
        for name in ("after", "before"):
            if getattr(self, name) is not None:
                seconds_of(getattr(self, name))

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self == Filter()

    def where(self) -> tuple[str, dict[str, Any]]:
        """A condition on `files` and `contents`, with its values."""
        conditions, values = ["contents.problem IS NULL"], {}
        for column, name, given in (("contents.kind =", "kind", self.kinds), ("files.path GLOB", "path", self.paths)):
            if given:
                conditions.append("(" + " OR ".join(f"{column} :{name}{at}" for at in range(len(given))) + ")")
                patterns: Sequence[str] = [_glob(each) for each in given] if name == "path" else given
                values |= {f"{name}{at}": each for at, each in enumerate(patterns)}
        for name, sign in (("after", ">="), ("before", "<")):
            if (text := getattr(self, name)) is not None:
                conditions.append(f"coalesce(contents.taken_s, files.modified_ns / 1e9) {sign} :{name}")
                values[name] = seconds_of(text)
        if self.files is not None:
            conditions.append("files.path IN (SELECT value FROM json_each(:files))")
            values["files"] = json.dumps(self.files)
        return " AND ".join(conditions), values


def seconds_of(date: str) -> float:
    """The beginning of a date, in seconds since 1970 by this machine's clock; ValueError shows how one is written.

    A number of days such as "7d" is that long ago.
    """
    if date.endswith("d") and date[:-1].isdecimal():
        return (datetime.now() - timedelta(days=min(int(date[:-1]), 700_000))).timestamp()
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m", "%Y"):
        try:
            return datetime.strptime(date.replace(" ", "T"), form).timestamp()
        except (ValueError, OverflowError):
            continue
    raise ValueError(
        f"{date!r} is no date: write 2026, 2026-05, 2026-05-17, 2026-05-17T13:30, or 7d for seven days ago"
    )


def _glob(pattern: str) -> str:
    """A pattern of whole paths; * reaches across folders."""
    return pattern if pattern.startswith("/") else f"*/{pattern.removeprefix('./')}"
