"""What becomes of bad input: non-finite results, silent misuse, masks that leak.

Counted for ours and for each peer in the same way: an extreme at which the truth is finite and the
result is not; a call that makes no sense and returns a number; a unit that is masked and shows.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.oracles import Call, Case, Line, harness, migration, quiet

Arrays = tuple[np.ndarray, ...]
POISONS = (np.nan, np.inf, -np.inf, 3e38)
KEPT = np.array([1, 1, 0, 1, 0, 1], bool)


@np.errstate(all="ignore")
def not_finite(case: Case, calls: dict[str, Call], dtype: Any, points: int = 600) -> dict[str, str]:
    """Of the extremes of the dtype where the truth is finite: how many give no finite value, or NaN
    as a gradient."""
    if case.kind != "plain":
        return {}
    wide: Any = np.float64 if dtype == jnp.float64 else np.float32
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    largest = float(jnp.finfo(dtype).max)
    given = harness.generated_extremes(case, rng, dtype, points)
    rounded = harness.typed(given, wide)
    want = harness.exactly(case, rounded, wide).reshape(points, -1).sum(1)
    sizes = harness.exactly(case, rounded, wide, "scale") if case.scale else np.abs(want)
    known = np.isfinite(want) & (np.max(sizes.reshape(points, -1), axis=1) <= largest)
    infinite = [
        np.isinf(a.reshape(len(a), -1)).sum(1) for i, a in enumerate(rounded) if _own(case, i)
    ]
    known &= np.sum(infinite, axis=0) <= 1

    def count(call: Call) -> str:
        values, grads = call(given)
        bad = ~np.isfinite(np.asarray(values, float).reshape(points, -1)).all(1)
        of_units = [g for g in grads if g is not None and g.shape[:1] == (points,)]
        nan = [np.isnan(g.astype(float)).reshape(points, -1).any(1) for g in of_units]
        return f"{np.sum((bad | np.any(nan, axis=0)) & known)} / {np.sum(known)}"

    return {who: _unless_it_raises(count, call) for who, call in calls.items()}


def _unless_it_raises(count: Callable[[Any], str], call: Any) -> str:
    try:
        return count(call)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return "raises"


def _own(case: Case, position: int) -> bool:
    return position not in case.shared


def misused(case: Case, lines: dict[str, Line]) -> dict[str, str]:
    """Calls that make no sense and give finite numbers all the same, of all such calls."""
    rng = np.random.default_rng(0)
    arrays = harness.arrays_of(case, rng)
    calls: dict[str, Callable[..., Any]] = {"jaxloss": case.call}
    calls |= {who: lambda *a, line=line: migration.theirs(line, a) for who, line in lines.items()}
    senseless = list(_senseless(case, arrays))
    return {
        who: f"{sum(_silent(call, given) for given in senseless)} / {len(senseless)}"
        for who, call in calls.items()
    }


def _senseless(case: Case, arrays: Arrays) -> Iterator[Arrays]:
    """Truths of a shape that would be broadcast, and labels that are out of range."""
    for i, array in enumerate(arrays[1:], 1):
        if _own(case, i):
            for wrong in (array[:, None], array[:1], array[0]):
                yield (*arrays[:i], wrong, *arrays[i + 1 :])
        if array.dtype.kind in "iu" and case.kind == "plain":
            argument, axis = case.classes
            for label in (-1, arrays[argument].shape[axis]):
                labels = np.array(array)
                labels[2] = label
                yield (*arrays[:i], labels, *arrays[i + 1 :])


def _silent(call: Callable[..., Any], arrays: Arrays) -> bool:
    try:
        with quiet():
            return bool(np.isfinite(np.asarray(call(*arrays))).all())
    except Exception:  # any complaint is one
        return False


def polluted(case: Case, calls: dict[str, Call]) -> dict[str, str]:
    """Poisons in a masked unit that reach the masked mean or its gradient.

    Ours masks by `where`; what returns values per unit is masked by the usual
    `where(mask, values, 0).sum() / mask.sum()`.
    """
    rng = np.random.default_rng(0)
    arrays = harness.arrays_of(case, rng)
    masked: dict[str, Callable[..., Any]] = {
        who: functools.partial(_masked, call) for who, call in calls.items()
    }
    masked["jaxloss"] = lambda given: harness.run(case, "mean", given, KEPT)

    def count(call: Callable[..., Any]) -> str:
        results = [call(_poisoned(case, arrays, poison)) for poison in POISONS]
        leaks = [not all(np.isfinite(x).all() for x in jax.tree.leaves(r)) for r in results]
        return f"{sum(leaks)} / {len(leaks)}"

    return {who: _unless_it_raises(count, call) for who, call in masked.items()}


def _poisoned(case: Case, arrays: Arrays, poison: float) -> Arrays:
    arrays = tuple(np.array(a) for a in arrays)
    for i, array in enumerate(arrays):
        if _own(case, i) and harness.is_float(array):
            array[~KEPT] = poison
    return arrays


def _masked(call: Call, arrays: Arrays) -> Any:
    values, grads = call(arrays)
    times = KEPT.reshape(-1, *[1] * (values.ndim - 1))
    masked = np.where(times, values, 0).sum() / KEPT.sum()
    # a cotangent of 0 meets the derivative: 0 · NaN and 0 · ∞ are NaN
    return masked, [g * KEPT.reshape(-1, *[1] * (g.ndim - 1)) for g in grads if g is not None]
