"""The training loop: plain Python around a step."""

from __future__ import annotations

import dataclasses
import operator
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxloss.core.statistics import Statistic
from jaxloss.loop.agreement import agreement
from jaxloss.loop.batches import Batches, Reader, on_device, require_own_parts
from jaxloss.loop.checkpoint import Checkpoint, Keeper, Saved, keeper
from jaxloss.loop.history import History
from jaxloss.loop.nonfinite import NonFiniteError, is_fault
from jaxloss.loop.progress import progress_bar, signals
from jaxloss.loop.stopping import EarlyStop
from jaxloss.train.nonfinite import Metrics
from jaxloss.train.objective import PyTree
from jaxloss.train.step import TrainState, TrainStep

Evaluate: TypeAlias = Callable[[TrainState], Mapping[str, ArrayLike | Statistic]]
Callback: TypeAlias = Callable[[TrainState, History], object]
Window: TypeAlias = list[tuple[int, int, Metrics]]

WINDOW = 16


def fit(
    step: TrainStep,
    state: TrainState,
    batches: Batches,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    every: int = 100,
    evaluate: Evaluate | None = None,
    stop: EarlyStop | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint = None,
    resume: Literal["auto", "never"] = "auto",
    sharding: PyTree = None,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Trains, and never waits for the step that it has just launched.

    Metrics are read from the device one window of steps late and merged in float64. Ctrl-C ends
    the training after the running step; a second one ends it at once. With `checkpoint`, both
    Ctrl-C and SIGTERM save before they end it, and a training that was ended or killed goes on
    as if it never had been, down to the last bit, when the same call is made again. Of several
    processes, what comes to one ends all of them after the same step.

    Args:
        step: From `make_train_step`.
        state: From `step.init`; a step that donates uses it up.
        batches: Any iterable of batches, or a function from the number of an epoch to one. An
            iterator can be read only once. Arrays may be those of NumPy, JAX, torch or TensorFlow.
        steps: How many updates to make, over as many epochs as it takes; or
        epochs: How many times to go through the batches.
        every: With `steps`, how many updates make a row of the history; else it is an epoch.
        evaluate: Called with the state at the end of each row; returns statistics or numbers by
            name, of which "loss" is the validation loss.
        stop: Ends the training when `evaluate` brings no new best. A copy of the best state is
            kept in `history.best_state`; with `patience=None` that is all it does.
        callbacks: Called with the state and the history at the end of each row. The next step
            uses up the state: copy what is kept of it.
        checkpoint: The folder to save state, history and place in the data in; or `Checkpoints`,
            which also says how often and how many; or a `CheckpointManager` of Orbax.
        resume: "auto" goes on from the newest checkpoint that can be read, if there is one, in
            the shardings of `state`; "never" refuses a folder that has any. What was read of the
            data is skipped in the running epoch if `batches` is a function, by the state of the
            iterator if it has `get_state` and `set_state` (grain), and else by reading it again.
        sharding: Where the batches go: a sharding, or a tree of them of which one stands for all
            below it. With several processes, each has its own rows.
        progress: Whether to show a bar with loss, speed and time left, which needs rich.

    Returns:
        The last state, and the `History`.

    Raises:
        ValueError: Not exactly one of `steps` and `epochs` is given, `steps` is not a multiple of
            `steps_per_call`, there are no batches, `stop` has nothing to watch, `microbatches`
            does not divide the rows of a device, or there are checkpoints and none can be
            continued.
        NonFiniteError: The loss or its gradient is not finite, and `step` says "raise". It is
            noticed when metrics are read, and carries the last good state.
        ModuleNotFoundError: rich is missing and `progress` is not False, or Orbax is missing and
            `checkpoint` is given.

    Example:
        >>> import optax
        >>> def loss_fn(w, x):
        ...     return jaxloss.squared_error(w * x, x, reduction=jaxloss.stats)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1))
        >>> data = [jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])]
        >>> state, history = jaxloss.fit(
        ...     step, step.init(jnp.array(0.0)), data, epochs=2, progress=False
        ... )
        >>> print(history.steps, history["loss"])
        [2 4] [1.5625     0.09765625]
    """
    calls = _calls(step, batches, steps, epochs)
    if stop is not None and evaluate is None:
        raise ValueError("stop watches what evaluate returns: give evaluate as well.")
    watch = EarlyStop(patience=None) if stop is None else stop
    with (
        progress_bar(calls and calls * step.steps_per_call, shown=progress) as show,
        signals(signal.SIGINT, *([] if checkpoint is None else [signal.SIGTERM])) as came,
        keeper(checkpoint, watch) as saves,
    ):
        start = (saves and saves.restore(state, resume)) or Saved.first(state)
        training = _Training(step, start, batches, saves, sharding, came, show)
        rows = training.reader.rows(calls, epochs, -(-every // step.steps_per_call))
        try:
            training.run(rows, evaluate, watch, callbacks, keep=stop is not None)
        except KeyboardInterrupt as ended:
            terminated = ended.args == (signal.SIGTERM,)
            training.history.stopped = "terminated" if terminated else "interrupted"
        training.read_all()
    if training.history.stopped == "exhausted" and not training.place.calls:
        raise ValueError("batches is empty: there is nothing to train on.")
    return training.state, training.history


class _Training:
    def __init__(
        self,
        step: TrainStep,
        start: Saved,
        batches: Batches,
        keeper: Keeper | None,
        sharding: PyTree,
        came: Sequence[int],
        show: Callable[[int, float], None],
    ) -> None:
        self.step, self.state, self.history = step, start.state, start.history
        self.reader = Reader(batches, start.place.in_calls_of(step.steps_per_call))
        self.place = self.reader.here(with_iterator=False)
        self.keeper, self.sharding, self.came, self.show = keeper, sharding, came, show
        self.agreement = agreement(start.state.step)
        self.before = int(start.state.step) - start.place.calls * step.steps_per_call
        self.launched: Window = []
        self.waiting: Window = []
        self.last_read = time.monotonic()

    @property
    def made(self) -> int:
        """The number of updates in the state."""
        return self.before + self.place.calls * self.step.steps_per_call

    def run(
        self,
        rows: Iterable[Iterable[PyTree]],
        evaluate: Evaluate | None,
        watch: EarlyStop,
        callbacks: Sequence[Callback],
        *,
        keep: bool,
    ) -> None:
        watch = self.watched(watch)
        for batches in rows:
            if keep and watch.should_stop:
                break
            if not self.run_row(batches):
                self.history.stopped = "exhausted"
                break
            if evaluate or callbacks:
                self.read_all()
            if evaluate:
                watch = self.evaluate(evaluate, watch, keep=keep)
            for callback in callbacks:
                callback(self.state, self.history)
            self.end_row()
        if keep and watch.should_stop:
            self.history.stopped = "early"
        self.save()

    def watched(self, watch: EarlyStop) -> EarlyStop:
        """What it has seen of the rows before a checkpoint."""
        name = f"validation_{watch.monitor}"
        if name in self.history.names:
            for value in self.history[name][: self.place.row]:
                watch = watch.update(value)
        return watch

    def run_row(self, batches: Iterable[PyTree]) -> bool:
        """Whether there were any batches."""
        for batch in batches:
            if self.keeper and self.keeper.due(self.made, row_ended=False):
                self.save()
            self.state, metrics = self.step(self.state, self.placed(batch))
            self.place = self.reader.here(with_iterator=self.keeper is not None)
            self.launched.append((self.place.row, self.made, metrics))
            if len(self.launched) == WINDOW or time.monotonic() > self.last_read + 1:
                self.read()
            if ended := self.ending():
                self.save()
                raise KeyboardInterrupt(ended)
        return self.place.row_calls > 0

    def ending(self) -> int:
        """The signal to end with, if one has come; of several processes, to any of them."""
        came = self.came[-1] if self.came else 0
        if self.agreement is None:
            return came
        count, came = self.agreement.after(self.state.step, came)
        self.state = dataclasses.replace(self.state, step=count)
        return came

    def placed(self, batch: PyTree) -> PyTree:
        batch = on_device(batch, self.sharding)
        if self.sharding is not None:
            axis = int(self.step.steps_per_call > 1)
            require_own_parts(batch, axis=axis, microbatches=self.step.microbatches)
        return batch

    def end_row(self) -> None:
        self.reader.end_row()
        self.place = self.reader.here(with_iterator=self.keeper is not None)
        if self.keeper and self.keeper.due(self.made, row_ended=True):
            self.save()

    def save(self) -> None:
        """Unless this state is saved already, or there is nowhere to save it."""
        if self.keeper is None or self.keeper.last == self.made:
            return
        self.read_all()
        names = [name for name in self.history.names if name.startswith("validation_")]
        scores = {name: self.history.last(name) for name in names}
        whole = self.place.row_calls == 0
        saved = Saved(self.state, self.history, self.place)
        self.keeper.save(self.made, saved, scores if whole and scores else None)

    def read(self) -> None:
        """Reads one window while the device computes the next."""
        fetched = jax.device_get([metrics for _, _, metrics in self.waiting])
        for (row, step, _), metrics in zip(self.waiting, fetched, strict=True):
            self.record(row, step, metrics)
        if self.waiting:
            self.show(self.waiting[-1][1] - self.before, self.history.last("loss"))
        self.waiting, self.launched, self.last_read = self.launched, [], time.monotonic()

    def record(self, row: int, step: int, metrics: Metrics) -> None:
        """Leaves out what is not finite of an update that was not made."""
        bad = metrics.get("first_bad_leaf", -1)
        if bad >= 0 and self.step.nonfinite == "raise" and is_fault(metrics):
            leaf = self.step.leaf_names[bad]
            what = leaf if leaf == "loss" else f"gradient of {leaf}"
            when = f"{step - self.step.steps_per_call + 1} to " * (self.step.steps_per_call > 1)
            raise NonFiniteError(
                f"step {when}{step}: the {what} is not finite. The update was not made: the error "
                "has the last good `state` and the `history`.",
                self.state,
                self.history,
            )
        means = {name: metric for name, metric in metrics.items() if name != "first_bad_leaf"}
        if bad >= 0:
            means = {name: mean for name, mean in means.items() if np.isfinite(mean.total)}
        self.history.record(row, step, means)

    def read_all(self) -> None:
        self.read()
        self.read()

    def evaluate(self, evaluate: Evaluate, watch: EarlyStop, *, keep: bool) -> EarlyStop:
        """Records what `evaluate` returns, and whether it is a new best."""
        row = self.place.row
        found = evaluate(self.state)
        if not isinstance(found, Mapping):
            raise TypeError(f"evaluate must return a dict by name, got {type(found).__name__}.")
        values = jax.device_get(dict(found))
        named = {f"validation_{name}": value for name, value in values.items()}
        self.history.record(row, self.made, named)
        if not keep and watch.monitor not in values:
            return watch
        watch = watch.update(self.history[f"validation_{watch.monitor}"][row])
        if watch.since_best == 0:
            self.history.best = row
            if keep:
                self.history.best_state = jax.tree.map(jnp.copy, self.state)
        return watch


def _calls(step: TrainStep, batches: Batches, steps: int | None, epochs: int | None) -> int | None:
    """How often the step is called, if that is known."""
    if steps is not None and epochs is None:
        if steps < 1 or steps % step.steps_per_call:
            raise ValueError(
                f"steps must be a multiple of steps_per_call={step.steps_per_call}, got {steps}."
            )
        return steps // step.steps_per_call
    if epochs is None or steps is not None or epochs < 1:
        raise ValueError(f"give either steps or epochs, at least 1: got {steps} and {epochs}.")
    if isinstance(batches, Iterator) and epochs > 1:
        raise ValueError(
            f"batches is an iterator, which ends after one epoch, and epochs={epochs}: give a "
            "list, a loader, or a function from the number of an epoch to its batches."
        )
    return epochs * operator.length_hint(batches) or None
