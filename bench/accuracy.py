"""How far every loss is from the truth of 110 digits, and how far its peers are.

For each loss and dtype the same seeded points go to ours and to each peer that has the loss. The
rows, their inputs and their truths are those of `tests/cases`; the peers' calls are the lines of
`Also known as`.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from bench import markdown
from bench.exact import digits, is_finite, mpfr, numpy_of_objects
from bench.faults import misused, not_finite, polluted
from bench.oracles import Call, Case, Result, able_to, callers, harness, lines_of, quiet

STEP, NUDGE = mpfr("1e-26"), mpfr("1e-9")
DTYPES: dict[str, Any] = {
    "float32": jnp.float32,
    "float64": jnp.float64,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
}
Scaled = tuple[Call, float]  # and how many times ours its values are


@dataclasses.dataclass
class Truth:
    """What is right at one batch of points, and the unit that an error is told in."""

    arrays: tuple[np.ndarray, ...]
    values: np.ndarray  # of 110 digits
    value_unit: np.ndarray
    slopes: list[Slope]


@dataclasses.dataclass
class Slope:
    """The derivative by one element: of every unit at once, or of one where units are coupled."""

    argument: int
    index: Any
    exact: np.ndarray  # of 110 digits
    unit: np.ndarray
    excluded: np.ndarray  # a kink within the step, or no derivative


@dataclasses.dataclass
class Errors:
    """Errors in eps, and what was left out."""

    value: list[float] = dataclasses.field(default_factory=list)
    gradient: list[float] = dataclasses.field(default_factory=list)
    points: int = 0
    no_value: int = 0
    no_slope: int = 0

    def add(self, truth: Truth, result: Result, factor: float) -> None:
        values, grads = result
        known = np.array([is_finite(v) for v in truth.values.ravel()])
        known &= np.isfinite(truth.value_unit.ravel())
        self.points += known.size
        self.no_value += int(np.sum(~known))
        self.value += _distance(values / factor, truth.values, truth.value_unit, known)
        floats = harness.floats_of(truth.arrays)
        for slope in truth.slopes:
            of_argument = grads[floats.index(slope.argument)]
            if of_argument is None:  # a peer without a derivative there
                continue
            got = np.atleast_1d(of_argument[slope.index])
            kept = ~slope.excluded
            self.no_slope += int(np.sum(slope.excluded))
            self.gradient += _distance(got / factor, slope.exact, slope.unit, kept)

    def cells(self) -> list[str]:
        worst = [_quantiles(self.value), _quantiles(self.gradient)]
        return [str(self.points), f"{self.no_value} / {self.no_slope}", *itertools.chain(*worst)]


def _distance(
    got: np.ndarray, want: np.ndarray, unit: np.ndarray, kept: np.ndarray
) -> Iterator[float]:
    rows = zip(*(np.ravel(a) for a in (got, want, unit, kept)), strict=True)
    for each, exact, size, keep in rows:
        if keep:
            yield float(abs(exact - float(each)) / float(size)) if np.isfinite(each) else np.inf


def _quantiles(errors: list[float]) -> tuple[str, ...]:
    if not errors:
        return "-", "-"
    ends = np.quantile(errors, 0.99, method="higher"), np.max(errors)
    return tuple("0" if end < 1e-9 else f"{end:.3g}" for end in ends)  # the truth's own rounding


def truths(case: Case, dtype: Any, points: int) -> Iterator[Truth]:
    """Batches of at least `points` units together."""
    rng = np.random.default_rng(zlib.crc32(f"{case} {dtype.__name__}".encode()))
    size = points if case.kind == "plain" else 6
    for _ in range(-(-points // size)):
        rounded = harness.typed(case.inputs(rng, (size,)), dtype)
        wide: Any = np.float64 if dtype == jnp.float64 else np.float32
        yield truth_at(case, harness.typed(rounded, wide), dtype, rng)


@np.errstate(all="ignore")
def truth_at(case: Case, arrays: tuple[np.ndarray, ...], dtype: Any, rng: Any) -> Truth:
    info, objects = jnp.finfo(dtype), [digits(a) if harness.is_float(a) else a for a in arrays]
    values = _exactly(case, objects, dtype)
    sizes = _exactly(case, objects, dtype, "scale") if case.scale else np.abs(values)
    unit = np.maximum(sizes.astype(float) * float(info.eps), float(info.tiny))
    places = list(_places(case, arrays, rng))
    slopes = [_slope(case, objects, dtype, *place, rng) for place in places]
    return Truth(arrays, values, unit, slopes)


def _places(case: Case, arrays: tuple[np.ndarray, ...], rng: Any) -> Iterator[tuple[int, Any]]:
    """Of each argument one random element per unit, or a few where all units depend on it."""
    for argument in harness.floats_of(arrays):
        shape = arrays[argument].shape
        if _own(case, argument):
            yield (
                argument,
                (np.arange(shape[0]), *(rng.integers(n, size=shape[0]) for n in shape[1:])),
            )
        else:
            few = 1 if case.kind == "plain" else 2
            yield from ((argument, tuple(rng.integers(n) for n in shape)) for _ in range(few))


def _exactly(
    case: Case, objects: list[Any], dtype: Any, of: str = "truth", at: Any = None
) -> np.ndarray:
    wide: Any = np.float64 if dtype == jnp.float64 else np.float32
    options = {
        name: digits(np.asarray(value))[()] if np.asarray(value).dtype.kind == "f" else value
        for name, value in harness.options_in(case, wide).items()
    }
    if case.detached and of == "truth":
        options["at"] = objects[0] if at is None else at
    with numpy_of_objects():
        result = np.asarray(getattr(case, of)(*objects, **options), object)
    return np.array([mpfr(each) for each in result.ravel()], object).reshape(result.shape or (1,))


def _slope(
    case: Case, objects: list[Any], dtype: Any, argument: int, index: Any, rng: Any
) -> Slope:
    """The derivative, what one ulp of the inputs does to it, and where it is not one."""
    info, step = jnp.finfo(dtype), _steps(objects[argument][index])
    down, here, up = (_rise(case, objects, dtype, argument, index, s * step) for s in (-1, 0, 1))
    exact, left, right = (up - down) / (2 * step), (here - down) / step, (up - here) / step
    floats = [
        a.size // (len(a) if _own(case, i) else 1) if _wide(a) else 0 for i, a in enumerate(objects)
    ]
    moves = []
    for row in signs(sum(floats), rng):
        moved = _nudged(case, objects, floats, row)
        down, up = (_rise(case, moved, dtype, argument, index, s * step) for s in (-1, 1))
        moves.append(((up - down) / (2 * step) - exact) / NUDGE)
    root = np.sqrt(sum(floats) * np.mean([m.astype(float) ** 2 for m in moves], axis=0))
    unit = float(info.eps) * (root + np.abs(exact.astype(float))) + float(info.tiny)
    apart = np.abs((left - right).astype(float)) > 1e-6 * unit
    drowned = np.abs((exact * step / here).astype(float)) < 1e-100
    drowned &= exact.astype(float) != 0
    beyond = ~(np.abs(exact.astype(float)) <= float(info.max))
    return Slope(argument, index, exact, unit, apart | drowned | beyond | ~np.isfinite(unit))


def _steps(element: Any) -> np.ndarray:
    return np.frompyfunc(lambda x: (abs(x) or 1) * STEP, 1, 1)(np.atleast_1d(element))


def _rise(
    case: Case, objects: list[Any], dtype: Any, argument: int, index: Any, by: np.ndarray
) -> np.ndarray:
    """The truth where an element of every unit, or of one, is moved: per unit, or summed."""
    moved = [np.array(a) if i == argument else a for i, a in enumerate(objects)]
    at_once = _own(case, argument)
    moved[argument][index] = moved[argument][index] + (by if at_once else by[0])
    values = _exactly(case, moved, dtype, at=objects[0])
    return values.reshape(len(values), -1).sum(1) if at_once else np.asarray([values.sum()])


def _wide(array: np.ndarray) -> bool:
    return array.dtype == object


def _own(case: Case, position: int) -> bool:
    """Whether a row of the argument belongs to one unit alone."""
    return case.kind == "plain" and position not in case.shared


def signs(count: int, rng: Any) -> np.ndarray:
    """Rows of signs, one per input, in which no two inputs agree or disagree in every row.

    So the effects of two inputs never cancel in all of them.
    """
    rows = int(np.ceil(np.log2(count)))
    codes = rng.permutation(2**rows)[:count]
    return 1 - 2 * np.array([np.zeros(count, int), *((codes >> row) & 1 for row in range(rows))])


def _nudged(
    case: Case, objects: list[Any], floats: list[int], signs: np.ndarray
) -> list[np.ndarray]:
    """Every number moved by NUDGE of itself, up or down."""
    rest, moved = list(signs), []
    for i, (array, count) in enumerate(zip(objects, floats, strict=True)):
        own, rest = np.array(rest[:count]), rest[count:]
        shape = (array.shape[1:] if _own(case, i) else array.shape) if count else ()
        moved.append(array * (1 + NUDGE * own.reshape(shape).astype(object)) if count else array)
    return moved


def measure(case: Case, calls: dict[str, Scaled], name: str, points: int) -> dict[str, Errors]:
    """Errors of ours and of each peer, in one dtype."""
    dtype = DTYPES[name]
    errors = {who: Errors() for who in calls}
    with jax.enable_x64(dtype == jnp.float64):
        for truth in truths(case, dtype, points):
            given = harness.typed(truth.arrays, dtype)
            for who, (call, factor) in calls.items():
                result = jax.tree.map(lambda a: np.asarray(a, np.longdouble), call(given))
                errors[who].add(truth, result, factor)
    return errors


def rows_of(case: Case, points: int, peers: tuple[str, ...]) -> dict[str, list[list[str]]]:
    """The rows of one loss for each table: one per dtype, and one of what becomes of bad input."""
    lines = lines_of(case, peers) if case.kind == "plain" else {}
    calls = callers(case, lines)
    scaled = {
        who: (call, lines[who].factor() if who in lines else 1) for who, call in calls.items()
    }
    tables: dict[str, list[list[str]]] = {}
    with quiet():
        for name, dtype in DTYPES.items():
            able = able_to(case, calls, dtype)
            errors = measure(case, {who: scaled[who] for who in able}, name, points)
            with jax.enable_x64(dtype == jnp.float64):
                extremes = not_finite(case, able, dtype, points)
            tables[name] = [
                [str(case), who, *each.cells(), extremes.get(who, "-")]
                for who, each in errors.items()
            ]
        misuse, leaks = misused(case, lines), polluted(case, calls)
    tables["bad input"] = [[str(case), who, misuse[who], leaks[who]] for who in ("jaxloss", *lines)]
    return tables


def report(
    cases: list[Case], points: int, peers: tuple[str, ...], out: Path, console: Console
) -> None:
    """Measures the loss of every case, and writes the tables."""
    tables: dict[str, list[list[str]]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        jobs = [pool.submit(_rows_by_name, str(case), points, peers) for case in cases]
        for case, job in zip(cases, jobs, strict=True):
            if job.exception():
                pool.shutdown(cancel_futures=True)
            for name, rows in job.result().items():
                tables.setdefault(name, []).extend(rows)
            console.print(f"{case}: {tables['float32'][-1]}", highlight=False)
    markdown.save(out, written(tables, points))


def _rows_by_name(name: str, points: int, peers: tuple[str, ...]) -> dict[str, list[list[str]]]:
    return rows_of(next(c for c in harness.CASES if str(c) == name), points, peers)


def first_rows() -> list[Case]:
    """One row per loss: that with the fewest options."""
    rows = sorted(harness.CASES, key=lambda case: len(case.options) + len(case.data))
    return list({case.loss.__name__: case for case in reversed(rows)}.values())[::-1]


def written(tables: dict[str, list[list[str]]], points: int) -> str:
    """The report in Markdown."""
    parts = [ABOUT.format(points=points, versions=markdown.versions(("torch", "keras")))]
    for name, rows in tables.items():
        parts.append(f"## {name}\n\n{markdown.table(BAD if name == 'bad input' else HEADS, rows)}")
    return "\n\n".join(parts) + "\n"


HEADS = [
    *("loss", "of", "points", "left out", "value p99", "value max"),
    *("gradient p99", "gradient max", "not finite"),
]
BAD = ["loss", "of", "silent misuse", "masks that leak"]
ABOUT = """# Accuracy

Written by `python -m bench accuracy`: {points} seeded points or more per loss and dtype, the same
for everyone ({versions}, CPU).

* **Errors** are in eps of the dtype of the inputs, against MPFR with 110 digits: of a value
  relative to its condition scale (the largest term that the loss adds or subtracts), of a gradient
  relative to what one ulp of each input does to it, plus its own ulp. In half precision ours are
  computed in float32 and returned so.
* **Left out**: values that are not finite or whose scale is not, and slopes where the loss has a
  kink within 1e-26 of the point, or which the dtype cannot hold, or below 1e-100 of the value.
* **Not finite**: of the extremes of the dtype (0, the smallest and largest numbers, ±inf) at which
  the truth is finite, how many give a value that is not, or NaN as a gradient.
* **Silent misuse**: of calls that make no sense (a truth with one more axis, of one unit or without
  any axis, a label out of range), how many give finite numbers.
* **Masks that leak**: of NaN, ±inf and 3e38 in masked units, how many reach the masked mean or its
  gradient; peers are masked by `where(mask, values, 0).sum() / mask.sum()`.
* A line starts from the row of the contract with the fewest options; "-" is what does not apply."""
