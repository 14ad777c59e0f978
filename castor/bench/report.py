"""The figures as a table in a terminal and as a picture."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from castor.bench.run import Figures


def table(figures: Figures) -> Table:
    """A row for each point, and for each peer."""
    about, ceilings = figures.about, figures.ceilings
    flops = ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in ceilings.flops.items())
    made = Table(
        title=f"{about['model']}, {about['weights']}, {about['precision']}, {about['threads']} threads",
        caption=(
            f"{about['hardware']}; memory {ceilings.bytes_per_s / 1e9:.1f} GB/s, {flops}; "
            f"{figures.cost.weight_bytes / 1e6:,.1f} MB of weights a step; medians of {about['rounds']}"
        ),
        title_justify="left",
        caption_justify="left",
    )
    made.add_column("", no_wrap=True)
    for name in ("rows", "prompt", "first, ms", "read/s", "matrix", "write/s", "memory"):
        made.add_column(name, justify="right", no_wrap=True)
    for point in figures.points:
        made.add_row(
            "castor",
            str(point.batch),
            str(point.context),
            f"{1000 * point.first_s:,.1f}",
            f"{point.prefill_per_s:,.0f}",
            f"{100 * point.matrix_share:.0f} %",
            f"{point.decode_per_s:,.1f}",
            f"{100 * point.bandwidth_share:.0f} %",
        )
    for peer in figures.peers:
        first = f"{1000 * peer.context / peer.prefill_per_s:,.1f}"
        read, written = f"{peer.prefill_per_s:,.0f}", f"{peer.decode_per_s:,.1f}"
        made.add_row(peer.name, "1", str(peer.context), first, read, "", written, "")
    return made


def check_drawing() -> None:
    """ValueError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise ValueError("a picture needs matplotlib: pip install 'castor[train]'")


def draw(figures: Figures, path: str | Path) -> Path:
    """Tokens a second by requests at once, a line for each length of prompts; ValueError without matplotlib."""
    check_drawing()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    contexts = sorted({point.context for point in figures.points})
    for panel, name, title in zip(
        panels,
        ("prefill_per_s", "decode_per_s"),
        ("prompt tokens read a second", "tokens written a second"),
        strict=True,
    ):
        for context in contexts:
            own = [point for point in figures.points if point.context == context]
            values = [getattr(point, name) for point in own]
            panel.plot([p.batch for p in own], values, marker="o", label=f"castor, prompts of {context}")
        for peer in figures.peers:
            if peer.context == contexts[-1]:
                panel.plot([1], [getattr(peer, name)], marker="x", linestyle="", label=peer.name)
        panel.set_xlabel("requests at once")
        panel.set_title(title)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[1].legend(fontsize=8)
    about = figures.about
    figure.suptitle(f"{about['model']}, {about['weights']}, {about['precision']}, {about['threads']} threads")
    figure.savefig(path, dpi=110)
    return Path(path)
