"""Several losses on the same model, data and seeds; all seeds train at once, in one program."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxloss.cli import options, pictures, tasks
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.experiment import Experiment, order, prepare
from jaxloss.cli.recipes import Recipe
from jaxloss.cli.table import Table
from jaxloss.train.step import TrainState, make_train_step

#: What multiplies the target of an outlier: a slipped decimal point.
SLIP = 10


def compare(
    table: Table, entries: list[Entry], seeds: np.ndarray, recipe: Recipe, *, outliers: float = 0
) -> pd.DataFrame:
    """Validation metrics in the unit of the table, a row for each loss, seed and epoch.

    Each seed has its own initial weights and order of batches. The split is the same for all, and
    so are the outliers, which are in the training targets only.
    """
    split = table.split(seed=0)
    corrupted = with_outliers(table, split["train"], outliers)
    experiments = [prepare(corrupted, split, entry, {}, recipe.hidden) for entry in entries]
    found = []
    for entry, experiment in zip(entries, experiments, strict=True):
        outputs = train(experiment, seeds, recipe)
        for place in np.ndindex(outputs.shape[:2]):
            predictions = experiment.objective.predict(outputs[place])
            metrics = tasks.metrics(table, predictions, split["validation"])
            seed, epoch = int(seeds[place[0]]), place[1] + 1
            found.append({"loss": entry.name, "seed": seed, "epoch": epoch, **metrics})
    return pd.DataFrame(found)


def with_outliers(table: Table, rows: np.ndarray, fraction: float) -> Table:
    """The table with a fraction of these targets corrupted: ten times, or another class."""
    generator = np.random.default_rng(0)
    chosen = generator.choice(rows, round(fraction * len(rows)), replace=False)
    targets = table.targets.copy()
    if table.classes:
        others = generator.integers(1, len(table.classes), len(chosen))
        targets[chosen] = (targets[chosen] + others) % len(table.classes)
    else:
        targets[chosen] *= SLIP
    return dataclasses.replace(table, targets=targets)


def train(experiment: Experiment, seeds: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Outputs `[seeds, epochs, rows, columns]` for the validation rows after every epoch."""
    step = make_train_step(experiment.loss, options.optimizer(recipe))
    inputs, targets = jnp.asarray(experiment.inputs), jnp.asarray(experiment.objective.targets)
    validation = inputs[experiment.split["validation"]]

    def update(state: TrainState, taken: tuple[Array, Array]) -> tuple[TrainState, None]:
        rows, where = taken
        batch = {"inputs": inputs[rows], "targets": targets[rows], "where": where}
        return step.raw(state, batch)[0], None

    def epoch(state: TrainState, taken: tuple[Array, Array]) -> tuple[TrainState, Array]:
        state, _ = jax.lax.scan(update, state, taken)
        return state, experiment.outputs(state.params, validation)

    def one_seed(key: Array, taken: tuple[Array, Array]) -> Array:
        state = step.init(experiment.model.init(key, inputs[:1]))
        return jax.lax.scan(epoch, state, taken)[1]

    # a lone seed trains twice: a batch of one is another matrix product, with other rounding
    trained = np.repeat(seeds, 2) if len(seeds) == 1 else seeds
    orders = [_epochs(experiment, int(seed), recipe) for seed in trained]
    taken = jax.tree.map(lambda *leaves: np.stack(leaves), *orders)
    outputs = jax.jit(jax.vmap(one_seed))(jax.vmap(jax.random.key)(trained), taken)
    return np.asarray(outputs, float)[: len(seeds)]


def _epochs(experiment: Experiment, seed: int, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    rows = experiment.split["train"]
    size = recipe.size(len(rows))
    batches = order(rows, size, recipe.epochs, seed)
    indices, where = (np.stack(part) for part in zip(*batches, strict=True))
    return indices.reshape(recipe.epochs, -1, size), where.reshape(recipe.epochs, -1, size)


def draw(found: pd.DataFrame, title: str) -> Figure:
    """A curve over the epochs for each loss, and each metric after the last with its spread."""
    metrics = [name for name in tasks.METRICS if name in found]
    figure, (first, *others) = pictures.figure(1, [5, *[3] * len(metrics)], height=4)
    figure.suptitle(title)
    looks = pictures.styles(list(dict.fromkeys(found["loss"])))
    _curves(first, found, "mae" if "mae" in metrics else metrics[0], looks)
    table = summary(found)
    for axis, metric in zip(others, metrics, strict=True):
        for place, (loss, (colour, _)) in enumerate(looks.items()):
            mean, std = table[metric, "mean"][loss], table[metric, "std"][loss]
            axis.errorbar(mean, place, xerr=std, fmt="o", color=colour, capsize=4)
        axis.set_yticks(range(len(looks)), list(looks) if axis is others[0] else [])
        axis.set_ylim(len(looks) - 0.5, -0.5)
        axis.set_xlabel(f"validation {tasks.METRICS[metric]}, last epoch")
        axis.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def _curves(
    axis: Axes, found: pd.DataFrame, metric: str, looks: dict[str, tuple[str, str]]
) -> None:
    epochs = np.unique(found["epoch"].to_numpy())
    for loss, (colour, dash) in looks.items():
        curves = found.loc[found["loss"] == loss, metric].to_numpy().reshape(-1, len(epochs))
        mean, std = curves.mean(axis=0), curves.std(axis=0, ddof=min(1, len(curves) - 1))
        axis.plot(epochs, mean, color=colour, linestyle=dash, linewidth=2, label=loss)
        axis.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {tasks.METRICS[metric]}")
    axis.legend(frameon=False, fontsize=9, handlelength=3)


def last(found: pd.DataFrame) -> pd.DataFrame:
    """What was found after the last epoch, a row for each loss and seed."""
    return found.query("epoch == epoch.max()").drop(columns="epoch")


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds after the last epoch, a row for each loss."""
    over_seeds = last(found).drop(columns="seed").groupby("loss", sort=False)
    return over_seeds.agg(["mean", "std"]).fillna(0)
