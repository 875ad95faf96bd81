"""What all pictures share: a figure without a display, colours that everyone tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxloss.cli import folder

# Okabe and Ito, "Color Universal Design", 2008
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash for each name."""
    looks = zip(cycle(COLOURS), cycle(DASHES), strict=False)
    return dict(zip(names, looks, strict=False))


def figure(rows: int, widths: Sequence[float], *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its axes, row by row, with light grids and open frames."""
    made = Figure(figsize=(sum(widths), height), layout="constrained")
    grid = made.add_gridspec(rows, len(widths), width_ratios=widths)
    axes = [made.add_subplot(place) for place in grid]
    for one in axes:
        one.grid(color="#DDDDDD", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def save(made: Figure, path: Path) -> None:
    """Writes the picture as PNG."""
    folder.save(path, lambda temporary: made.savefig(temporary, dpi=150, format="png"))
