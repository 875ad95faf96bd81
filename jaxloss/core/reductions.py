"""The last line of every loss: from one value per unit to the number you differentiate.

`where` deletes and `weights` repeat (`weights=2` is the unit twice). `reduction` is

    "mean"         Σ w·ℓ / Σ w
    "sum"          Σ w·ℓ
    None           w·ℓ, one per unit, 0 where deleted
    jaxloss.stats  the mergeable form of the mean: a `Mean` or a `Deferred`
    a function     called with (values, where, weights), such as `jaxloss.unit_mean`

and the mean of nothing is 0. A weight is arithmetic: 0 · NaN is NaN, and only `where` erases.

`where` is boolean and `weights` are numbers. Both have the shape of the units or of their leading
axes: `[batch]` for units `[batch, time]`, and never `[batch, 1]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from typing_extensions import TypeVar

from jaxloss.core.checks import observing, require
from jaxloss.core.inputs import spread
from jaxloss.core.statistics import Concat, Deferred, Mean, Statistic, kept, stats

R = TypeVar("R", default=Array)
Reduction: TypeAlias = (
    Literal["mean", "sum"] | Callable[[Array, Array | None, Array | None], R] | None
)
MeanReduction: TypeAlias = Literal["mean"] | Callable[[Array, Array | None, Array | None], R]


def reduce(
    values: Array,
    *,
    counts: Array | None = None,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """The last line of a loss with one value per unit.

    `counts` is what a unit of weight 1 adds to the denominator: 1, or the weight of its class.
    """
    if reduction is None:
        values, times = kept(values, where, weights)
        return cast(R, times * values)
    if reduction == "mean" or reduction is stats:
        mean = _mean(values, counts, where, weights)
        if reduction is stats:
            return cast(R, mean)
        plain = where is None and weights is None and counts is None
        return cast(R, mean.total / max(values.size, 1) if plain else mean.value())
    if reduction == "sum":
        return cast(R, Mean.of(values, where, weights).total)
    if not callable(reduction):
        raise ValueError(
            "reduction must be 'mean', 'sum', None (one value per unit), jaxloss.stats or "
            f"another function of (values, where, weights), got {reduction!r}."
        )
    where = None if where is None else spread("where", where, values.shape)
    weights = None if weights is None else spread("weights", weights, values.shape)
    if counts is not None and reduction not in (unit_mean, unit_stats):  # these count units
        values = values / jnp.where(counts == 0, 1, counts)
        weights = counts if weights is None else weights.astype(values.dtype) * counts
    return reduction(kept(values, where, None)[0], where, weights)


def adds_up(reduction: object) -> bool:
    """Whether a reduction needs the sum of the values only, and no value of its own."""
    return reduction in ("mean", "sum", stats, unit_mean, unit_stats)


def reduce_total(
    total: Array,
    kept_units: Array,
    counts: Array,
    *,
    units: tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """`reduce`, where it `adds_up` and the sum is known: Σ w·ℓ, the units kept, and Σ w."""
    if reduction == "sum":
        return cast(R, total)
    if reduction in ("mean", stats):
        require_multiplicities(units, where, weights)
    mean = Mean(total, kept_units if reduction in (unit_mean, unit_stats) else counts)
    return cast(R, mean if reduction in (stats, unit_stats) else mean.value())


def _mean(
    values: Array, counts: Array | None, where: ArrayLike | None, weights: ArrayLike | None
) -> Mean:
    mean = Mean.of(values, where, weights)
    require_multiplicities(values.shape, where, weights)
    return mean if counts is None else Mean(mean.total, Mean.of(counts, where, weights).total)


def require_multiplicities(
    units: tuple[int, ...], where: ArrayLike | None, weights: ArrayLike | None
) -> None:
    """Under `checked`, an error that names the first weight which is negative and counts."""
    if weights is None or observing.value is None:
        return
    given = jnp.asarray(weights)
    counts = spread("where", True if where is None else where, units)
    counts = jnp.any(counts, axis=tuple(range(given.ndim, len(units))))
    require(
        lambda weight: (weight >= 0) | ~counts, "weights", given, "a weight of a mean is 0 or more"
    )


def defer(
    statistics: Any,
    finish: Callable[[Any], Array],
    *,
    reduction: MeanReduction[R],
    name: str,
) -> R:
    """The last line of a loss that is a formula of sums and has no value per unit."""
    if reduction == "mean":
        return cast(R, finish(statistics))
    if reduction is stats:
        return cast(R, Deferred(statistics, finish))
    raise ValueError(
        f"reduction of {name} must be 'mean' or jaxloss.stats, got {reduction!r}: the loss is a "
        "formula of sums over the batch and has no value per unit."
    )


def reduce_rows(
    kernel: Callable[..., tuple[Array, Array]],
    rows: tuple[Array, ...],
    *options: Array,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """The last line of a loss whose units see each other.

    `kernel(*rows, *options, where)`, a module-level function or a frozen dataclass of Python
    values, is one value per row and what a row of weight 1 adds to the denominator: 1 or True,
    how many terms its value is a sum of, or 0 where it has none (an anchor without a positive).
    It may also have `total(*rows, *options, where, weights)`, which is Σ w·ℓ at once, or None.
    Rows are told apart by `where` and never by their order.
    """
    units = rows[0].shape[:1]
    where = spread("where", True if where is None else where, units)
    weights = spread("weights", 1 if weights is None else weights, units).astype(rows[0].dtype)
    if reduction in (stats, unit_stats):
        shared = tuple(Mean.constant(option) for option in options)
        finish = _ReduceRows(kernel, cast(Callable[..., Statistic], reduction))
        return cast(R, Deferred((Concat((rows, where, weights)), shared), finish))
    return _reduce_rows(kernel, (rows, where, weights), options, reduction)


def _reduce_rows(
    kernel: Callable[..., tuple[Array, Array]],
    concatenated: tuple[tuple[Array, ...], Array, Array],
    options: tuple[Array, ...],
    reduction: Reduction[R],
) -> R:
    rows, where, weights = jax.tree.map(everywhere, concatenated)
    if reduction in ("mean", "sum", stats):
        mean = _total(kernel, (*rows, *options, where), weights)
        if mean is not None:
            ready = {"mean": mean.value, "sum": lambda: mean.total, stats: lambda: mean}
            return cast(R, ready[reduction]())
    values, counts = kernel(*rows, *options, where)
    counts = counts.astype(values.dtype)
    return reduce(values, counts=counts, where=counts > 0, weights=weights, reduction=reduction)


def _total(kernel: object, arguments: tuple[Array, ...], weights: Array) -> Mean | None:
    """Of a kernel that has Σ w·ℓ without its terms, unless somebody observes these."""
    of = getattr(kernel, "total", None)
    if of is None or observing.value is not None:
        return None
    times = jnp.where(arguments[-1], weights, 0)
    total = of(*arguments, times)
    return None if total is None else Mean(total, jnp.sum(times))


def everywhere(rows: Array) -> Array:
    """All rows on every device, where a mesh with explicit axes splits them."""
    split = any(axis is not None for axis in jax.typeof(rows).sharding.spec)
    return jax.sharding.reshard(rows, PartitionSpec()) if split else rows


@dataclasses.dataclass(frozen=True)
class _ReduceRows:
    kernel: Callable[..., tuple[Array, Array]]
    reduction: Callable[..., Statistic]

    def __call__(self, statistics: tuple[Concat, tuple[Mean, ...]]) -> Array:
        options = tuple(option.value() for option in statistics[1])
        return _reduce_rows(self.kernel, statistics[0].rows, options, self.reduction).value()


def unit_mean(values: Array, where: Array | None, weights: Array | None) -> Array:
    """A reduction: Σ w·ℓ / number of units kept, for signed weights such as advantages.

    Example:
        >>> print(jaxloss.unit_mean(jnp.array([3.0, 4.0]), None, jnp.array([2.0, -1.0])))
        1.0
    """
    return unit_stats(values, where, weights).value()


def unit_stats(values: Array, where: Array | None, weights: Array | None) -> Mean:
    """A reduction: the mergeable form of `unit_mean`.

    Example:
        >>> jaxloss.unit_stats(jnp.ones(2), None, jnp.array([1.0, 3.0]))
        Mean(total=Array(4., dtype=float32), weight=Array(2., dtype=float32))
    """
    values, times = kept(values, where, weights)
    return Mean.of(times * values, where)
