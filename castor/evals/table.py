"""A report as a table for the terminal."""

from typing import TYPE_CHECKING

from castor.evals.report import Report, Row
from castor.evals.retrieval import RetrievalReport

if TYPE_CHECKING:
    from rich.table import Table

_VERDICTS = {
    "above chance": ("green", "above"),
    "below chance": ("red", "below"),
    "not told apart from chance": ("yellow", "unclear"),
    "too few": ("dim", "few"),
}


def report_table(report: Report, *, slices: bool = True) -> "Table":
    """A rich table; with `slices=False` only each task's score over all examples."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    caption = "↑ higher is better · ↓ lower is better"
    table = Table(title=report.summary, caption=caption, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("ability", "metric"):
        table.add_column(name)
    for name in ("n", "score", "95 %", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    last_task = ""
    for row in report.rows:
        if not slices and not (row.slice == "all" and row.is_main):
            continue
        if last_task and row.task != last_task and slices:
            table.add_section()
        table.add_row(*_cells(row, is_first=row.task != last_task))
        last_task = row.task
    return table


def _cells(row: Row, *, is_first: bool) -> list[str]:
    style, word = _VERDICTS[row.verdict]
    name = row.title if is_first else f"  {row.slice.replace('_', ' ')}" if row.slice != "all" else ""
    return [
        f"[bold]{name}[/bold]" if is_first else name,
        f"{row.metric} {row.arrow}",
        str(row.n),
        f"[bold]{row.number(row.score)}[/bold]" if row.is_main else row.number(row.score),
        row.interval.replace(" ", ""),
        row.number(row.chance),
        f"[{style}]{word}[/{style}]",
    ]


def retrieval_tables(report: RetrievalReport) -> list["Table"]:
    """Two rich tables: the pools with whole vectors, and what smaller vectors keep."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tables = []
    for names, rows in (
        (("pool", "slice", "queries", "targets", "R@1", "95 %", "R@5", "nDCG@10", "chance"), report.cells()),
        (("dimensions", "storage", "mean R@1", "kept"), report.kept_cells()),
    ):
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, name in enumerate(names):
            table.add_column(name, justify="left" if number < 2 else "right")
        for cells in rows:
            table.add_row(*cells)
        tables.append(table)
    return tables
