"""The three products of a linear head and its gradients: operands as they are, sums in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def scores(hidden: Array, head: Array) -> Array:
    """`[rows, classes]`: hidden · head."""
    return _product(hidden, head, (1, 0))


def to_hidden(slopes: Array, head: Array) -> Array:
    """`[rows, features]`: what the slopes of the scores are for hidden."""
    return _with_slopes(lambda slopes, head: _product(slopes, head, (1, 1)), slopes, head)


def to_head(hidden: Array, slopes: Array) -> Array:
    """`[features, classes]`: what the slopes of the scores are for the head."""
    return _with_slopes(lambda slopes, hidden: _product(hidden, slopes, (0, 0)), slopes, hidden)


def _product(x: Array, y: Array, axes: tuple[int, int]) -> Array:
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=wide(x.dtype))


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums of `dtype` are in."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def _with_slopes(product, slopes: Array, other: Array) -> Array:
    """Slopes keep their digits on a CPU; matrix units take both operands in the narrow dtype."""
    if slopes.dtype == other.dtype:
        return product(slopes, other)
    return jax.lax.platform_dependent(
        slopes,
        other,
        cpu=lambda slopes, other: product(slopes, other.astype(slopes.dtype)),
        default=lambda slopes, other: product(slopes.astype(other.dtype), other),
    )
