"""The three products of a linear head and its gradients: operands as they are, sums in float32."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import inputs

HALF = jnp.bfloat16  # float16 has not the range for slopes
#: From how many classes on a product is worth asking for; what it may lose, of the slopes.
MANY, LOSS = 1024, 2**-10.5
#: How many classes of a head's gradient are added to at a time on CPU.
BLOCK = 3200


def scores(hidden: Array, head: Array) -> Array:
    """`[rows, classes]`: hidden · head."""
    return _product(hidden, head, 1, 0)


def to_hidden(slopes: Array, head: Array) -> Array:
    """`[rows, features]`: what the slopes of the scores are for hidden."""
    if head.dtype != HALF or slopes.dtype == HALF:
        return _product(slopes, head.astype(slopes.dtype), 1, 1)
    if head.shape[1] < MANY:
        return _in_two(slopes, head)
    return _in_one_or_two(slopes, 1, lambda slopes: _product(slopes, head, 1, 1))


def to_head(hidden: Array, slopes: Array, turned: Array | None = None) -> Array:
    """`[features, classes]`: what the slopes of the scores are for the head.

    `turned` is hidden.T where the caller has it: XLA on CPU multiplies quicker what lies as it is
    read.
    """
    operands = hidden, slopes, hidden.T if turned is None else turned
    return jax.lax.platform_dependent(*operands, cpu=_product_of_turned, default=_product_of_halves)


def _product_of_turned(hidden: Array, slopes: Array, turned: Array) -> Array:
    return _product(turned.astype(slopes.dtype), slopes, 1, 0)


def _product_of_halves(hidden: Array, slopes: Array, turned: Array) -> Array:
    """As matrix units take them, where hidden is of halves."""
    if hidden.dtype != HALF or slopes.dtype == HALF:
        return _product(hidden.astype(slopes.dtype), slopes, 0, 0)
    return _in_one_or_two(slopes, None, lambda slopes: _product(hidden, slopes, 0, 0))


def add_to_head(sums: Array, hidden: Array, slopes: Array) -> Array:
    """`sums + to_head(hidden, slopes)`; on CPU without a second array of the head's size."""
    return jax.lax.platform_dependent(
        sums,
        hidden,
        slopes,
        cpu=_add_by_blocks,
        default=lambda sums, hidden, slopes: sums + to_head(hidden, slopes),
    )


def _add_by_blocks(sums: Array, hidden: Array, slopes: Array) -> Array:
    """As many classes at a time as the cache holds; the last block may overlap the one before."""
    turned, classes = jax.lax.optimization_barrier(hidden.T), slopes.shape[1]
    size = min(BLOCK, classes)

    def add(index: Array, sums: Array) -> Array:
        start = jnp.minimum(index * size, classes - size)
        old, part = (jax.lax.dynamic_slice_in_dim(a, start, size, axis=1) for a in (sums, slopes))
        column = start + jax.lax.broadcasted_iota(start.dtype, (1, size), 1)
        part = jnp.where(column >= index * size, part, 0)
        new = old + _product_of_turned(hidden, part, turned)
        return jax.lax.dynamic_update_slice_in_dim(sums, new, start, axis=1)

    return jax.lax.fori_loop(0, -(-classes // size), add, sums)


def _in_two(slopes: Array, head: Array) -> Array:
    """Slopes as a sum of two halves: all their digits, and no wide copy of the head."""
    rest = _rest(slopes).astype(HALF)
    return _product(slopes.astype(HALF), head, 1, 1) + _product(rest, head, 1, 1)


def _in_one_or_two(slopes: Array, axis: int | None, product: Callable[[Array], Array]) -> Array:
    """The product of slopes as a sum of two halves, or of one where the other is too little.

    That is where it is less than what the gradient loses when it is rounded. Slopes are counted
    from the largest along the axis, which is exact then: mostly that of a label, as large as all
    others of its row together.
    """
    size = jnp.max(jnp.abs(slopes), axis=axis, keepdims=True)
    size = jnp.where(size == 0, 1, size)
    scaled = slopes / size
    rest = _rest(scaled)
    enough = jnp.sum((size * rest) ** 2) <= LOSS**2 * jnp.sum(slopes**2)  # and not of a NaN
    first, rest = product(scaled.astype(HALF)), rest.astype(HALF)

    def by_cond(enough: Array, first: Array, scaled: Array) -> Array:
        return jax.lax.cond(enough, lambda: first, lambda: first + product(rest))

    def by_loop(enough: Array, first: Array, scaled: Array) -> Array:
        """For a `cond` XLA on TPU keeps a second copy of the slopes."""

        def add(_: Array, sums: Array) -> Array:
            here, sums = jax.lax.optimization_barrier((scaled, sums))  # or XLA adds it in any case
            return sums + product(_rest(here).astype(HALF))

        return jax.lax.fori_loop(0, jnp.where(enough, 0, 1), add, first)

    operands = enough, first, scaled
    return size * jax.lax.platform_dependent(*operands, cpu=by_cond, default=by_loop)


def _rest(x: Array) -> Array:
    """What a half does not hold."""
    return x - jax.lax.reduce_precision(x, 8, 7)


def _product(x: Array, y: Array, axis_of_x: int, axis_of_y: int) -> Array:
    dimensions = (((axis_of_x,), (axis_of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=inputs.wide_dtype(x.dtype))
