"""Pictures of a run: our time over the peers', how time grows, and how near to the limits."""

from __future__ import annotations

import math
import re
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.rows import Results, Row, fraction, limits

COLOURS = {
    "optax": "#3b76af",
    "torch": "#d8743b",
    "torch compiled": "#a34d1f",
    "keras": "#4f9d5d",
    "tokamax": "#8e63a8",
}
OTHER, MOST = "#777777", 24  # workloads of one picture


def save(results: Results, folder: Path) -> list[Path]:
    """`ratios-SUITE.png`, `scaling.png` and `roofline.png`, of what the run has."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for suite in dict.fromkeys(row.suite for row in results.rows):
        rows = [row for row in results.rows if row.suite == suite and _ratios(row)]
        pages = math.ceil(len(rows) / MOST)
        for page in range(pages):
            part = rows[len(rows) * page // pages : len(rows) * (page + 1) // pages]
            name = f"ratios-{suite}" + (f"-{page + 1}" if pages > 1 else "")
            found.append(_saved(ratios(part, suite), folder / f"{name}.png"))
    if any(row.suite == "scaling" for row in results.rows):
        found.append(_saved(scaling(results), folder / "scaling.png"))
    if any(row.work.amounts() for row in results.rows):
        found.append(_saved(roofline(results), folder / "roofline.png"))
    return found


def _saved(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure).print_png(path)
    return path


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _ratios(row: Row) -> dict[str, tuple[float, float, float]]:
    found = {who: row.ratio(who) for who in row.contenders}
    return {who: (r.middle, r.low, r.high) for who, r in found.items() if r}


def ratios(rows: list[Row], suite: str) -> Figure:
    """Bars of our time over each peer's, from 1, with their intervals."""
    bars = [(row.name, who, *r) for row in rows for who, r in _ratios(row).items()]
    figure, axes = _axes(11, 1.2 + 0.24 * len(bars))
    last = None
    for i, (name, who, middle, low, high) in enumerate(bars):
        colour = COLOURS.get(who, OTHER)
        axes.barh(i, middle - 1, left=1, color=colour, height=0.75)
        axes.plot([low, high], [i, i], color="black", linewidth=1)
        axes.text(1.01, i, f" {who}", va="center", fontsize=7, transform=axes.get_yaxis_transform())
        bars[i] = (name if name != last else "", who, middle, low, high)
        last = name
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xscale("log")
    ticks = [t for t in (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30) if _within(t, bars)]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("our time / theirs; left of 1 is faster")
    axes.set_title(suite)
    return figure


def _within(tick: float, bars: list[tuple[str, str, float, float, float]]) -> bool:
    ends = [end for bar in bars for end in bar[2:]] + [1.0]
    return min(ends) / 2 <= tick <= 2 * max(ends)


def scaling(results: Results) -> Figure:
    """Time by size, on logarithmic axes, a line for each thing that grows."""
    figure, axes = _axes(8, 5)
    lines: dict[str, list[tuple[float, float]]] = {}
    slopes: dict[str, float] = {}
    for row in results.rows:
        if row.suite == "scaling" and row.ours.median:
            what, _, size = row.name.rpartition(": ")
            lines.setdefault(what, []).append((float(size), 1e3 * row.ours.median))
            slopes[what] = row.ours.figures.get("slope of time", 0)
    for what, points in lines.items():
        label = f"{what}, slope {slopes[what]:.2f}"
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="size", ylabel="ms", title="how time grows")
    axes.legend(fontsize=8, frameon=False, loc=(0.52, 0.72))
    return figure


def roofline(results: Results) -> Figure:
    """How much of the limit each workload of ours reached, by the bytes or flops that it needs."""
    figure, axes = _axes(8, 5)
    known = limits(results.rows)
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in results.rows:
        reached = fraction(row, row.ours, known)
        if reached is not None and row.ours.median:
            amounts = row.work.amounts()
            binding = max(amounts, key=lambda name: amounts[name] / known[name])
            kind = re.sub(", .*", "", binding)
            least = 1e3 * amounts[binding] / known[binding]
            groups.setdefault(kind, []).append((least, 1e3 * row.ours.median))
    for kind, points in groups.items():
        axes.scatter(*zip(*points, strict=True), s=14, label=kind)
    ends = [end for points in groups.values() for x, y in points for end in (x, y)]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", title="time, and the least time that the limit allows")
    axes.set(xlabel="least time at the limit that binds, ms", ylabel="time of ours, ms")
    axes.legend(fontsize=8, frameon=False)
    return figure
