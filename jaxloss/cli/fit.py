"""Training with shuffled batches, a validation split and early stopping; keeping the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from jaxloss.cli import folder, model, options, processes, tasks
from jaxloss.cli.experiment import Batch, Experiment, order
from jaxloss.cli.mistakes import ENDED, Mistake
from jaxloss.cli.recipes import Recipe
from jaxloss.core.statistics import value
from jaxloss.train.checkpoint import Checkpoints
from jaxloss.train.fit import Evaluate, fit
from jaxloss.train.history import History
from jaxloss.train.nonfinite import NonFiniteError
from jaxloss.train.stopping import EarlyStop

Scores = dict[str, dict[str, float]]  # split -> metric -> value


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model: the parameters of its best epoch."""

    params: PyTree
    history: History

    @property
    def best_epoch(self) -> int:
        """Counted from 1; the last one if training ended before any was evaluated."""
        return len(self.history.steps) if self.history.best is None else self.history.best + 1


def train(
    experiment: Experiment, recipe: Recipe, path: Path | None = None, *, progress: bool
) -> Fitted:
    """Trains until the validation loss has stopped falling, and takes the best epoch.

    Checkpoints are in the folder `path`, and those that are there are gone on from.

    Raises:
        Mistake: The batch does not split into the microbatches, the loss was never finite, or a
            step was not and should be.
    """
    rows = len(experiment.split["train"])
    step = options.step(experiment.loss, recipe)
    everywhere, over_devices = processes.shardings()
    params = experiment.model.init(jax.random.key(recipe.seed), experiment.inputs[:1])
    state = step.init(params, sharding=everywhere)
    per_epoch = -(-rows // recipe.size(rows))
    try:
        state, history = fit(
            step,
            state,
            _batches(experiment, recipe),
            steps=recipe.epochs * per_epoch,
            every=per_epoch,
            evaluate=_evaluation(experiment, recipe),
            stop=EarlyStop(patience=recipe.patience),
            checkpoint=_checkpoints(path, recipe, per_epoch),
            sharding=over_devices,
            progress=progress,
        )
    except NonFiniteError as error:
        what = str(error).partition(". ")[0]
        raise Mistake(f"{what}: lower --learning-rate, or say --nonfinite skip.") from None
    if history.best is None and history.stopped not in ENDED:
        raise Mistake("The validation loss was never a finite number: lower --learning-rate.")
    return Fitted(options.trained(recipe.optimizer, history.best_state or state), history)


def _batches(experiment: Experiment, recipe: Recipe) -> Iterator[Batch]:
    """The rows of this process."""
    rows = experiment.split["train"]
    batches = order(rows, recipe.size(len(rows)), recipe.epochs, recipe.seed)
    for taken, where in processes.own_rows(batches, recipe.microbatches):
        yield {**experiment.batch(taken), "where": where}


def _evaluation(experiment: Experiment, recipe: Recipe) -> Evaluate:
    score = scorer(experiment)
    return lambda state: score(options.trained(recipe.optimizer, state), "validation")


def _checkpoints(path: Path | None, recipe: Recipe, per_epoch: int) -> Checkpoints | None:
    if path is None or recipe.checkpoint_every is None:
        return None
    return Checkpoints(path / "checkpoints", every=recipe.checkpoint_every * per_epoch)


def scorer(experiment: Experiment) -> Callable[[PyTree, str], dict[str, float]]:
    """A function that gives the loss and the metrics of parameters on a part of the split."""

    @jax.jit
    def loss_and_outputs(params: PyTree, batch: PyTree) -> PyTree:
        outputs = experiment.outputs(params, batch["inputs"])
        return value(experiment.objective(outputs, batch["targets"])), outputs

    def score(params: PyTree, part: str) -> dict[str, float]:
        rows = experiment.split[part]
        loss, outputs = jax.device_get(loss_and_outputs(params, experiment.batch(rows)))
        predictions = experiment.objective.predict(np.asarray(outputs, float))
        return {"loss": float(loss), **tasks.metrics(experiment.table, predictions, rows)}

    return score


def scores(experiment: Experiment, fitted: Fitted) -> Scores:
    """The loss and the metrics of a trained model on every part of the split."""
    score = scorer(experiment)
    return {part: score(fitted.params, part) for part in experiment.split}


def save(path: Path, experiment: Experiment, fitted: Fitted, result: Mapping[str, object]) -> None:
    """`history.csv`, `loss.png`, `model.npz` and `result.json`."""
    folder.save(path / "history.csv", fitted.history.to_csv)
    folder.save(path / "loss.png", fitted.history.plot)
    arrays = {
        **model.named(fitted.params),
        "input_mean": experiment.scale.mean,
        "input_factor": experiment.scale.factor,
        "target_center": np.array(experiment.objective.center),
        "target_unit": np.array(experiment.objective.unit),
        **{f"{part}_rows": rows for part, rows in experiment.split.items()},
    }
    folder.save(
        path / "model.npz",
        lambda temporary: np.savez(temporary, allow_pickle=False, **arrays),
    )
    ended = {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history.steps),
        "stopped": fitted.history.stopped,
    }
    folder.save_json(path / "result.json", {**result, **ended})
