"""The three products of a linear head and its gradients: operands as they are, sums in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

HALF = jnp.bfloat16  # float16 has not the range for slopes


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums of `dtype` are in."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def scores(hidden: Array, head: Array) -> Array:
    """`[rows, classes]`: hidden · head."""
    return _product(hidden, head, 1, 0)


def to_hidden(slopes: Array, head: Array) -> Array:
    """`[rows, features]`: what the slopes of the scores are for hidden."""
    if head.dtype != HALF:
        return _product(slopes, head.astype(slopes.dtype), 1, 1)
    return jax.lax.platform_dependent(slopes, head, cpu=_in_two, default=_rounded)


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


def _rounded(slopes: Array, head: Array) -> Array:
    """As matrix units take them."""
    return _product(slopes.astype(HALF), head, 1, 1)


def _product(x: Array, y: Array, axis_of_x: int, axis_of_y: int) -> Array:
    dimensions = (((axis_of_x,), (axis_of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=wide(x.dtype))
