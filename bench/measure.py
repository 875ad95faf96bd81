"""Alternating rounds of programs that compute the same thing."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np


@dataclasses.dataclass
class Program:
    """Something to call, what it gives, how long each round took, and what it stores on the way."""

    call: Callable[[], object]
    result: Callable[[object], list[np.ndarray]]
    temporaries: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def compiled(f: Callable[..., object], *arguments: jax.Array) -> Program:
    """A jitted function of arrays, with the temporaries that XLA allocates for it."""
    program = jax.jit(f).lower(*arguments).compile()
    memory = program.memory_analysis()
    return Program(
        call=lambda: jax.block_until_ready(program(*arguments)),
        result=lambda value: [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(value)],
        temporaries=None if memory is None else memory.temp_size_in_bytes,
    )


def alternate(programs: dict[str, Program], rounds: int, tolerance: float) -> None:
    """Checks the results against the first program's, then times all of them in turn."""
    first, *others = programs.values()
    want = first.result(first.call())
    for program in others:
        for got, wanted in zip(program.result(program.call()), want, strict=True):
            np.testing.assert_allclose(
                got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max()
            )
    for _ in range(rounds):
        for program in programs.values():
            start = time.perf_counter()
            program.call()
            program.seconds.append(time.perf_counter() - start)
