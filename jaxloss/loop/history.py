"""What happened in training: curves, as numbers, as a table and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from jax.typing import ArrayLike

from jaxloss.core.statistics import Statistic
from jaxloss.train.objective import as_mean
from jaxloss.train.step import TrainState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOTHING = (0.0, 0.0)


@dataclasses.dataclass
class History:
    """The curves of a training, one point per row: per epoch, or per `every` steps.

    `history["loss"]` is a NumPy array, NaN where a mean has weight 0 or was not computed. Values
    of `evaluate` have names such as "validation_loss".

    Args:
        best: The index of the row with the best validation loss, if there is one.
        best_state: A copy of the state at that row, if `fit` was given `stop`.
        stopped: How it ended: "finished", "early" by `stop`, "exhausted" for want of batches,
            "interrupted" by Ctrl-C, or "terminated" by SIGTERM.

    Example:
        >>> history = jaxloss.History()
        >>> history.record(0, 10, {"loss": 2.0})
        >>> history.record(1, 20, {"loss": jaxloss.Mean.of(jnp.array([1.0, 0.0]))})
        >>> print(history.steps, history["loss"])
        [10 20] [2.  0.5]
    """

    best: int | None = None
    best_state: TrainState | None = dataclasses.field(default=None, repr=False)
    stopped: Literal["finished", "early", "exhausted", "interrupted", "terminated"] = "finished"
    _steps: list[int] = dataclasses.field(default_factory=list, repr=False)
    _rows: list[dict[str, tuple[float, float]]] = dataclasses.field(
        default_factory=list, repr=False
    )

    def record(self, row: int, step: int, metrics: Mapping[str, ArrayLike | Statistic]) -> None:
        """Adds means to those of a row, which now ends at `step`; the sums are in float64."""
        if row == len(self._rows):
            self._rows.append({})
            self._steps.append(step)
        self._steps[row] = step
        for name, metric in metrics.items():
            total, weight = self._rows[row].get(name, _NOTHING)
            more, times = _sums(metric)
            self._rows[row][name] = (total + more, weight + times)

    def to_json(self) -> dict[str, object]:
        """A copy of all but `best_state` and `stopped`, for `from_json`."""
        return {
            "best": self.best,
            "steps": list(self._steps),
            "rows": [dict(row) for row in self._rows],
        }

    @classmethod
    def from_json(
        cls,
        best: int | None,
        steps: list[int],
        rows: list[dict[str, tuple[float, float]]],
    ) -> History:
        """The history of which these are the `to_json`."""
        return cls(
            best=best,
            _steps=list(steps),
            _rows=[{name: (sums[0], sums[1]) for name, sums in row.items()} for row in rows],
        )

    @property
    def steps(self) -> np.ndarray:
        """The number of updates made at the end of each row."""
        return np.array(self._steps, int)

    @property
    def names(self) -> list[str]:
        """The names of the curves."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(f"no curve is called {name!r}; there are {', '.join(self.names)}.")
        return np.array([_quotient(row.get(name, _NOTHING)) for row in self._rows])

    def last(self, name: str) -> float:
        """The value of a curve in the last row."""
        return _quotient(self._rows[-1].get(name, _NOTHING))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line per row; a gap is an empty cell. The file appears when it is whole."""
        curves = {name: self[name] for name in self.names}

        def write(unfinished: pathlib.Path) -> None:
            with unfinished.open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["step", *curves])
                for step, *values in zip(self._steps, *curves.values(), strict=True):
                    table.writerow([step, *("" if np.isnan(v) else float(v) for v in values)])

        _atomically(path, write)

    def plot(self, where: str | os.PathLike[str] | Axes) -> Axes:
        """Draws training and validation loss, on given axes or into an image file.

        The best row is marked.
        """
        if not isinstance(where, (str, os.PathLike)):
            return self._draw(where)
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                "History.plot needs matplotlib: pip install 'jaxloss[demo]'."
            ) from missing
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = self._draw(figure.add_subplot())
        _atomically(where, lambda path: figure.savefig(path, dpi=150))
        return axes

    def _draw(self, axes: Axes) -> Axes:
        curves = [(name, self[name]) for name in ("loss", "validation_loss") if name in self.names]
        for name, curve in curves:
            label = "validation loss" if name.startswith("validation") else "training loss"
            axes.plot(self.steps, curve, label=label, marker="." if len(curve) < 40 else "")
        if self.best is not None:
            _, curve = curves[-1]
            step, value = self.steps[self.best], curve[self.best]
            axes.plot(step, value, "k*", markersize=11, label=f"best: {value:.4g} at step {step}")
        known = np.concatenate([curve[np.isfinite(curve)] for _, curve in curves] or [np.ones(1)])
        if known.size and known.min() > 0 and known.max() > 20 * known.min():
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        return axes


def _sums(metric: ArrayLike | Statistic) -> tuple[float, float]:
    if isinstance(metric, Statistic):
        mean = as_mean(metric)
        return float(mean.total), float(mean.weight)
    return float(np.asarray(metric)), 1.0


def _quotient(total_and_weight: tuple[float, float]) -> float:
    total, weight = total_and_weight
    return total / weight if weight else np.nan


def _atomically(path: str | os.PathLike[str], write: Callable[[pathlib.Path], object]) -> None:
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
