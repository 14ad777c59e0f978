"""A scaling law fitted to rows of `bench/study.py`: L(N, D) = E + A / N^a + B / D^b, its picture, and what it advises.

The form is that of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models". With nine points and five
numbers the exponents are loose: every fit is repeated without each of its points, and the range is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study_tables import COLUMNS, Rows, effort, modality_losses, table  # beside this file

KEYS = tuple(key for key in COLUMNS if key != "a drawing")
EXPONENTS = np.geomspace(0.03, 3.0, 60)
MINUTES = (15, 60, 240)  # for which the best size is told


@dataclass(frozen=True, kw_only=True)
class Law:
    """L(N, D) = floor + size / N^size_power + data / D^data_power, N parameters and D tokens, both in millions."""

    floor: float
    size: float
    size_power: float
    data: float
    data_power: float
    error: float  # root of the mean squared relative error

    def __call__(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        return self.floor + self.size / np.power(n, self.size_power) + self.data / np.power(d, self.data_power)

    def best(self, tokens: np.ndarray, sizes: np.ndarray) -> int:
        """The index of the best of these sizes, each seeing as many million tokens as stand beside it."""
        return int(self(sizes, tokens).argmin())


def fit_law(n: Sequence[float], d: Sequence[float], losses: Sequence[float]) -> Law:
    """The law with the least relative error: exponents from a grid, then finer ones; the rest by least squares."""
    points = np.asarray(n, float), np.asarray(d, float), np.asarray(losses, float)
    law, step = _best_of(*points, EXPONENTS, EXPONENTS), EXPONENTS[1] / EXPONENTS[0]
    for _ in range(3):
        spread = np.geomspace(1 / step, step, 15)
        law, step = _best_of(*points, law.size_power * spread, law.data_power * spread), spread[1] / spread[0]
    return law


def _best_of(n: np.ndarray, d: np.ndarray, losses: np.ndarray, a_X: np.ndarray, b_Y: np.ndarray) -> Law:
    """The best law with exponents among these: with them given it is linear in the rest, which must not be negative."""
    a_G, b_G = (grid.ravel() for grid in np.meshgrid(a_X, b_Y, indexing="ij"))
    ones_GP = np.ones((len(a_G), len(n)))
    terms_GPK = np.stack([ones_GP, n ** -a_G[:, None], d ** -b_G[:, None]], axis=2) / losses[:, None]
    best = Law(floor=0.0, size=0.0, size_power=1.0, data=0.0, data_power=1.0, error=math.inf)
    for chosen in ([0, 1, 2], [1, 2], [0, 1], [0, 2], [0], [1], [2]):
        found_GK = np.zeros((len(a_G), 3))
        found_GK[:, chosen] = np.linalg.pinv(terms_GPK[:, :, chosen]).sum(2)
        error_G = np.square(np.einsum("gpk,gk->gp", terms_GPK, found_GK) - 1).mean(1)
        error_G[(found_GK < 0).any(1)] = math.inf
        at = int(error_G.argmin())
        if (error := math.sqrt(error_G[at])) < best.error:
            floor, size, data = (float(value) for value in found_GK[at])
            powers = float(a_G[at]), float(b_G[at])
            best = Law(floor=floor, size=size, size_power=powers[0], data=data, data_power=powers[1], error=error)
    return best


def points_of(rows: Rows, key: str) -> tuple[list[float], list[float], list[float]]:
    """Parameters and tokens of the rows, in millions, and their losses."""
    n = [result["parameters"] / 1e6 for _, result in rows]
    d = [result["tokens"] / 1e6 for _, result in rows]
    return n, d, [modality_losses(result)[key] for _, result in rows]


def without_each(n: Sequence[float], d: Sequence[float], losses: Sequence[float]) -> list[Law]:
    """The fits that leave out one point each."""
    kept = [[at for at in range(len(n)) if at != left] for left in range(len(n))]
    return [fit_law(*([values[at] for at in ats] for values in (n, d, losses))) for ats in kept]


def seconds_a_million(rows: Rows) -> tuple[float, float] | None:
    """Seconds that a million tokens take, as a line in the size: (at none, more for each million parameters).

    By the median step of each row; None where it does not rise, as when other work ran beside some rows.
    """
    n, seconds = [], []
    for _, result in rows:
        config = result["asked"]["config"]
        tokens_a_step = result["tokens"] / (config["pretrain_steps"] + config["tune_steps"])
        n.append(result["parameters"] / 1e6)
        seconds.append(1e6 * result["step_s"] / tokens_a_step)
    slope, base = (float(value) for value in np.polyfit(n, seconds, 1))
    return (base, slope) if slope > 0 and base > 0 else None


def scaling_report(rows: Rows, folder: Path) -> str:
    """All tables, and the picture where every size and count is done."""
    cells = [[name, *(f"{modality_losses(result)[key]:.3f}" for key in KEYS)] for name, result in rows]
    parts = ["Held-out loss in nats a piece of text, and a picture code.\n", table(["", *KEYS], cells)]
    if len({result["parameters"] for _, result in rows}) < 3 or len(rows) < 6:
        return "\n".join([*parts, "A law needs three sizes and six rows.\n", effort(rows)])
    laws = {key: fit_law(*points_of(rows, key)) for key in KEYS}
    parts += [
        "L = E + A / N^a + B / D^b, N parameters and D tokens in millions; error: root mean square, relative. In "
        "brackets the range of fits that leave out one row each.\n",
        table(["", "E", "A", "a", "B", "b", "error"], [_law_row(key, laws[key], rows) for key in KEYS]),
        _advice(laws, rows),
        "Effort.\n",
        effort(rows),
    ]
    if (picture := draw(rows, laws, folder / "scaling.png")) is not None:
        parts.append(f"![losses and fits]({picture.name})\n")
    return "\n".join(parts)


def _law_row(key: str, law: Law, rows: Rows) -> list[str]:
    others = without_each(*points_of(rows, key))
    cells = [key]
    for name in ("floor", "size", "size_power", "data", "data_power"):
        values = [getattr(other, name) for other in others]
        cells.append(f"{getattr(law, name):.2f} ({min(values):.2f} – {max(values):.2f})")
    return [*cells, f"{100 * law.error:.1f} %"]


def _advice(laws: Mapping[str, Law], rows: Rows) -> str:
    """The best size for some minutes on this machine, and for a number of operations, six a parameter and token."""
    sizes, time = np.geomspace(0.3, 100, 400), seconds_a_million(rows)
    budgets: dict[str, np.ndarray] = {}
    told = "The best size in millions of parameters, and the millions of tokens that it then sees. "
    if time is None:
        told += "Nothing is said of minutes, as larger rows were not slower: other work ran beside them. "
    else:
        budgets = {f"{m} min of one lane": 60 * m / (time[0] + time[1] * sizes) for m in MINUTES}
        told += f"Minutes take a million tokens' time here, {time[0]:.0f} s + {time[1]:.1f} s a million parameters. "
    largest = max(result["parameters"] * result["tokens"] for _, result in rows) / 1e12
    for times in (1, 10):
        budgets[f"{6 * times * largest:.1f} · 10^12 operations"] = times * largest / sizes
    told += "Operations are six a parameter and token: the largest row's, and ten times as many. "
    lines = []
    for name, tokens in budgets.items():
        best = {key: law.best(tokens, sizes) for key, law in laws.items()}
        lines.append([name, *(_choice(sizes, at, tokens[at]) for at in best.values())])
    return "\n".join([told + "What lies far outside the rows is a guess.\n", table(["", *laws], lines)])


def _choice(sizes: np.ndarray, at: int, tokens: float) -> str:
    edge = "≤ " if at == 0 else "≥ " if at == len(sizes) - 1 else ""
    return f"{edge}{sizes[at]:.1f}, {tokens:.1f}"


def draw(rows: Rows, laws: Mapping[str, Law], path: Path) -> Path | None:
    """A panel for each modality: losses over tokens, one line a size as fitted; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator
    except ImportError:
        return None
    figure = Figure(figsize=(3.4 * len(KEYS), 3.6), layout="constrained")
    for panel, key in zip(figure.subplots(1, len(KEYS)), KEYS, strict=True):
        n, d, losses = (np.array(values) for values in points_of(rows, key))
        over = np.geomspace(d.min() / 1.3, d.max() * 1.3, 60)
        for colour, size in enumerate(sorted(set(n))):
            panel.plot(d[n == size], losses[n == size], "o", color=f"C{colour}")
            panel.plot(over, laws[key](size, over), color=f"C{colour}", linewidth=1.2, label=f"{size:.1f}M parameters")
        panel.set_xscale("log")
        panel.set_yscale("log")
        for axis, values in ((panel.xaxis, d), (panel.yaxis, losses)):
            axis.set_minor_locator(NullLocator())
            axis.set_major_locator(FixedLocator(np.geomspace(values.min(), values.max(), 4).tolist()))
            axis.set_major_formatter(FormatStrFormatter("%.2g"))
        panel.set_title("nats a picture code" if key == "a code" else f"{key}: nats a piece")
        panel.set_xlabel("million tokens")
        panel.grid(alpha=0.3, which="both")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
    return path
