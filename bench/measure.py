"""Alternating rounds of programs that compute the same thing, and what their times say.

Everything is timed here: one process, all contenders in turn, warm before the first round. A
result is compared with the first contender's before it is timed; a wrong one is told, not timed.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

Rounds = Sequence[float] | np.ndarray
FEW = 6  # rounds, of which no interval of a median has 95 %
PAUSE = 0.003  # between contenders, for the threads of one to fall asleep before the next
# a call that takes so many seconds, and so many times as long as the first contender's
ENDLESS, TIMES = 10.0, 10


@dataclasses.dataclass
class Program:
    """Something to call, what it gives, how long each round took, and what it stores on the way.

    `wrong` says why it is not timed, where it is not.
    """

    call: Callable[[], object]
    result: Callable[[object], list[np.ndarray]]
    temporaries: int | None = None
    compiling: float | None = None
    wrong: str = ""
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def compiled(f: Callable[..., object], *arguments: jax.Array) -> Program:
    """A jitted function of arrays, with the temporaries that XLA allocates for it."""
    lowered = jax.jit(f).lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile()
    compiling = time.perf_counter() - start
    memory = program.memory_analysis()
    return Program(
        call=lambda: jax.block_until_ready(program(*arguments)),
        result=lambda value: [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(value)],
        temporaries=None if memory is None else memory.temp_size_in_bytes,
        compiling=compiling,
    )


def check(programs: dict[str, Program], tolerance: float) -> None:
    """Runs each once, and says of those that differ from the first one by how much."""
    first, *others = programs.values()
    want, ours = [], 0.0
    try:
        want, ours = _timed(first)
        first.wrong = "" if all(np.isfinite(w).all() for w in want) else "wrong: not finite"
    except Exception as error:  # whatever it raises
        first.wrong = cannot(error)
    if first.wrong:
        for program in others:
            program.wrong = "not timed: there is nothing to compare it with"
        return
    for program in others:
        try:
            got, theirs = _timed(program)
        except Exception as error:  # whatever a peer raises
            program.wrong = cannot(error)
            continue
        if theirs > max(ENDLESS, TIMES * ours):
            program.wrong = f"one call took {theirs:.0f} s: not timed"
            continue
        if [g.shape for g in got] != [w.shape for w in want]:
            program.wrong = f"wrong: shapes {[g.shape for g in got]}, not {[w.shape for w in want]}"
            continue
        apart = max(map(_distance, got, want))
        if not apart <= tolerance:
            program.wrong = f"wrong: apart by {apart:.1e} of the largest entry"


def cannot(error: Exception) -> str:
    said = str(error).partition("\n")[0]
    return f"cannot: {type(error).__name__}: {said[:100]}"


def _timed(program: Program) -> tuple[list[np.ndarray], float]:
    start = time.perf_counter()
    value = program.call()
    return program.result(value), time.perf_counter() - start


def _distance(got: np.ndarray, want: np.ndarray) -> float:
    return _largest(got - want) / (_largest(want) or 1.0)


def _largest(array: np.ndarray) -> float:
    """Without a copy of the array, which is large; NaN if one entry is."""
    return float(np.maximum(array.max(initial=0), -array.min(initial=0)))


def alternate(programs: dict[str, Program], rounds: int, tolerance: float) -> None:
    """Checks the results against the first program's, then times those that are right in turn.

    Each round has an order of its own, so that none always follows the same.
    """
    if programs:
        check(programs, tolerance)
    right = [program for program in programs.values() if not program.wrong]
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for index in rng.permutation(len(right)):
            program = right[index]
            time.sleep(PAUSE)
            start = time.perf_counter()
            program.call()
            program.seconds.append(time.perf_counter() - start)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of two medians, with a 95 % interval by resampling the rounds; the range of less than 6."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Rounds, theirs: Rounds, draws: int = 4000) -> Ratio:
        """Rounds of one run are drawn together, so that what slowed both cancels."""
        rng = np.random.default_rng(0)
        picked = [rng.integers(0, len(rounds), (draws, len(rounds))) for rounds in (ours, theirs)]
        if len(ours) == len(theirs):
            picked[1] = picked[0]
        a, b = (
            np.median(np.asarray(rounds)[index], axis=1)
            for rounds, index in zip((ours, theirs), picked, strict=True)
        )
        few = len(ours) == len(theirs) < FEW
        each = np.divide(ours, theirs) if few else a / b
        low, high = np.quantile(each, [0, 1] if few else [0.025, 0.975])
        return cls(float(np.median(ours) / np.median(theirs)), float(low), float(high))

    def even(self) -> bool:
        return self.low <= 1 <= self.high

    def meets(self, bound: float) -> bool:
        """The interval's upper end may miss the bound by 3 %."""
        return self.high <= 1.03 * bound

    def __str__(self) -> str:
        around = f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return f"even, {around}" if self.even() else around


def device_seconds(call: Callable[[], object]) -> float | None:
    """How long an accelerator is busy with one call, by the profiler; None where it has none."""
    if jax.default_backend() == "cpu":
        return None
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return busy(jax.profiler.ProfileData.from_file(str(path)).planes)


def busy(planes: Iterable[Any]) -> float | None:
    """Seconds of kernels: of a GPU's streams, or of a TPU's programs."""
    lines = [line for plane in planes if "/device:" in plane.name for line in plane.lines]
    streams = [line for line in lines if line.name.startswith("Stream")]
    streams = streams or [line for line in lines if line.name == "XLA Modules"]
    times = [event.duration_ns for line in streams for event in line.events]
    return 1e-9 * sum(times) if times else None


def peak_increase(call: Callable[[], object]) -> int | None:
    """By how much the call raised the peak of the process's resident memory, where Linux says."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and clear.exists()):
        return None
    before = _kibibytes(status, "VmRSS")
    clear.write_text("5")
    call()
    return 1024 * (_kibibytes(status, "VmHWM") - before)


def _kibibytes(status: Path, name: str) -> int:
    line = next(x for x in status.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1])
