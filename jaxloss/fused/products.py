"""The three products of a linear head and its gradients: operands as they are, sums in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

HALF = jnp.bfloat16  # float16 has not the range for slopes
#: From how many classes on a product is worth asking for; what it may lose, of the slopes.
MANY, LOSS = 1024, 2**-10.5


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums of `dtype` are in."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def scores(hidden: Array, head: Array) -> Array:
    """`[rows, classes]`: hidden · head."""
    return _product(hidden, head, 1, 0)


def to_hidden(slopes: Array, head: Array) -> Array:
    """`[rows, features]`: what the slopes of the scores are for hidden."""
    if head.dtype != HALF or slopes.dtype == HALF:
        return _product(slopes, head.astype(slopes.dtype), 1, 1)
    on_cpu = _in_two if head.shape[1] < MANY else _in_one_or_two
    return jax.lax.platform_dependent(slopes, head, cpu=on_cpu, default=_rounded)


def to_head(hidden: Array, slopes: Array) -> Array:
    """`[features, classes]`: what the slopes of the scores are for the head."""
    if hidden.dtype != HALF:
        return _product(hidden.astype(slopes.dtype), slopes, 0, 0)
    return jax.lax.platform_dependent(
        hidden,
        slopes,
        cpu=lambda hidden, slopes: _product(hidden.astype(slopes.dtype), slopes, 0, 0),
        default=lambda hidden, slopes: _product(hidden, slopes.astype(HALF), 0, 0),
    )


def _in_two(slopes: Array, head: Array) -> Array:
    """Slopes as a sum of two halves: all their digits, and no wide copy of the head."""
    rest = (slopes - jax.lax.reduce_precision(slopes, 8, 7)).astype(HALF)
    return _rounded(slopes, head) + _product(rest, head, 1, 1)


def _in_one_or_two(slopes: Array, head: Array) -> Array:
    """`_in_two`, without the second where it is less than what the gradient loses when rounded.

    Slopes are counted from the largest of their row, which is exact then. It is mostly that of a
    label, as large as all others together.
    """
    size = jnp.max(jnp.abs(slopes), axis=1, keepdims=True)
    size = jnp.where(size == 0, 1, size)
    scaled = slopes / size
    rest = scaled - jax.lax.reduce_precision(scaled, 8, 7)
    lost, whole = jnp.sum((size * rest) ** 2), jnp.sum(slopes**2)
    enough, first = lost <= LOSS**2 * whole, _rounded(scaled, head)
    return size * jax.lax.cond(enough, lambda: first, lambda: first + _rounded(rest, head))


def _rounded(slopes: Array, head: Array) -> Array:
    """As matrix units take them."""
    return _product(slopes.astype(HALF), head, 1, 1)


def _product(x: Array, y: Array, axis_of_x: int, axis_of_y: int) -> Array:
    dimensions = (((axis_of_x,), (axis_of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=wide(x.dtype))
