"""Loops over rows that several devices share: each loops over its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxloss.core.reductions import everywhere

Tree = TypeVar("Tree")


def over_rows(f: Callable[[Any, Any], Tree], rows: Any, shared: Any) -> Tree:
    """`f(rows, shared)`, whose result has rows too; in explicit mode where the rows are.

    In auto mode the compiler spreads a chunk of rows over the devices, which is why a chunk takes
    every n-th row, of n chunks.
    """
    first, *_ = jax.tree.leaves(rows)
    sharding = jax.typeof(first).sharding
    whole = functools.partial(jax.tree.map, everywhere)
    axes = sharding.spec[0] if len(sharding.spec) else None
    if axes is None:
        return f(whole(rows), whole(shared))
    spec, shared = PartitionSpec(axes), whole(shared)
    rows = jax.tree.map(lambda array: jax.sharding.reshard(array, spec), rows)
    each = jax.shard_map(f, mesh=sharding.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    return each(rows, shared)


def beside(units: Array, shared: Tree) -> Tree:
    """What units share, whole where it is split over axes of an explicit mesh that they take."""
    taken = set(jax.tree.leaves([*jax.typeof(units).sharding.spec]))

    def fitting(array: Array) -> Array:
        own = set(jax.tree.leaves([*jax.typeof(array).sharding.spec]))
        return everywhere(array) if own & taken else array

    return jax.tree.map(fitting, shared)


def flat(array: Array, units: int) -> Array:
    """Units of so many axes as rows, which an explicit mesh may split from the first axis on."""
    split = [axis is not None for axis in jax.typeof(array).sharding.spec[:units]]
    if split != sorted(split, reverse=True):
        raise ValueError(
            f"units that are split as {jax.typeof(array).sharding.spec} cannot be gone through in "
            'parts: jax.sharding.reshard them to split their first axis, or ask for "plain".'
        )
    return array.reshape(-1, *array.shape[units:])


def together(operands: Tree) -> Tree:
    """Inside `shard_map`, arrays that vary over devices as all of them do together.

    So the gradient of what the devices share becomes the sum of theirs.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return operands
    zero = _zero(operands)
    return jax.tree.map(
        lambda a: a | zero if a.dtype == bool else a + zero.astype(a.dtype), operands
    )


def zeros(like: Any, inputs: Any) -> Any:
    """A loop's first sums, which vary over devices as `inputs` do."""
    zero = _zero(inputs)
    return jax.tree.map(lambda leaf: jnp.zeros_like(zero, leaf.dtype, shape=leaf.shape), like)


def _zero(operands: Any) -> Array:
    each = [jnp.zeros_like(leaf, shape=(), dtype=bool) for leaf in jax.tree.leaves(operands)]
    return functools.reduce(jnp.logical_or, each)
