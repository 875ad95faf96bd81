"""The machine's own ceilings: what reads, what writes fresh outputs, what multiplies, one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from bench.rows import NONE, Row, Work
from bench.workload import Contender, Options, Workload, rows_of

SIDES = (512, 2048)


def rows(options: Options) -> Iterator[Row]:
    """All other figures hang on these, so that a quick run takes as many rounds."""
    return rows_of(workloads(options), dataclasses.replace(options, rounds=max(15, options.rounds)))


def workloads(options: Options) -> Iterator[Workload]:
    yield _one("dispatch", lambda a: a, [1])
    for millions in (1,) if options.quick else (1, 8, 64):
        size = millions * 2**20
        yield _one(
            f"sum of {millions}M", lambda a, b: jnp.vdot(a, b), [size] * 2, Work(read=8 * size)
        )
        yield _one(
            f"a + 2·b of {millions}M into a fresh output",
            lambda a, b: a + 2 * b,
            [size] * 2,
            Work(read=8 * size, written=4 * size),
        )
    for dtype in ("float32", "bfloat16"):
        for side in SIDES[:1] if options.quick else SIDES:
            work = Work(flops=2 * side**3, dtype=dtype)
            yield _one(f"product of {side}² in {dtype}", _product, [(side, side)] * 2, work, dtype)


def _product(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _one(
    name: str,
    f: Callable[..., Any],
    shapes: list[Any],
    work: Work = NONE,
    dtype: str = "float32",
) -> Workload:
    def arrays(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)

    contenders = {"XLA": Contender("baseline", f)}
    return Workload(
        suite="limit", name=name, arrays=arrays, dtype=dtype, contenders=contenders, work=work
    )
