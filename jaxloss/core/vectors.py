"""Lengths, directions and angles of vectors, which are the last axis.

No square overflows or vanishes: a vector is measured as shares of its largest entry, and where a
value alone is asked for, only if a plain sum of squares has lost digits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from jaxloss.core.numerics import absolute, closed_form, ratio, xlogy

#: Features, up to which sums of a row are one loop: XLA on CPU goes through single ones apart.
SHORT = 64


@jax.custom_jvp
def safe_norm(x: Array) -> Array:
    """√Σx² over the last axis: no overflow, no underflow, derivatives 0 at 0."""
    scale, scaled = _scaled(x)
    return jnp.sqrt(jnp.sum(scaled**2, axis=-1)) * scale[..., 0]


safe_norm.defjvps(lambda t, norm, x: jnp.sum(normalized(x) * t, axis=-1))


@jax.custom_jvp
def normalized(x: Array) -> Array:
    """x / ‖x‖ over the last axis, 0 with derivatives 0 where x = 0; ∞ outweighs what is finite."""
    _, scaled = _scaled(x)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
    return scaled / jnp.where(length == 0, 1, length)


@normalized.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    direction = normalized(x)
    across = ratio(t, safe_norm(x)[..., None])  # first here is last in reverse: no overflow before
    for _ in range(2):  # once leaves the rounding of t along a direction that t is close to
        across = across - direction * jnp.sum(direction * across, axis=-1, keepdims=True)
    return direction, across


@jax.custom_jvp
def distance(x: Array, y: Array) -> Array:
    """‖x - y‖ over the last axis, as `safe_norm`, which is asked only where squares lose digits."""
    squares = jnp.sum((x - y) ** 2, axis=-1)
    return jax.lax.cond(
        _keep_digits(squares, squares),
        lambda: jnp.sqrt(squares),
        lambda: _norm_of_difference(x, y),
    )


@distance.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return jax.jvp(_norm_of_difference, primals, tangents)


def _norm_of_difference(x: Array, y: Array) -> Array:
    return safe_norm(x - y)


@jax.custom_jvp
def cosine(x: Array, y: Array) -> Array:
    """Cosine of the angle over the last axis, 0 with derivatives 0 where x or y is 0."""
    xy, xx, yy = _sums(x * y, x * x, y * y)
    return jax.lax.cond(
        _keep_digits(jnp.minimum(xx, yy), jnp.maximum(xx, yy)),
        lambda: xy / (jnp.sqrt(xx) * jnp.sqrt(yy)),
        lambda: _cosine_and_slopes(x, y)[0],
    )


def _rule_of_cosine(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    value, *slopes = _cosine_and_slopes(*primals)
    change = jnp.zeros_like(value)
    for slope, tangent in zip(slopes, tangents, strict=True):
        if not isinstance(tangent, SymbolicZero):
            change = change + jnp.sum(slope * tangent, axis=-1)
    return value, change


cosine.defjvp(_rule_of_cosine, symbolic_zeros=True)


def _cosine_and_slopes(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """A slope is one vector without its part along the other, which is taken off twice.

    Once leaves its own rounding, of which there is much where the directions are close. Rows are
    multiplied by numbers, as XLA on CPU stores what it divides; the factor, which may overflow, is
    the last of them.
    """
    (factor_of_x, x), (factor_of_y, y) = _near_1(x), _near_1(y)
    xy, xx, yy = (total[..., None] for total in _sums(x * y, x * x, y * y))
    safe_xx, safe_yy = (jnp.where(square == 0, 1, square) for square in (xx, yy))
    lengths = jnp.sqrt(safe_xx) * jnp.sqrt(safe_yy)
    across_x, across_y = y - (xy / safe_xx) * x, x - (xy / safe_yy) * y
    along_x, along_y = (total[..., None] for total in _sums(x * across_x, y * across_y))
    in_x, in_y = across_x - (along_x / safe_xx) * x, across_y - (along_y / safe_yy) * y
    inverse = jnp.where((xx == 0) | (yy == 0), 0, 1 / lengths)
    return (xy / lengths)[..., 0], in_x * inverse * factor_of_x, in_y * inverse * factor_of_y


def _near_1(x: Array) -> tuple[Array, Array]:
    """About one over the largest entry, and x times that, whose squares are within the dtype."""
    limits, largest = jnp.finfo(x.dtype), _largest(x)
    factor = 1 / jnp.clip(largest, 8 * limits.tiny, limits.max / 8)
    factor = jnp.where(jnp.isinf(largest), 0, factor)
    return factor, jnp.where(jnp.isinf(x), jnp.sign(x), x * factor)


@jax.custom_jvp
def _sums(*arrays: Array) -> tuple[Array, ...]:
    """Over the last axis; if that is short in one loop, which loses digits of many terms."""
    if arrays[0].shape[-1] > SHORT:
        return tuple(jnp.sum(array, axis=-1) for array in arrays)
    none = tuple(jnp.zeros((), array.dtype) for array in arrays)
    return tuple(jax.lax.reduce(arrays, none, _added, (arrays[0].ndim - 1,)))


@_sums.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any]:
    return _sums(*primals), tuple(jnp.sum(t, axis=-1) for t in tangents)


def _added(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(some, more, strict=True))


def _keep_digits(least: Array, most: Array) -> Array:
    """Whether of no sum of squares one overflowed, or one that counts underflowed."""
    limits = jnp.finfo(least.dtype)
    return jnp.all((least > limits.tiny / limits.eps**2) & (most < jnp.inf))


def _signed_power_in_x(x: Array, p: Array) -> Array:
    return p * jnp.minimum(jnp.power(absolute(x), p - 1), jnp.finfo(x.dtype).max)


def _signed_power_in_p(x: Array, p: Array) -> Array:
    return xlogy(_signed_power(x, p), absolute(x))


@closed_form(_signed_power_in_x, _signed_power_in_p)
def _signed_power(x: Array, p: Array) -> Array:
    return jnp.sign(x) * jnp.power(jnp.abs(x), p)


def _p_norm_in_x(x: Array, p: Array) -> Array:
    still = jnp.where(jnp.all(x == 0, axis=-1, keepdims=True), jax.lax.stop_gradient(x), x)
    shares = _scaled(still)[1]
    total = jnp.sum(jnp.power(absolute(shares), p), axis=-1, keepdims=True)
    return _signed_power(shares, p - 1) / jnp.power(jnp.where(total == 0, 1, total), 1 - 1 / p)


def _p_norm_in_p(x: Array, p: Array) -> Array:
    shares = absolute(_scaled(x)[1])
    powers = jnp.power(shares, p)
    total = jnp.sum(powers, axis=-1)
    bend = ratio(jnp.sum(xlogy(powers, shares), axis=-1), total) - xlogy(jnp.sign(total), total) / p
    return p_norm(x, p) * (bend / p)


@closed_form(_p_norm_in_x, _p_norm_in_p)
def p_norm(x: Array, p: Array) -> Array:
    """(Σ|x|ᵖ)^(1/p) over the last axis for p of 1 or more, with derivatives 0 at 0; max|x| at ∞."""
    scale, scaled = _scaled(x)
    return jnp.power(jnp.sum(jnp.power(jnp.abs(scaled), p), axis=-1), 1 / p) * scale[..., 0]


def _scaled(x: Array) -> tuple[Array, Array]:
    """The largest entry of the last axis, 1 where all are 0, and the entries as shares of it."""
    largest = _largest(x)
    scale = jnp.where(largest == 0, 1, largest)
    return scale, jnp.where(jnp.isinf(x), jnp.sign(x), x / scale)


def _largest(x: Array) -> Array:
    """max |x|, in one loop and without an array of |x|."""
    x, none = jax.lax.stop_gradient(x), jnp.zeros((), x.dtype)
    top, bottom = jax.lax.reduce((x, x), (none, none), _wider, (x.ndim - 1,))
    return jnp.maximum(top, -bottom)[..., None]


def _wider(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return jnp.maximum(some[0], more[0]), jnp.minimum(some[1], more[1])


@jax.custom_jvp
def rows_at(matrix: Array, index: Array) -> Array:
    """The row of the matrix that each index names; its derivative is a product, not a scatter."""
    sharding = jax.typeof(index).sharding
    split = any(axis is not None for axis in sharding.spec)
    spec = PartitionSpec(*sharding.spec, None)
    return matrix.at[index].get(out_sharding=sharding.update(spec=spec) if split else None)


@rows_at.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (matrix, index), (t, _) = primals, tangents
    one_hot = jax.nn.one_hot(index, matrix.shape[0], dtype=t.dtype)
    return rows_at(matrix, index), jnp.matmul(one_hot, t, precision="highest")
