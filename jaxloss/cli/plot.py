"""Pictures of losses: value and gradient against what a model puts out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from jaxloss.cli import pictures, tasks
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.table import Table


@dataclasses.dataclass(frozen=True)
class Panel:
    """One horizontal axis: what it shows, and the outputs of a model that it stands for."""

    label: str
    low: float
    high: float
    target: float
    classes: tuple[str, ...]
    outputs: Callable[[Array, int], Array]  # x, columns of the model -> its outputs


def _error(x: Array, columns: int) -> Array:
    variance_of_one = jnp.log(jnp.expm1(1.0))
    return jnp.stack([x, variance_of_one][:columns])


def _prediction(x: Array, columns: int) -> Array:
    return (x + jnp.log(-jnp.expm1(-x))).reshape(columns)  # softplus of it is x


def _log_rate(x: Array, columns: int) -> Array:
    return x.reshape(columns)


def _margin(x: Array, columns: int) -> Array:
    return jnp.stack([jnp.zeros_like(x), x])[-columns:]


ERROR = Panel("error: prediction − target", -3, 3, 0.0, (), _error)
PREDICTION = Panel("prediction (target 1)", 0.02, 4, 1.0, (), _prediction)
LOG_RATE = Panel("logarithm of the predicted rate (count 3)", -2, 3, 3.0, (), _log_rate)
MARGIN = Panel("margin: logit of the label, the other's 0", -4, 4, 1, ("other", "label"), _margin)
PANELS = {
    "number": ERROR,
    "positive number": PREDICTION,
    "count": LOG_RATE,
    "bit": MARGIN,
    "sign": MARGIN,
    "class": MARGIN,
    "distribution": MARGIN,
}


def curves(entry: Entry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a loss is drawn, its value there and its gradient, for a batch of one unit."""
    panel = PANELS[str(entry.learns)]
    table = Table(
        name="plot",
        columns=("x",),
        kinds=("number",),
        inputs=np.zeros((1, 1)),
        target="target",
        targets=np.array([panel.target]).astype(int if panel.classes else float),
        classes=panel.classes,
        raw=True,
    )
    objective = tasks.objective(entry, {}, table, np.arange(1))

    def loss(x: Array) -> Array:
        outputs = panel.outputs(x, objective.columns)[None]
        return objective(outputs, jnp.asarray(objective.targets)).value()

    x = jnp.linspace(panel.low, panel.high, 601)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(x)
    return np.asarray(x), np.asarray(values), np.asarray(gradients)


def draw(entries: Sequence[Entry]) -> Figure:
    """Values above, gradients below; losses of one kind of target share a column."""
    for entry in entries:
        if entry.learns not in PANELS:
            raise Mistake(f"{entry.name} is no curve of one error, margin or logit to draw.")
    panels = list(dict.fromkeys(PANELS[str(entry.learns)] for entry in entries))
    columns = len(panels)
    figure, axes = pictures.figure(2, [6] * columns, height=6.5)
    looks = pictures.styles([entry.name for entry in entries])
    for entry in entries:
        column = panels.index(PANELS[str(entry.learns)])
        (x, *rows), (colour, dash) = curves(entry), looks[entry.name]
        for axis, y in zip((axes[column], axes[columns + column]), rows, strict=True):
            axis.plot(x, y, label=entry.name, color=colour, linestyle=dash, linewidth=2)
    for column, panel in enumerate(panels):
        axes[column].legend(frameon=False, fontsize=9, handlelength=3)
        axes[columns + column].set_xlabel(panel.label)
        for axis in (axes[column], axes[columns + column]):
            axis.axhline(0, color="#888888", linewidth=0.8, zorder=1)
            axis.set_xlim(panel.low, panel.high)
    axes[0].set_ylabel("loss")
    axes[columns].set_ylabel("gradient")
    return figure
