"""Softmax over the others, by blocks: no units, but pairs of the rows of two arrays.

The logit of a pair is lᵢⱼ = scale·xᵢ·zⱼ. The row xᵢ belongs to the column zⱼ with j = i + offset,
which is not one of its others. In a column the logit counts lᵢⱼ + liftᵢ, so that one product,
whose columns are counted from their mean to keep their digits, serves both ways.

Where all logits lie near each other, one exponential serves both ways too.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.fused.row_blocks import add, fold, operands, product, put, take, varying

#: One for the rows, one for the columns.
Ways: TypeAlias = tuple[Array, Array]
Saved: TypeAlias = tuple[Array, Array, Array, Array, Array, Array, Array]


class Side(NamedTuple):
    """The rows of an array, and which of them there are."""

    rows: Array
    where: Array


class Logits(NamedTuple):
    """What a product of rows needs to be logits."""

    scale: Array
    lift: Array
    offset: Array


class Total(NamedTuple):
    """exp(top)·total."""

    top: Array
    total: Array

    def plus(self, other: Total) -> Total:
        top = jnp.maximum(self.top, other.top)
        own, others = self.total * jnp.exp(self.top - top), other.total * jnp.exp(other.top - top)
        return Total(top, own + others)

    def log(self) -> Array:
        return self.top + jnp.log(self.total)


class Slopes(NamedTuple):
    """The derivatives by the products of rows; that by the lift has those of the rows in it."""

    x: Array
    z: Array
    lift: Array


def of_no_pair(like: Array) -> Total:
    """For each entry of a vector."""
    return Total(jnp.full_like(like, jnp.finfo(like.dtype).min), jnp.zeros_like(like))


def sums(
    block: int, so_far: tuple[Total, Total], x: Side, z: Side, logits: Logits
) -> tuple[Total, Total]:
    """Σ exp over the others of each row and of each column, added to those of other pairs."""

    def body(so_far: tuple[Total, Total], start: Array, fresh: Array) -> tuple[Total, Total]:
        rows, columns = so_far
        row, column = _sums(*_block(x, z, logits, start, fresh))
        row = Total(*(take(part, start, block) for part in rows)).plus(row)
        rows = Total(*(put(part, new, start) for part, new in zip(rows, row, strict=True)))
        return rows, columns.plus(column)

    return fold(body, varying(so_far, *x, *z, *logits), x.where.size, block)


class _Which(NamedTuple):
    """Of a block: which rows and columns there are, and how far its own column is from a row."""

    rows: Array
    columns: Array
    away: Array

    def pairs(self) -> Array:
        """All of them, in a branch that needs them: no branch is given an array of all pairs."""
        shape = self.rows.size, self.columns.size
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        return self.rows[:, None] & self.columns[None] & (column - row != self.away)


def _block(
    x: Side, z: Side, logits: Logits, start: Array, fresh: Array
) -> tuple[Array, _Which, Array]:
    """The logits of a block of rows, which of them are of pairs, and the lifts of the rows."""
    rows, where, lift = (take(a, start, fresh.size) for a in (*x, logits.lift))
    s = logits.scale * product(rows, z.rows, (1, 1))
    return s, _Which(where & fresh, z.where, start + logits.offset), lift


def _sums(s: Array, which: _Which, lift: Array) -> tuple[Total, Total]:
    top, most = jnp.max(s[s.shape[0] // 2]), jnp.max(lift)
    shares = jnp.where(which.pairs(), jnp.exp(s - top), 0)
    row = jnp.sum(shares, axis=1)
    column = jnp.sum(shares * jnp.exp(lift - most)[:, None], axis=0)
    least = float(jnp.finfo(s.dtype).tiny) ** 0.65  # what is lost below is no digit of it

    def held(total: Array, there: Array) -> Array:
        return jnp.all((total >= least) & (total < jnp.inf) | ~there)

    def one_each() -> tuple[Total, Total]:
        pairs = which.pairs()
        return _total(s, pairs, 1), _total(s + lift[:, None], pairs, 0)

    return jax.lax.cond(
        held(row, which.rows) & held(column, which.columns),
        lambda: (_from(top, row), _from(top + most, column)),
        one_each,
    )


def _from(top: Array, total: Array) -> Total:
    """A total of nothing has no top to outweigh others with."""
    return Total(jnp.where(total == 0, jnp.finfo(total.dtype).min, top), total)


def _total(s: Array, pairs: Array, axis: int) -> Total:
    s = jnp.where(pairs, s, -jnp.inf)
    top = jnp.max(s, axis=axis, keepdims=True, initial=jnp.finfo(s.dtype).min)
    return Total(jnp.squeeze(top, axis), jnp.sum(jnp.exp(s - top), axis=axis))


def slopes(
    block: int,
    so_far: Slopes,
    x: Side,
    z: Side,
    logits: Logits,
    logs: Ways,
    cotangents: Ways,
) -> Slopes:
    """The derivatives of log Σ exp of each row and column, added to those of other pairs."""
    middle, near = _middle(logs, logits.lift)
    times = [t * jnp.exp(middle - log) for t, log in zip(cotangents, logs, strict=True)]

    def body(so_far: Slopes, start: Array, fresh: Array) -> Slopes:
        s, which, lift = _block(x, z, logits, start, fresh)

        def one_exponential() -> Array:
            lifted = jnp.exp(lift)[:, None] * times[1][None]
            both = take(times[0], start, block)[:, None] + lifted
            return jnp.where(which.pairs(), jnp.exp(s - middle), 0) * both

        def one_each() -> Array:
            log, t = (take(a, start, block)[:, None] for a in (logs[0], cotangents[0]))
            of_row = t * jnp.exp(s - log)
            of_column = cotangents[1][None] * jnp.exp((s + lift[:, None]) - logs[1][None])
            return jnp.where(which.pairs(), of_row + of_column, 0)

        g = jax.lax.cond(near, one_exponential, one_each)
        lift = add(so_far.lift, jnp.sum(g, axis=1), start)
        g, rows = g.astype(z.rows.dtype), take(x.rows, start, block)
        of_x = add(so_far.x, product(g, z.rows, (1, 0)), start)
        return Slopes(of_x, so_far.z + product(g, rows, (0, 0)), lift)

    return fold(body, varying(so_far, *x, *z, *logits, *logs, *cotangents), x.where.size, block)


def _middle(logs: Ways, lift: Array) -> tuple[Array, Array]:
    """Of the logarithms, and whether all are so near it that no share is lost."""
    every = jnp.concatenate(logs)
    low, high = jnp.min(every), jnp.max(every)
    reach = math.log(float(jnp.finfo(every.dtype).max)) / 4
    near = (high - low <= 2 * reach) & (jnp.max(jnp.abs(lift)) <= reach)
    return low + (high - low) / 2, near


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def log_sums_of_others(
    block: int, half: bool, x: Array, z: Array, scale: Array, lift: Array, where: Array
) -> Ways:
    """log Σ exp over the others of each row and of each column; -inf where there are none."""
    return _forward(block, half, x, z, scale, lift, where)[0]


def _forward(
    block: int, half: bool, x: Array, z: Array, scale: Array, lift: Array, where: Array
) -> tuple[Ways, Saved]:
    x, z = operands(half, x, z)
    nothing, logits = of_no_pair(lift), Logits(scale, lift, jnp.int32(0))
    rows, columns = sums(block, (nothing, nothing), Side(x, where), Side(z, where), logits)
    logs = rows.log(), columns.log()
    return logs, (x, z, scale, lift, where, *logs)


def _backward(block: int, half: bool, saved: Saved, cotangents: Ways) -> tuple[Array | None, ...]:
    x, z, scale, lift, where, row_log, column_log = saved
    logits, rows, columns = Logits(scale, lift, jnp.int32(0)), Side(x, where), Side(z, where)
    zero = Slopes(*(jnp.zeros(a.shape, lift.dtype) for a in (x, z, lift)))
    got = slopes(block, zero, rows, columns, logits, of_some_pair(row_log, column_log), cotangents)
    return *of_arguments(got, x, scale, cotangents[0]), None


log_sums_of_others.defvjp(_forward, _backward)


def of_some_pair(rows: Array, columns: Array) -> Ways:
    """Where there is no pair there is no slope, whatever finite number stands for -inf."""
    return jnp.where(jnp.isneginf(rows), 0, rows), jnp.where(jnp.isneginf(columns), 0, columns)


def of_arguments(
    got: Slopes, x: Array, scale: Array, cotangents: Array
) -> tuple[Array, Array, Array, Array]:
    """The derivatives by x, z, scale and lift; the shares of a row add up to its cotangent."""
    by_scale = jnp.sum(x.astype(got.x.dtype) * got.x)
    return scale * got.x, scale * got.z, by_scale, got.lift - cotangents
