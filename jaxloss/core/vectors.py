"""Lengths, directions and angles of vectors, which are the last axis.

No square overflows or vanishes: a vector is measured as shares of its largest entry, and where a
value alone is asked for, only if a plain sum of squares has lost digits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core.numerics import absolute, closed_form, ratio, xlogy


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
    xy, xx, yy = _sums_of_products(x, y)
    return jax.lax.cond(
        _keep_digits(jnp.minimum(xx, yy), jnp.maximum(xx, yy)),
        lambda: xy / (jnp.sqrt(xx) * jnp.sqrt(yy)),
        lambda: _product_of_directions(x, y),
    )


@cosine.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return jax.jvp(_product_of_directions, primals, tangents)


def _sums_of_products(x: Array, y: Array) -> tuple[Array, ...]:
    """Σxy, Σx² and Σy² in one loop, where XLA on CPU goes three times through single sums."""
    none = (jnp.zeros((), x.dtype),) * 3
    return tuple(jax.lax.reduce((x * y, x * x, y * y), none, _added, (x.ndim - 1,)))


def _added(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(some, more, strict=True))


def _product_of_directions(x: Array, y: Array) -> Array:
    return jnp.sum(normalized(x) * normalized(y), axis=-1)


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
    top, bottom = (f(x, axis=-1, keepdims=True, initial=0) for f in (jnp.max, jnp.min))
    largest = jax.lax.stop_gradient(jnp.maximum(top, -bottom))  # XLA on CPU would store |x|
    scale = jnp.where(largest == 0, 1, largest)
    return scale, jnp.where(jnp.isinf(x), jnp.sign(x), x / scale)
