"""A table, a loss and a model that fit together: all that a training needs but the optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TypedDict, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from jaxloss.cli import model, tasks
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.model import MLP
from jaxloss.cli.options import Option
from jaxloss.cli.table import Scale, Split, Table, scale_of_inputs
from jaxloss.cli.tasks import Objective, Values
from jaxloss.core.statistics import Statistic, value
from jaxloss.loop.evaluate import pad_batch
from jaxloss.train.precision import Precision, computing


class Batch(TypedDict):
    """Rows of the table as the model and the loss want them; `where` they are real."""

    inputs: Values
    targets: Values
    where: Values


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What was prepared from the training rows of a table."""

    table: Table
    split: Split
    scale: Scale
    inputs: np.ndarray  # scaled
    objective: Objective
    model: MLP

    def init(self, key: Array) -> PyTree:
        """The first parameters."""
        return self.model.init(key, self.inputs[:1])

    def loss(self, params: PyTree, batch: Batch) -> Statistic:
        """The training loss of a batch."""
        outputs = self.outputs(params, batch["inputs"])
        return self.objective(outputs, batch["targets"], batch["where"])

    def outputs(self, params: PyTree, inputs: Values) -> Array:
        """What the model puts out for rows of inputs."""
        dtype = jax.tree.leaves(params)[0].dtype
        return cast(Array, self.model.apply(params, jnp.asarray(inputs, dtype)))

    def batch(self, rows: np.ndarray) -> Batch:
        """All of these rows at once."""
        targets = self.objective.targets[rows]
        return {"inputs": self.inputs[rows], "targets": targets, "where": np.ones(len(rows), bool)}

    def scorer(self, precision: Precision | None) -> Callable[[PyTree, str], dict[str, float]]:
        """A function that gives the loss and the metrics of parameters on a part of the split."""

        @jax.jit
        def loss_and_outputs(params: PyTree, batch: PyTree) -> PyTree:
            outputs = self.outputs(computing(params, precision), batch["inputs"])
            return value(self.objective(outputs, batch["targets"])), outputs

        def score(params: PyTree, part: str) -> dict[str, float]:
            rows = self.split[part]
            loss, outputs = jax.device_get(loss_and_outputs(params, self.batch(rows)))
            predictions = self.objective.predict(np.asarray(outputs, float))
            return {"loss": float(loss), **tasks.metrics(self.table, predictions, rows)}

        return score

    def arrays(self, params: PyTree) -> dict[str, np.ndarray]:
        """What makes predictions of rows of the table, layer by layer, and the split."""
        return {
            **model.named(params),
            "input_mean": self.scale.mean,
            "input_factor": self.scale.factor,
            "target_center": np.array(self.objective.center),
            "target_unit": np.array(self.objective.unit),
            **{f"{part}_rows": rows for part, rows in self.split.items()},
        }


def prepare(
    table: Table,
    split: Split,
    entry: Entry,
    options: Mapping[str, Option],
    hidden: tuple[int, ...],
) -> Experiment:
    """Scales, the objective and the model; only training rows decide any of it."""
    objective = tasks.objective(entry, options, table, split["train"])
    scale = scale_of_inputs(table, split["train"])
    layers = MLP(hidden, objective.columns, objective.offset)
    return Experiment(table, split, scale, scale(table.inputs), objective, layers)


def order(
    rows: np.ndarray, size: int, epochs: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of `rows` `[size]`, and `where` they are real, as the last of an epoch is filled up.

    Every epoch has an order of its own, which is one element of the pipeline: shuffling row by
    row would take longer than to train on them.
    """

    def shuffled(_: int, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(rows)

    decks = grain.MapDataset.range(epochs).seed(seed).random_map(shuffled)
    for deck in decks.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)):
        for start in range(0, len(rows), size):
            taken, where = pad_batch(deck[start : start + size], size)
            yield taken, np.asarray(where)
