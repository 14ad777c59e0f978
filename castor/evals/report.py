"""A report: one row per task, slice and metric, with how sure it is and what chance would give.

It leaves out how answers were made (`evaluate`) and how a terminal shows them (`table`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MIN_EXAMPLES = 8  # fewer than this, and no verdict is given


@dataclass(frozen=True, kw_only=True)
class Row:
    """A score: `slice` is "all", a language, or a tag such as "unseen_combination"."""

    task: str
    title: str
    slice: str
    metric: str
    n: int
    score: float
    low: float  # 95 % interval
    high: float
    chance: float | None  # what an answer ignorant of the question scores; None where it cannot be told
    higher_is_better: bool = True
    is_fraction: bool = True
    unit: str = ""
    is_main: bool = True  # the task's first metric

    @property
    def verdict(self) -> str:
        """ "above chance" only if the whole interval lies on the better side of chance.

        A chance of nothing seen in n examples is taken as one in n: a single hit is no skill.
        """
        if self.chance is None or self.n < MIN_EXAMPLES:
            return "too few"
        chance = max(self.chance, 1 / self.n) if self.is_fraction and self.higher_is_better else self.chance
        if self.low > chance:
            return "above chance" if self.higher_is_better else "below chance"
        if self.high < self.chance:
            return "below chance" if self.higher_is_better else "above chance"
        return "not told apart from chance"

    @property
    def direction(self) -> str:
        """In words, which way is better."""
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def arrow(self) -> str:
        """As a sign, which way is better."""
        return "↑" if self.higher_is_better else "↓"

    def number(self, value: float | None) -> str:
        """A value as this row's metric prints it: "84.2 %" or "21.3 dB"."""
        if value is None:
            return "–"
        if self.is_fraction:
            return f"{100 * value:.1f} %"
        return f"{value:.1f} {self.unit}".strip()

    @property
    def interval(self) -> str:
        """The 95 % interval as this row's metric prints it: "81.0 – 87.1"."""
        scale = 100 if self.is_fraction else 1
        return f"{scale * self.low:.1f} – {scale * self.high:.1f}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of one evaluation, and what it was run with."""

    rows: tuple[Row, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # model, seed, limits, seconds

    def row(self, task: str, slice: str = "all", metric: str | None = None) -> Row:
        """One row; the task's main metric unless another is named.  Raises ValueError where there is none."""
        for row in self.rows:
            if (row.task, row.slice) == (task, slice) and (row.metric == metric if metric else row.is_main):
                return row
        raise ValueError(f"the report has no row for task {task!r}, slice {slice!r}, metric {metric or 'main'!r}")

    def overall(self) -> tuple[Row, ...]:
        """The main metric of every task over all its examples."""
        return tuple(row for row in self.rows if row.slice == "all" and row.is_main)

    @property
    def summary(self) -> str:
        """One line: how many abilities are above chance."""
        overall = self.overall()
        above = sum(row.verdict == "above chance" for row in overall)
        return f"{above} of {len(overall)} abilities are above chance"

    def to_json(self) -> dict[str, Any]:
        """JSON values; each row also carries its direction and verdict."""
        rows = [{**asdict(row), "direction": row.direction, "verdict": row.verdict} for row in self.rows]
        return {"settings": dict(self.settings), "summary": self.summary, "rows": rows}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Report":
        """The report that `to_json` wrote."""
        derived = ("direction", "verdict")
        rows = ({key: value for key, value in row.items() if key not in derived} for row in obj["rows"])
        return cls(rows=tuple(Row(**row) for row in rows), settings=dict(obj["settings"]))

    def dumps(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """A Markdown table for the results page: the slices of a task follow its "all" row."""
        lines = [
            "| Ability | Slice | Metric | n | Score | 95 % interval | Chance | Verdict |",
            "|---|---|---|--:|--:|--:|--:|---|",
        ]
        for row in self.rows:
            title = row.title if row.slice == "all" and row.is_main else ""
            score = f"**{row.number(row.score)}**" if row.is_main and row.slice == "all" else row.number(row.score)
            cells = (
                title,
                row.slice.replace("_", " "),
                f"{row.metric} {row.arrow}",
                str(row.n),
                score,
                row.interval,
                row.number(row.chance),
                row.verdict,
            )
            lines.append("| " + " | ".join(cells) + " |")
        notes = (
            "↑ higher is better, ↓ lower is better (error rates; more than 100 % is possible). "
            "Chance is the best of the answers that ignore the picture or sound, by the same score: "
            "another example's reference, the best fixed answer, the most frequent answer to that "
            "sort of question, and one of the choices where there are some. "
            '"above chance" means that the whole 95 % interval is on the better side of it, and of one in n.'
        )
        return "\n".join([*lines, "", f"{self.summary}.", "", notes, ""])
