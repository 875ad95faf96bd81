"""The textbook example: w·x + b through points of y = 3.7x - 1.3, one full batch after another."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxloss.cli import options
from jaxloss.cli.experiment import Experiment
from jaxloss.cli.fit import Fitted
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.recipes import LINE, Recipe
from jaxloss.cli.table import Table
from jaxloss.loop.history import History
from jaxloss.loop.stopping import EarlyStop
from jaxloss.train.gradient import value_and_grad
from jaxloss.train.step import make_train_step

SLOPE, INTERCEPT = 3.7, -1.3
START = {"w": 0.5, "b": 0.2}
#: How many steps are shown.
FIRST = 5

#: Called with the step, the loss, and of w and b the gradient and the value.
Show = Callable[[int, float, dict[str, float], dict[str, float]], None]


def table() -> Table:
    """Points of the line, which are all for training and learnt as they are."""
    x = np.linspace(-1, 1, LINE.batch_size)
    return Table(
        name="line",
        columns=("x",),
        kinds=("number",),
        inputs=x[:, None],
        target="y",
        targets=SLOPE * x + INTERCEPT,
        raw=True,
    )


def train(experiment: Experiment, recipe: Recipe, show: Show) -> Fitted:
    """Steps until the loss has no new best for `patience` steps, or the steps run out."""
    loss_fn, parts = experiment.loss, recipe.microbatches
    step = make_train_step(loss_fn, options.optimizer(recipe), microbatches=parts, donate=False)
    state = step.init(_start(experiment.model.columns))
    batch = experiment.batch(experiment.split["train"])
    gradient = jax.jit(value_and_grad(loss_fn))
    history, watch, best = History(), EarlyStop(patience=recipe.patience), state
    for row in range(recipe.epochs):
        if row < FIRST:
            loss, slopes = gradient(state.params, batch)
            show(row, float(loss), weights(slopes), weights(state.params))
        before = state
        state, metrics = step(state, batch)
        history.record(row, row + 1, metrics)
        watch = watch.update(metrics["loss"])
        if watch.since_best == 0:
            history.best, best = row, before
        if watch.should_stop:
            history.stopped = "early"
            break
    if history.best is None:
        raise Mistake("The loss was never a finite number: lower --learning-rate.")
    return Fitted(options.trained(recipe.optimizer, best), history)


def weights(params: PyTree) -> dict[str, float]:
    """The slope w and the intercept b among the parameters of the model, or their gradient."""
    layer = params["params"]["Dense_0"]
    return {"w": float(layer["kernel"][0, 0]), "b": float(layer["bias"][0])}


def _start(columns: int) -> PyTree:
    layer = {"kernel": jnp.full((1, columns), START["w"]), "bias": jnp.full(columns, START["b"])}
    return {"params": {"Dense_0": layer}}
