"""What a training costs: the time of its steps, and their memory."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from jaxloss.train.objective import PyTree
from jaxloss.train.step import TrainState, TrainStep

V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a training cost, as far as it is known: the seconds of a step, and bytes."""

    seconds_per_step: float | None
    temporaries: int | None
    peak_memory: int | None

    def __str__(self) -> str:
        seconds = self.seconds_per_step
        step = "steps of an unknown time" if seconds is None else f"{1000 * seconds:.3g} ms a step"
        return (
            f"{step}, with {_megabytes(self.temporaries)} of temporaries; this process held at "
            f"most {_megabytes(self.peak_memory)}."
        )


class Meter:
    """Times the rows of a history without their evaluations, and weighs the step."""

    def __init__(self) -> None:
        self.temporaries: int | None = None  # bytes
        self._rows: list[tuple[int, float]] = []  # the last step, and seconds
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
            self._rows.append((int(state.step), time.perf_counter() - self._since))
            found = evaluate(state)
            self._since = time.perf_counter()
            return found

        return timed

    @property
    def cost(self) -> Cost:
        """Of a step, from all rows of this process but the first one, which starts slowly."""
        steps = self._rows[-1][0] - self._rows[0][0] if self._rows else 0
        seconds = sum(seconds for _, seconds in self._rows[1:])
        return Cost(seconds / steps if steps else None, self.temporaries, peak_memory())


def _megabytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e6:,.1f} MB"


def peak_memory() -> int | None:
    """The most bytes that this process has held, where the system says."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
