"""A report as a table for the terminal."""

from typing import TYPE_CHECKING

from castor.evals.report import Report, Row

if TYPE_CHECKING:
    from rich.table import Table

_VERDICT_STYLE = {"above chance": "green", "below chance": "red"}


def report_table(report: Report, *, slices: bool = True) -> "Table":
    """A rich table; with `slices=False` only each task's score over all examples."""
    from rich.table import Table

    table = Table(
        title=report.summary, caption="↑ higher is better · ↓ lower is better", title_justify="left"
    )
    for name, justify in (
        ("ability", "left"),
        ("slice", "left"),
        ("metric", "left"),
        ("n", "right"),
        ("score", "right"),
        ("95 % interval", "right"),
        ("chance", "right"),
        ("verdict", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name not in ("ability", "verdict"))
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
    style = _VERDICT_STYLE.get(row.verdict, "yellow")
    return [
        row.title if is_first else "",
        row.slice.replace("_", " "),
        f"{row.metric} {row.arrow}",
        str(row.n),
        f"[bold]{row.number(row.score)}[/bold]" if row.is_main else row.number(row.score),
        row.interval,
        row.number(row.chance),
        f"[{style}]{row.verdict}[/{style}]",
    ]
