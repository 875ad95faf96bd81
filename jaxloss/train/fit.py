"""The training loop: plain Python around a step."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxloss.core.statistics import Statistic
from jaxloss.train.history import History
from jaxloss.train.nonfinite import NonFiniteError, is_fault
from jaxloss.train.objective import PyTree
from jaxloss.train.progress import first_interrupt, progress_bar
from jaxloss.train.step import Metrics, TrainState, TrainStep
from jaxloss.train.stopping import EarlyStop

Batches: TypeAlias = Iterable[PyTree] | Callable[[int], Iterable[PyTree]]
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
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Trains, and never waits for the step that it has just launched.

    Metrics are read from the device one window of steps late and merged in float64. Ctrl-C ends
    the training after the running step; a second one ends it at once.

    Args:
        step: From `make_train_step`.
        state: From `step.init`; a step that donates uses it up.
        batches: Any iterable of batches, or a function from the number of an epoch to one. An
            iterator can be read only once.
        steps: How many updates to make, over as many epochs as it takes; or
        epochs: How many times to go through the batches.
        every: With `steps`, how many updates make a row of the history; else it is an epoch.
        evaluate: Called with the state at the end of each row; returns statistics or numbers by
            name, of which "loss" is the validation loss.
        stop: Ends the training when `evaluate` brings no new best. A copy of the best state is
            kept in `history.best_state`; with `patience=None` that is all it does.
        callbacks: Called with the state and the history at the end of each row. The next step
            uses up the state: copy what is kept of it.
        progress: Whether to show a bar with loss, speed and time left, which needs rich.

    Returns:
        The last state, and the `History`.

    Raises:
        ValueError: Not exactly one of `steps` and `epochs` is given, `steps` is not a multiple of
            `steps_per_call`, there are no batches, or `stop` has nothing to watch.
        NonFiniteError: The loss or its gradient is not finite, and `step` says "raise". It is
            noticed when metrics are read, and carries the last good state.
        ModuleNotFoundError: rich is missing and `progress` is not False.

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
    rows = _rows(batches, calls, epochs, -(-every // step.steps_per_call))
    total = None if calls is None else calls * step.steps_per_call
    if stop is not None and evaluate is None:
        raise ValueError("stop watches what evaluate returns: give evaluate as well.")
    with progress_bar(total, shown=progress) as show, first_interrupt() as interrupt:
        training = _Training(step, state, interrupt, show)
        try:
            training.run(rows, evaluate, stop, callbacks)
        except KeyboardInterrupt:
            training.history.stopped = "interrupted"
        training.read_all()
    if training.history.stopped == "exhausted" and not training.made:
        raise ValueError("batches is empty: there is nothing to train on.")
    return training.state, training.history


class _Training:
    def __init__(
        self,
        step: TrainStep,
        state: TrainState,
        interrupt: threading.Event,
        show: Callable[[int, float], None],
    ) -> None:
        self.step, self.state, self.history = step, state, History()
        self.interrupt, self.show = interrupt, show
        self.before, self.made = int(state.step), 0
        self.launched: Window = []
        self.waiting: Window = []
        self.last_read = time.monotonic()

    def run(
        self,
        rows: Iterable[Iterable[PyTree]],
        evaluate: Evaluate | None,
        stop: EarlyStop | None,
        callbacks: Sequence[Callback],
    ) -> None:
        watch = EarlyStop(patience=None) if stop is None else stop
        for row, batches in enumerate(rows):
            if not self.run_row(row, batches):
                self.history.stopped = "exhausted"
                return
            if evaluate or callbacks:
                self.read_all()
            if evaluate:
                watch = self.evaluate(row, evaluate, watch, keep=stop is not None)
            for callback in callbacks:
                callback(self.state, self.history)
            if stop is not None and watch.stop:
                self.history.stopped = "early"
                return

    def run_row(self, row: int, batches: Iterable[PyTree]) -> bool:
        """Whether there were any batches."""
        before = self.made
        for batch in batches:
            self.state, metrics = self.step(self.state, batch)
            self.made += self.step.steps_per_call
            self.launched.append((row, self.before + self.made, metrics))
            if len(self.launched) == WINDOW or time.monotonic() > self.last_read + 1:
                self.read()
            if self.interrupt.is_set():
                raise KeyboardInterrupt
        return self.made > before

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

    def evaluate(self, row: int, evaluate: Evaluate, watch: EarlyStop, *, keep: bool) -> EarlyStop:
        """Records what `evaluate` returns, and whether it is a new best."""
        values = jax.device_get(dict(evaluate(self.state)))
        named = {f"validation_{name}": value for name, value in values.items()}
        self.history.record(row, self.before + self.made, named)
        if not keep and watch.monitor not in values:
            return watch
        watch = watch.update(self.history[f"validation_{watch.monitor}"][row])
        if watch.bad == 0:
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
    return epochs * len(batches) if isinstance(batches, Sized) else None


def _rows(
    batches: Batches, calls: int | None, epochs: int | None, calls_per_row: int
) -> Iterator[Iterable[PyTree]]:
    if epochs is not None:
        return (_epoch(batches, epoch) for epoch in range(epochs))
    stream = itertools.islice(_endless(batches), calls)
    starts = range(0, calls or 0, calls_per_row)
    return (itertools.islice(stream, calls_per_row) for _ in starts)


def _endless(batches: Batches) -> Iterator[PyTree]:
    """Epoch after epoch, until one is empty."""
    for epoch in itertools.count():
        batch = None
        for batch in _epoch(batches, epoch):
            yield batch
        if batch is None:
            return


def _epoch(batches: Batches, epoch: int) -> Iterable[PyTree]:
    return batches(epoch) if callable(batches) else batches
