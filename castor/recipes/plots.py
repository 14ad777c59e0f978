"""Pictures of a run: loss, share guessed right, rate. Needs matplotlib (the `train` extra); without it, none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from castor.log import read_metrics


def plot_run(folder: str | Path) -> list[Path]:
    """Draw `curves.png` from the metrics of a run's stages; gives the files made."""
    folder = Path(folder)
    stages = {name: read_metrics(folder / name / "metrics.jsonl") for name in ("pretrain", "tune")}
    if find_spec("matplotlib") is None or not any(stages.values()):
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "text_loss": "nats a piece of text",
        "code_loss": "nats a picture code",
        "tokens_per_s": "tokens/s",
    }
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        first = 0
        for stage, rows in stages.items():
            points = [(first + row["step"], row[key]) for row in rows if key in row]
            if points:
                steps, values = zip(*points, strict=True)
                panel.plot(steps, _smooth(list(values)), label=stage, linewidth=1.2)
                first = steps[-1]
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(folder / "curves.png", dpi=110)
    return [folder / "curves.png"]


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """A running mean that forgets slowly and starts unbiased."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed
