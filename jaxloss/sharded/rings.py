"""Pairs of rows that are on different devices: no units, only who meets whom and when.

Everything here is inside of `jax.shard_map`. Round a ring the columns pass from device to device
and meet all rows, so that no device has more than its own share and one other; gathered, every
device has all columns at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.fused import pairs, sigmoids
from jaxloss.fused.pairs import Side, Total, of_no_pair, of_some_pair
from jaxloss.fused.row_blocks import operands, varying
from jaxloss.sharded.meshes import Axes

#: The axes, whether round a ring, the rows of a block, whether operands are halves.
How: TypeAlias = tuple[Axes, bool, int, bool]
#: What stays on a device, what comes by, and how far the columns are from its rows.
Meet: TypeAlias = Callable[[Any, Any, Array], tuple[Any, Any]]


def pass_round(meet: Meet, axes: Axes, rows: int, stays: Any, comes: Any, like: Array) -> Any:
    """What stays has met all that comes; what comes is home again."""
    count, here = jax.lax.axis_size(axes), jax.lax.axis_index(axes)
    to_the_next = [(i, (i - 1) % count) for i in range(count)]

    def step(carry: Any, k: Array) -> tuple[Any, None]:
        stays, comes = carry
        stays, comes = meet(stays, comes, (here - (here + k) % count) * rows)
        send = functools.partial(jax.lax.ppermute, axis_name=axes, perm=to_the_next)
        return (stays, jax.tree.map(send, comes)), None

    steps = jnp.arange(count, dtype=jnp.int32)
    return jax.lax.scan(step, varying((stays, comes), like), steps)[0]


def meet_all(meet: Meet, axes: Axes, rows: int, stays: Any, comes: Any, like: Array) -> Any:
    """The same at once, with the columns of all devices; what comes keeps those of all."""
    everything = jax.tree.map(functools.partial(_of_all, axes), comes)
    offset = jax.lax.axis_index(axes) * jnp.int32(rows)
    return meet(varying(stays, like), varying(everything, like), offset)


def _of_all(axes: Axes, array: Array) -> Array:
    return jax.lax.all_gather(array, axes, tiled=True)


def own(axes: Axes, array: Array, rows: int) -> Array:
    """Of rows or columns of all devices, those of this one."""
    return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axes) * rows, rows)


def together(axes: Axes, total: Total) -> Total:
    """The sums of the pairs of all devices."""
    top = jax.lax.pmax(total.top, axes)
    return Total(top, jax.lax.psum(total.total * jnp.exp(total.top - top), axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_sums_of_others(
    how: How, x: Array, z: Array, scale: Array, lift: Array, where: Array
) -> tuple[Array, Array]:
    """`pairs.log_sums_of_others` among all devices."""
    return _forward(how, x, z, scale, lift, where)[0]


def _forward(
    how: How, x: Array, z: Array, scale: Array, lift: Array, where: Array
) -> tuple[pairs.Ways, pairs.Saved]:
    axes, ring, block, half = how
    x, z = operands(half, x, z)

    def meet(rows: Total, comes: tuple[Side, Total], offset: Array) -> Any:
        logits = pairs.Logits(scale, lift, offset)
        rows, columns = pairs.sums(block, (rows, comes[1]), Side(x, where), comes[0], logits)
        return rows, (comes[0], columns)

    go = pass_round if ring else meet_all
    start = of_no_pair(lift), (Side(z, where), of_no_pair(lift))
    rows, (_, columns) = go(meet, axes, where.size, *start, x)
    if not ring:
        columns = Total(*(own(axes, part, where.size) for part in together(axes, columns)))
    logs = rows.log(), columns.log()
    return logs, (x, z, scale, lift, where, *logs)


def _backward(how: How, saved: pairs.Saved, cotangents: pairs.Ways) -> tuple[Array | None, ...]:
    axes, ring, block, _ = how
    x, z, scale, lift, where, row_log, column_log = saved
    row_log, column_log = of_some_pair(row_log, column_log)

    def meet(stays: tuple[Array, Array], comes: tuple[Any, ...], offset: Array) -> Any:
        side, log, cotangent, of_z = comes
        so_far = pairs.Slopes(stays[0], of_z, stays[1])
        logits = pairs.Logits(scale, lift, offset)
        both = (row_log, log), (cotangents[0], cotangent)
        got = pairs.slopes(block, so_far, Side(x, where), side, logits, *both)
        return (got.x, got.lift), (side, log, cotangent, got.z)

    of_x, of_z, of_lift = (jnp.zeros(a.shape, lift.dtype) for a in (x, z, lift))
    comes = Side(z, where), column_log, cotangents[1], of_z
    go = pass_round if ring else meet_all
    (of_x, of_lift), (*_, of_z) = go(meet, axes, where.size, (of_x, of_lift), comes, x)
    got = pairs.Slopes(of_x, of_z if ring else _home(axes, of_z), of_lift)
    return *pairs.of_arguments(got, x, scale, cotangents[0]), None


def _home(axes: Axes, columns: Array) -> Array:
    return jax.lax.psum_scatter(columns, axes, tiled=True)


log_sums_of_others.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sums_of_softplus(
    how: How, x: Array, z: Array, scale: Array, bias: Array, where: Array
) -> Array:
    """`sigmoids.sums_of_softplus` among all devices."""
    return _sums(how, x, z, scale, bias, where)[0]


def _sums(
    how: How, x: Array, z: Array, scale: Array, bias: Array, where: Array
) -> tuple[Array, sigmoids.Saved]:
    axes, ring, block, half = how
    x, z = operands(half, x, z)

    def meet(values: Array, side: Side, offset: Array) -> Any:
        logits = sigmoids.Logits(scale, bias, offset)
        return sigmoids.sums(block, values, Side(x, where), side, logits), side

    go, nothing = pass_round if ring else meet_all, sigmoids.zeros(where, scale)
    values, _ = go(meet, axes, where.size, nothing, Side(z, where), x)
    return values, (x, z, scale, bias, where)


def _slopes(how: How, saved: sigmoids.Saved, cotangents: Array) -> tuple[Array | None, ...]:
    axes, ring, block, _ = how
    x, z, scale, bias, where = saved

    def meet(stays: tuple[Array, ...], comes: tuple[Side, Array], offset: Array) -> Any:
        values, of_x, of_bias = stays
        logits = sigmoids.Logits(scale, bias, offset)
        so_far = values, sigmoids.Slopes(of_x, comes[1], of_bias)
        got = sigmoids.slopes(block, so_far, Side(x, where), comes[0], logits, cotangents)
        return (got[0], got[1].x, got[1].bias), (comes[0], got[1].z)

    stays = tuple(sigmoids.zeros(a, scale) for a in (where, x, bias))
    comes = Side(z, where), sigmoids.zeros(z, scale)
    go = pass_round if ring else meet_all
    (_, of_x, of_bias), (_, of_z) = go(meet, axes, where.size, stays, comes, x)
    got = sigmoids.Slopes(of_x, of_z if ring else _home(axes, of_z), of_bias)
    return *sigmoids.of_arguments(got, x, scale), None


sums_of_softplus.defvjp(_sums, _slopes)
