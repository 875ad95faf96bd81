"""A workload as data, and how it becomes a row: made, checked, timed, and forgotten."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from bench import peers
from bench.measure import alternate, cannot, device_seconds, peak_increase
from bench.rows import NONE, Measured, Row, Work

Arrays = tuple[np.ndarray, ...]
SEED = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user chose."""

    quick: bool = False
    peers: tuple[str, ...] = peers.NAMES
    rounds: int = 15
    device: str = "cpu"
    points: int = 2000  # of accuracy, per loss and dtype
    losses: str = ""  # of accuracy: part of a name


@dataclasses.dataclass(frozen=True)
class Contender:
    """A function of the arrays, and whose it is."""

    peer: str
    f: Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What several contenders compute from the same arrays."""

    suite: str
    name: str
    arrays: Callable[[np.random.Generator], Arrays]
    dtype: str = "float32"  # of every floating array
    contenders: Mapping[str, Contender]  # ours is the first
    gradients: tuple[int, ...] = ()  # by which arrays; () is the value alone
    work: Work = NONE
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tolerance: float | None = None
    peaks: bool = False  # whether each contender is also run in a fresh process for its memory
    note: str = ""

    def made(self) -> tuple[jax.Array, ...]:
        arrays = self.arrays(np.random.default_rng(SEED))
        dtypes = [self.dtype if a.dtype.kind == "f" else "int32" for a in arrays]
        return tuple(jax.numpy.asarray(a, d) for a, d in zip(arrays, dtypes, strict=True))

    def apart(self) -> float:
        """How far results may be from ours, of the largest entry."""
        return self.tolerance or (2e-4 if self.dtype == "float32" else 3e-2)


def row_of(workload: Workload, options: Options) -> Row:
    """Every contender, measured; one that cannot run is a line that says why."""
    gc.freeze()  # so that the collection at the end looks through what this row made only
    arrays, found, programs = workload.made(), {}, {}
    for name, contender in workload.contenders.items():
        if not peers.takes_part(contender.peer, options.peers):
            continue
        reason = peers.missing(contender.peer)
        try:
            if not reason:
                programs[name] = peers.program(
                    contender.peer, contender.f, arrays, workload.gradients
                )
        except Exception as error:
            reason = cannot(error)
        found[name] = Measured(note=reason)
    alternate(programs, options.rounds, workload.apart())
    found |= {name: Measured.of(program) for name, program in programs.items()}
    for name, program in programs.items():
        if not program.wrong and (seconds := device_seconds(program.call)):
            found[name].figures["ms of the device"] = 1e3 * seconds
    del arrays, programs
    gc.collect()
    if workload.peaks:
        for name in [name for name, measured in found.items() if measured.seconds]:
            found[name].peak = _peak_in_a_fresh_process(workload, name, options)
    bounds = {} if options.quick else workload.bounds  # which are for the full shapes
    return Row(workload.suite, workload.name, found, workload.work, bounds, workload.note)


def rows_of(workloads: Iterable[Workload], options: Options) -> Iterator[Row]:
    for workload in workloads:
        yield row_of(workload, options)


def child(module: str, *arguments: str, **environment: str) -> Any:
    """What `python -m module arguments` prints last, read as JSON; None and why where it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=1800
    )
    if done.returncode:
        return {"note": f"failed: {(done.stderr.strip() or 'no message').splitlines()[-1][:120]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _peak_in_a_fresh_process(workload: Workload, name: str, options: Options) -> int | None:
    quick = ["--quick"] if options.quick else []
    answer = child("bench.peak", workload.suite, workload.name, name, *quick)
    return answer.get("peak")


def peak(workload: Workload, name: str) -> int | None:
    """In this process, which has done nothing else: what one call adds to the resident memory."""
    contender, arrays = workload.contenders[name], workload.made()
    program = peers.program(contender.peer, contender.f, arrays, workload.gradients)
    return peak_increase(program.call)
