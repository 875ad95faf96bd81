"""Training with shuffled batches, a validation split and early stopping; keeping the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

from jaxloss.cli import folder, options, processes
from jaxloss.cli.experiment import order
from jaxloss.cli.meter import Meter
from jaxloss.cli.mistakes import ENDED, Mistake
from jaxloss.cli.recipes import Recipe
from jaxloss.cli.table import Split
from jaxloss.core.statistics import Statistic
from jaxloss.loop.batches import on_device
from jaxloss.loop.checkpoint import CheckpointError, Checkpoints
from jaxloss.loop.fit import Evaluate, fit
from jaxloss.loop.history import History
from jaxloss.loop.nonfinite import NonFiniteError
from jaxloss.loop.stopping import EarlyStop
from jaxloss.train.precision import Precision
from jaxloss.train.step import TrainState

Scores = dict[str, dict[str, float]]  # split -> metric -> value
Score = Callable[[PyTree, str], dict[str, float]]  # parameters, split -> metric -> value


class Learning(Protocol):
    """What there is to learn, of a table or of a text, and what it is worth."""

    @property
    def split(self) -> Split: ...
    def init(self, key: Array) -> PyTree: ...
    def loss(self, params: PyTree, batch: Any) -> Statistic: ...
    def batch(self, rows: np.ndarray) -> Any: ...
    def scorer(self, precision: Precision | None) -> Score: ...
    def arrays(self, params: PyTree) -> dict[str, np.ndarray]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model: the parameters of its best epoch, and what it computes in."""

    params: PyTree
    history: History
    precision: Precision | None = None

    @property
    def best_step(self) -> int:
        """The last one of its best row, counted from 1."""
        return int(self.history.steps[self.best_epoch - 1])

    @property
    def best_epoch(self) -> int:
        """Counted from 1; the last one if training ended before any was evaluated."""
        return len(self.history.steps) if self.history.best is None else self.history.best + 1


def train(
    experiment: Learning,
    recipe: Recipe,
    path: Path | None = None,
    *,
    progress: bool,
    meter: Meter | None = None,
) -> Fitted:
    """Trains until the validation loss has stopped falling, and takes the best epoch.

    Checkpoints are in the folder `path`, and those that are there are gone on from. The `meter`
    then knows what a step costs.

    Raises:
        Mistake: The batch does not split into the microbatches, the loss was never finite, a step
            was not and should be, or no checkpoint can be read.
    """
    step = options.step(experiment.loss, recipe)
    everywhere, over_devices = processes.shardings()
    state = step.init(experiment.init(jax.random.key(recipe.seed)), sharding=everywhere)
    rows = len(experiment.split["train"])
    if meter is not None:
        meter.weigh(step, state, on_device(next(_batches(experiment, recipe)), over_devices))
    try:
        state, history = fit(
            step,
            state,
            _batches(experiment, recipe),
            steps=recipe.epochs * recipe.steps(rows),
            every=recipe.steps_of_a_row(rows),
            evaluate=_evaluation(experiment, recipe, meter),
            stop=EarlyStop(patience=recipe.patience),
            checkpoint=_checkpoints(path, recipe, recipe.steps(rows)),
            sharding=over_devices,
            progress=progress,
        )
    except NonFiniteError as error:
        what = str(error).partition(". ")[0]
        raise Mistake(f"{what}: lower --learning-rate, or say --nonfinite skip.") from None
    except CheckpointError as error:
        raise Mistake(str(error)) from None
    return _fitted(history.best_state or state, history, recipe)


def _fitted(best: TrainState, history: History, recipe: Recipe) -> Fitted:
    if history.best is None and history.stopped not in ENDED:
        raise Mistake("The validation loss was never a finite number: lower --learning-rate.")
    params = options.trained(recipe.optimizer, best)
    return Fitted(params, history, options.precision(recipe))


def _batches(experiment: Learning, recipe: Recipe) -> Iterator[PyTree]:
    """The rows of this process."""
    rows = experiment.split["train"]
    batches = order(rows, recipe.size(len(rows)), recipe.epochs, recipe.seed)
    for taken, where in processes.own_rows(batches, recipe.microbatches):
        yield {**experiment.batch(taken), "where": where}


def _evaluation(experiment: Learning, recipe: Recipe, meter: Meter | None) -> Evaluate:
    score = experiment.scorer(options.precision(recipe))

    def evaluate(state: TrainState) -> dict[str, float]:
        return score(options.trained(recipe.optimizer, state), "validation")

    return evaluate if meter is None else meter.outside(evaluate)


def _checkpoints(path: Path | None, recipe: Recipe, per_epoch: int) -> Checkpoints | None:
    if path is None or recipe.checkpoint_every is None:
        return None
    return Checkpoints(path / "checkpoints", every=recipe.checkpoint_every * per_epoch)


def scores(experiment: Learning, fitted: Fitted) -> Scores:
    """The loss and the metrics of a trained model on every part of the split."""
    score = experiment.scorer(fitted.precision)
    return {part: score(fitted.params, part) for part in experiment.split}


def save(
    path: Path,
    config: Mapping[str, object],
    experiment: Learning,
    fitted: Fitted,
    result: Mapping[str, object],
) -> None:
    """`config.json`, `history.csv`, `loss.png`, `model.npz` and `result.json`."""
    folder.save_json(path / "config.json", config)
    folder.save(path / "history.csv", fitted.history.to_csv)
    folder.save(path / "loss.png", fitted.history.plot)
    arrays = experiment.arrays(fitted.params)
    folder.save(
        path / "model.npz",
        lambda temporary: np.savez(temporary, allow_pickle=False, **arrays),
    )
    folder.save_json(path / "result.json", {**result, "stopped": fitted.history.stopped})
