"""What is added over examples before the last formula of a loss.

Parts of a batch (microbatches, devices, evaluation shards) merge their statistics and never
average averages; then any partition gives the loss of the whole.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.checks import observe, observing
from jaxloss.core.inputs import spread, wide_dtype
from jaxloss.core.numerics import ratio

Tree = TypeVar("Tree")


class Statistic(abc.ABC):
    """Something to merge, to scale by a number, and in the end to take the `value` of."""

    __array_ufunc__ = None  # so that np.float32(2) * statistic reaches __rmul__

    @abc.abstractmethod
    def value(self) -> Array:
        """The loss of everything that was merged."""

    def merge(self, other: Self) -> Self:
        """The statistic of the examples of both."""
        return merge([self, other])

    @abc.abstractmethod
    def __mul__(self, scale: ArrayLike) -> Statistic:
        """The same loss times a number."""

    def __rmul__(self, scale: ArrayLike) -> Statistic:
        return self * scale

    def __add__(self, other: object) -> NoReturn:
        raise TypeError(
            "`+` could pool two statistics or add two terms of a loss: a.merge(b) pools, and the "
            "dict {'a': a, 'b': b} is a sum of terms."
        )

    __radd__ = __add__


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Statistic):
    """Σ w·ℓ and Σ w, whose quotient is a mean.

    Example:
        >>> part = jaxloss.squared_error(jnp.ones(3), jnp.zeros(3), reduction=jaxloss.stats)
        >>> rest = jaxloss.squared_error(3 * jnp.ones(1), jnp.zeros(1), reduction=jaxloss.stats)
        >>> print(part.merge(rest).value())
        3.0
    """

    total: Array
    weight: Array

    @classmethod
    def of(
        cls, values: ArrayLike, where: ArrayLike | None = None, weights: ArrayLike | None = None
    ) -> Mean:
        """The mean of one value per unit, in at least float32: of booleans, a share."""
        values, times = kept(values, where, weights)
        if where is None and weights is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, values.dtype))
        return cls(jnp.sum(times * values), jnp.sum(times))

    @classmethod
    def constant(cls, option: Array) -> Mean:
        """An option that every part shares: merging leaves it, and its gradient adds up."""
        return cls(option, jnp.ones_like(option))

    def value(self) -> Array:
        """Σ w·ℓ / Σ w, and 0 where Σ w = 0."""
        return ratio(self.total, self.weight)

    def __mul__(self, scale: ArrayLike) -> Mean:
        return Mean(_scaled(scale, self.total), self.weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Statistic):
    """A total that is the loss itself, such as an evidence lower bound.

    Example:
        >>> print(jaxloss.Sum(jnp.array(2.0)).merge(jaxloss.Sum(jnp.array(3.0))).value())
        5.0
    """

    total: Array

    def value(self) -> Array:
        """The total."""
        return self.total

    def __mul__(self, scale: ArrayLike) -> Sum:
        return Sum(_scaled(scale, self.total))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Concat:
    """A pytree of arrays with one row per example; what is added is rows.

    Floating leaves are differentiated; integers and booleans ride along.

    Example:
        >>> rows = jaxloss.Concat({"x": jnp.zeros((2, 3)), "label": jnp.array([0, 1])})
        >>> print(rows.merge(rows).rows["x"].shape)
        (4, 3)
    """

    rows: Any

    def merge(self, other: Concat) -> Concat:
        """The rows of both."""
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), self, other)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deferred(Statistic):
    """`finish(stats)`, where `stats` is a tree of arrays (added), `Mean`, `Sum` and `Concat`.

    `finish` is a module-level function or a frozen dataclass that holds Python numbers, strings
    and booleans; an option that is an array travels in `stats` as `Mean.constant(option)`.

    Example:
        >>> def root(mean):
        ...     return jnp.sqrt(mean.value())
        >>> one = jaxloss.Deferred(jaxloss.Mean(jnp.array(1.0), jnp.array(1.0)), root)
        >>> other = jaxloss.Deferred(jaxloss.Mean(jnp.array(17.0), jnp.array(1.0)), root)
        >>> print(one.merge(other).value())
        3.0
    """

    stats: Any
    finish: Callable[[Any], Array] = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        if dataclasses.is_dataclass(self.finish):
            for field in dataclasses.fields(self.finish):
                if isinstance(getattr(self.finish, field.name), (Array, np.ndarray)):
                    raise TypeError(
                        f"{field.name} of {type(self.finish).__name__} must be a Python value, "
                        "got an array: carry it in stats as Mean.constant."
                    )

    def value(self) -> Array:
        """The loss of everything that was merged."""
        return self.finish(self.stats)

    def __mul__(self, scale: ArrayLike) -> Deferred:
        factor = Mean.constant(jnp.asarray(scale, float))
        return Deferred((self.stats, factor), _Scaled(self.finish))


@dataclasses.dataclass(frozen=True)
class _Scaled:
    finish: Callable[[Any], Array]

    def __call__(self, stats: tuple[Any, Mean]) -> Array:
        return _scaled(stats[1].value(), self.finish(stats[0]))


def _scaled(scale: ArrayLike, total: Array) -> Array:
    total = total.astype(wide_dtype(total.dtype))
    return jnp.asarray(scale).astype(total.dtype) * total


def stats(values: Array, where: Array | None, weights: Array | None) -> Statistic:
    """A reduction: the mean, left mergeable; a `Mean` or, for a formula of sums, a `Deferred`.

    Example:
        >>> jaxloss.absolute_error(jnp.ones(2), jnp.zeros(2), reduction=jaxloss.stats)
        Mean(total=Array(2., dtype=float32), weight=Array(2., dtype=float32))
    """
    return Mean.of(values, where, weights)


def merge(parts: Sequence[Tree] | Tree, *, axis_name: str | Sequence[str] | None = None) -> Tree:
    """The statistics of the whole, from those of its parts.

    Inside `jax.shard_map`, average the gradient by parameters that every device holds with
    `jax.lax.pmean`. This is right with `check_vma` on or off; without the `pmean`, JAX adds up
    the devices' parts only where `check_vma` is on. `jaxloss.value_and_grad(loss_fn,
    axis_name=axis_name)` does it for you.

    Args:
        parts: A list of trees of statistics; or with `axis_name`, inside `jax.shard_map` or
            `jax.vmap`, the tree of one shard.
        axis_name: The mapped axis or axes whose shards are the parts.

    Returns:
        One tree: arrays are added, rows are concatenated.

    Raises:
        TypeError: `parts` is no list of statistics, or an empty one.

    Example:
        >>> parts = [jaxloss.Mean.of(jnp.array([1.0, 3.0])), jaxloss.Mean.of(jnp.array([8.0]))]
        >>> print(jaxloss.merge(parts).value())
        4.0
    """
    if axis_name is not None:
        return jax.tree.map(functools.partial(_gather, axis_name), parts, is_leaf=concatenates)
    if not isinstance(parts, Sequence) or not parts:
        raise TypeError(f"parts must be a list of one statistic or more, got {parts!r}.")
    return functools.reduce(_merge_two, parts)


def concatenates(node: object) -> bool:
    """Whether parts of a node are rows to be concatenated, and not arrays to be added."""
    return isinstance(node, Concat)


def _gather(axis_name: str | Sequence[str], node: Any) -> Any:
    if isinstance(node, Concat):
        return jax.tree.map(functools.partial(_rows_of_all, axis_name), node)
    return jax.lax.psum(node, axis_name)


def _rows_of_all(axis_name: str | Sequence[str], rows: Array) -> Array:
    """By a sum: what `jax.lax.all_gather` returns counts as different on every device."""
    places = jnp.zeros((jax.lax.axis_size(axis_name), *rows.shape), rows.dtype)
    index = jax.lax.axis_index(axis_name)
    own = jax.lax.dynamic_update_index_in_dim(places, rows, index, axis=0)
    return jax.lax.psum(own, axis_name).astype(rows.dtype).reshape(-1, *rows.shape[1:])


def _merge_two(a: Tree, b: Tree) -> Tree:
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError(
            "two statistics merge if they are of one loss with the same options, got "
            f"{jax.tree.structure(a)} and {jax.tree.structure(b)}."
        )
    return jax.tree.map(_join, a, b, is_leaf=concatenates)


def _join(x: Any, y: Any) -> Any:
    return x.merge(y) if isinstance(x, Concat) else x + y


def value(loss: Any) -> Array:
    """What a training loss returned, as one number: a dict is the sum of its terms."""
    if isinstance(loss, Mapping):
        return functools.reduce(jnp.add, map(value, loss.values()))
    return loss.value() if isinstance(loss, Statistic) else loss


def kept(
    values: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Array, Array]:
    """Values in at least float32, and how often each counts; both are 0 where deleted."""
    values = jnp.asarray(values)
    values = values.astype(wide_dtype(values.dtype))
    times = jnp.ones_like(values)
    if weights is not None:
        times = spread("weights", weights, values.shape).astype(values.dtype)
    if where is not None:
        where = spread("where", where, values.shape)
        values, times = jnp.where(where, values, 0), jnp.where(where, times, 0)
    if observing.value is not None:
        observe("unit", jnp.isfinite(values), "unit", values, "the loss of this unit is not finite")
    return values, times


def total(values: Array, where: ArrayLike | None, weights: ArrayLike | None) -> Array:
    """Σ w·values over the units; the last axis, the classes, stays."""
    _, times = kept(jnp.zeros(values.shape[:-1], values.dtype), where, weights)
    return jnp.sum(times[..., None] * values, axis=tuple(range(values.ndim - 1)))
