"""How peers pass arrays: classes on any axis, shapes to broadcast, least norms, reductions."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core import inputs, numerics
from jaxloss.core.reductions import Reduction, unit_mean

REDUCTIONS: dict[str, Reduction[Array]] = {"none": None, "mean": "mean", "sum": "sum"}


def reduction_of(
    name: str, size_average: bool | None = None, reduce: bool | None = None
) -> Reduction[Array]:
    """Ours of that name, or what the two former arguments say."""
    if size_average is not None or reduce is not None:
        name = "none" if reduce is False else "sum" if size_average is False else "mean"
    if name not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {name!r}.")
    return REDUCTIONS[name]


def per_unit(reduction: Reduction[Array]) -> Reduction[Array]:
    """A mean that divides by the number of units, whatever they weigh."""
    return unit_mean if reduction == "mean" else reduction


def last(array: ArrayLike, axis: int | tuple[int, ...] | None) -> Array:
    """The array with `axis` (one, several merged into one, or None for all) as its last."""
    array = jnp.asarray(array)
    if axis is None:
        return array.reshape(-1)
    if isinstance(axis, int):
        return jnp.moveaxis(array, axis, -1)
    moved = jnp.moveaxis(array, axis, range(-len(axis), 0))
    return moved.reshape(*moved.shape[: array.ndim - len(axis)], -1)


def together(**arrays: ArrayLike) -> list[Array]:
    """The arrays as floats of one shape, repeated along axes of length 1."""
    return list(jnp.broadcast_arrays(*inputs.floats(**arrays)))


def over_classes(
    axis: int | tuple[int, ...] | None,
    where: ArrayLike | None,
    fill: tuple[float, float],
    **arrays: ArrayLike,
) -> tuple[Array, Array, Array | None]:
    """Two arrays of one shape with their classes last, and which rows have a class.

    What `where` leaves out is filled, in the first array with the first of `fill`.
    """
    first, second = (last(array, axis) for array in together(**arrays))
    if where is None:
        return first, second, None
    shape = jnp.broadcast_shapes(*map(jnp.shape, arrays.values()))
    present = last(jnp.broadcast_to(where, shape), axis)
    first, second = (
        jnp.where(present, array, value) for array, value in zip((first, second), fill, strict=True)
    )
    return first, second, jnp.any(present, axis=-1)


def longer(a: Array, b: Array, more_a: ArrayLike, more_b: ArrayLike) -> tuple[Array, Array]:
    """Vectors with the same product, each with an entry more that the other has not."""
    units = a.shape[:-1]
    more_a, more_b = (
        jnp.broadcast_to(jnp.asarray(more, a.dtype), units) for more in (more_a, more_b)
    )
    none = jnp.zeros(units, a.dtype)
    return (
        jnp.concatenate([a, jnp.stack([more_a, none], axis=-1)], axis=-1),
        jnp.concatenate([b, jnp.stack([none, more_b], axis=-1)], axis=-1),
    )


def at_least(a: Array, b: Array, square: ArrayLike) -> tuple[Array, Array]:
    """Vectors with the same product, whose squared norms are `square` or more."""
    least = jnp.asarray(square, a.dtype)
    missing = (jnp.maximum(least - jnp.sum(x**2, axis=-1), 0) for x in (a, b))
    return longer(a, b, *map(numerics.safe_sqrt, missing))
