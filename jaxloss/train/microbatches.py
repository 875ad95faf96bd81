"""A batch in parts, on one device or many: where their rows are, and how they are merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Concat, concatenates, merge
from jaxloss.train.objective import PyTree

Carry = TypeVar("Carry")
Merged = TypeVar("Merged")
AxisName: TypeAlias = str | Sequence[str] | None


def merging_scan(
    body: Callable[[Carry, Array], tuple[Carry, Merged]],
    carry: Carry,
    *,
    n: int,
    axis_name: AxisName,
) -> tuple[Carry, Merged]:
    """`jax.lax.scan` over n parts that merges what it returns: arrays add, rows join in order.

    With an axis name, over the parts of all devices.
    """

    def merge_part(
        state: tuple[Carry, PyTree], index: Array
    ) -> tuple[tuple[Carry, PyTree], list[Concat]]:
        carry, statistics = body(state[0], index)
        sums, rows = without_rows(statistics)
        return (carry, jax.tree.map(jnp.add, state[1], sums)), rows

    shapes = jax.eval_shape(lambda index: without_rows(body(carry, index)[1])[0], 0)
    zeros = different_by_device(jax.tree.map(_zeros, shapes), axis_name)
    (carry, sums), rows = jax.lax.scan(merge_part, (carry, zeros), jnp.arange(n))
    merged = with_rows(sums, jax.tree.map(_in_order, rows))
    return carry, merged if axis_name is None else merge(merged, axis_name=axis_name)


def _zeros(like: jax.ShapeDtypeStruct) -> Array:
    """`jnp.zeros_like`, which fails where a `jax.shard_map` is over some axes of a mesh only."""
    if like.sharding is None:
        return jnp.zeros(like.shape, like.dtype)
    return jnp.zeros_like(like)


def without_rows(statistics: Merged) -> tuple[Merged, list[Concat]]:
    """The tree without its rows, and the rows."""
    nodes, structure = jax.tree.flatten(statistics, is_leaf=concatenates)
    without = structure.unflatten(Concat(()) if concatenates(node) else node for node in nodes)
    return without, [node for node in nodes if isinstance(node, Concat)]


def with_rows(without: Merged, rows: list[Concat]) -> Merged:
    rest = iter(rows)
    return jax.tree.map(
        lambda node: next(rest) if concatenates(node) else node, without, is_leaf=concatenates
    )


def require_divisible(batch: PyTree, n: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        shape = jnp.shape(leaf)
        if n > 1 and (not shape or shape[0] % n):
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {shape}, and microbatches={n} must "
                "divide its leading axis: jaxloss.pad_batch fills up a batch."
            )


def part(rows: Merged, n: int, index: Array) -> Merged:
    """The rows index, index + n, index + 2n, ...: each device has its share of every part."""
    if n == 1:
        return rows

    def own(leaf: ArrayLike) -> Array:
        leaf = jnp.asarray(leaf)
        strided = leaf.reshape(leaf.shape[0] // n, n, *leaf.shape[1:])
        return jax.lax.dynamic_index_in_dim(strided, index, axis=1, keepdims=False)

    return jax.tree.map(own, rows)


def _in_order(parts: Array) -> Array:
    """Rows `[n, rows / n, ...]` of all parts, where they were in the batch."""
    n, rows, *rest = parts.shape
    return jnp.swapaxes(parts, 0, 1).reshape(n * rows, *rest)


def different_by_device(tree: Merged, axis_name: AxisName) -> Merged:
    """The same values, of which JAX no longer knows that the devices agree.

    It then leaves it to the caller to add up the gradients.
    """
    if axis_name is None:
        return tree
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)


def own_rows(axis_name: str | Sequence[str], rows: Array) -> Array:
    """Those of this device, of the rows of all."""
    count = rows.shape[0] // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(axis_name) * count, count)
