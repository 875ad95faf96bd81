"""What a training costs: the time of its steps, and their memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from jaxloss.train.history import History
from jaxloss.train.objective import PyTree
from jaxloss.train.step import TrainState, TrainStep

V = TypeVar("V")


class Meter:
    """Times the rows of a history without their evaluations, and weighs the step."""

    def __init__(self) -> None:
        self.temporaries: int | None = None  # bytes
        self._rows: list[float] = []
        self._since = time.perf_counter()

    def weigh(self, step: TrainStep, state: TrainState, batch: PyTree) -> None:
        """Notes the memory of a step, whose program is then that of the training too."""
        try:
            self.temporaries = step.memory_report(state, batch).temporaries
        except ValueError:
            self.temporaries = None
        self._since = time.perf_counter()

    def outside(self, evaluate: Callable[[TrainState], V]) -> Callable[[TrainState], V]:
        """The evaluation, which ends a row and whose own time does not count."""

        def timed(state: TrainState) -> V:
            self._rows.append(time.perf_counter() - self._since)
            found = evaluate(state)
            self._since = time.perf_counter()
            return found

        return timed

    def seconds(self, history: History) -> float:
        """Of a step, from the rows of this process but its first one, which also compiles."""
        steps = np.diff(history.steps, prepend=0)[-len(self._rows) :]
        rows = slice(int(len(self._rows) > 1), None)
        return sum(self._rows[rows]) / max(steps[rows].sum(), 1)
