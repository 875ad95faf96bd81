"""A sigmoid for each pair, by blocks: no units, but pairs of the rows of two arrays.

The logit of a pair is sᵢⱼ = scale·xᵢ·zⱼ + bias, and xᵢ belongs to the zⱼ with j = i + offset.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core.numerics import sigmoid, softplus
from jaxloss.fused.pairs import Side
from jaxloss.fused.row_blocks import add, fold, operands, product, take, varying

Four: TypeAlias = tuple[Array, Array, Array, Array]
Saved: TypeAlias = tuple[Array, Array, Array, Array, Array]


class Logits(NamedTuple):
    """What a product of rows needs to be logits."""

    scale: Array
    bias: Array
    offset: Array


class Slopes(NamedTuple):
    """The derivatives by the products of rows, and by the bias."""

    x: Array
    z: Array
    bias: Array


def sums(block: int, so_far: Array, x: Side, z: Side, logits: Logits) -> Array:
    """Σ softplus over the pairs of each row, added to that of other pairs."""

    def body(so_far: Array, start: Array, fresh: Array) -> Array:
        s, pairs, _ = _block(x, z, logits, start, fresh)
        return add(so_far, jnp.sum(jnp.where(pairs, softplus(s), 0), axis=1), start)

    return fold(body, varying(so_far, *x, *z, *logits), x.where.size, block)


def slopes(
    block: int, so_far: tuple[Array, Slopes], x: Side, z: Side, logits: Logits, times: Array
) -> tuple[Array, Slopes]:
    """The sums, and their derivatives where those of a row count so many times."""

    def body(so_far: tuple[Array, Slopes], start: Array, fresh: Array) -> tuple[Array, Slopes]:
        values, (of_x, of_z, of_bias) = so_far
        s, pairs, own = _block(x, z, logits, start, fresh)
        values = add(values, jnp.sum(jnp.where(pairs, softplus(s), 0), axis=1), start)
        t = take(times, start, block)[:, None]
        g = jnp.where(pairs, jnp.where(own, -t, t) * sigmoid(s), 0)
        of_bias = of_bias + jnp.sum(g)
        g, rows = g.astype(z.rows.dtype), take(x.rows, start, block)
        of_x = add(of_x, product(g, z.rows, (1, 0)), start)
        return values, Slopes(of_x, of_z + product(g, rows, (0, 0)), of_bias)

    return fold(body, varying(so_far, *x, *z, *logits, times), x.where.size, block)


def _block(
    x: Side, z: Side, logits: Logits, start: Array, fresh: Array
) -> tuple[Array, Array, Array]:
    """The logits of a block of rows, of which less is better; which are there; which are own."""
    rows, where = (take(a, start, fresh.size) for a in x)
    s = logits.scale * product(rows, z.rows, (1, 1)) + logits.bias
    row, column = (jax.lax.broadcasted_iota(jnp.int32, s.shape, axis) for axis in (0, 1))
    own = column - row == start + logits.offset
    return jnp.where(own, -s, s), (where & fresh)[:, None] & z.where[None], own


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sums_of_softplus(
    block: int, half: bool, x: Array, z: Array, scale: Array, bias: Array, where: Array
) -> Array:
    """One for each row; the products are computed again for the derivatives."""
    return _forward(block, half, x, z, scale, bias, where)[0]


def _forward(
    block: int, half: bool, x: Array, z: Array, scale: Array, bias: Array, where: Array
) -> tuple[Array, Saved]:
    x, z = operands(half, x, z)
    logits = Logits(scale, bias, jnp.int32(0))
    values = sums(block, zeros(where, scale), Side(x, where), Side(z, where), logits)
    return values, (x, z, scale, bias, where)


def _backward(block: int, half: bool, saved: Saved, cotangents: Array) -> tuple[Array | None, ...]:
    return *_slopes(block, saved, cotangents)[1], None


def zeros(like: Array, dtype_of: Array) -> Array:
    return jnp.zeros(like.shape, dtype_of.dtype)


def _slopes(block: int, arguments: Saved, times: Array) -> tuple[Array, Four]:
    x, z, scale, bias, where = arguments
    nothing = zeros(where, scale), Slopes(*(zeros(a, scale) for a in (x, z, bias)))
    logits = Logits(scale, bias, jnp.int32(0))
    values, got = slopes(block, nothing, Side(x, where), Side(z, where), logits, times)
    return values, of_arguments(got, x, scale)


def of_arguments(got: Slopes, x: Array, scale: Array) -> Four:
    """The derivatives by x, z, scale and bias."""
    by_scale = jnp.sum(x.astype(got.x.dtype) * got.x)
    return scale * got.x, scale * got.z, by_scale, got.bias


sums_of_softplus.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def total_of_softplus(
    block: int,
    half: bool,
    x: Array,
    z: Array,
    scale: Array,
    bias: Array,
    where: Array,
    times: Array,
) -> Array:
    """Σ times·sum of the row; the derivatives come with the value, from one product."""
    return jnp.sum(times * _forward(block, half, x, z, scale, bias, where)[0])


def _with_slopes(
    block: int,
    half: bool,
    x: Array,
    z: Array,
    scale: Array,
    bias: Array,
    where: Array,
    times: Array,
) -> tuple[Array, tuple[Array, ...]]:
    x, z = operands(half, x, z)
    values, got = _slopes(block, (x, z, scale, bias, where), times)
    return jnp.sum(times * values), (*got, values)


def _scaled(
    block: int, half: bool, saved: tuple[Array, ...], cotangent: Array
) -> tuple[Array | None, ...]:
    *got, values = (cotangent * slope for slope in saved)
    return *got, None, values


total_of_softplus.defvjp(_with_slopes, _scaled)
