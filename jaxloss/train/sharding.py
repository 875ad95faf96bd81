"""Where a state and its batches are kept, on many devices."""

from __future__ import annotations

import collections
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxloss.train.objective import PyTree

Tree = TypeVar("Tree")
# the structure of a tree, and where its leaves are
Shardings: TypeAlias = tuple[Any, tuple[NamedSharding, ...]]


def on_one_mesh(tree: Tree) -> Tree:
    """With the leaves that are on no mesh on every device of the mesh of the others."""
    meshes = [place.mesh for leaf in jax.tree.leaves(tree) if (place := _named(leaf))]
    if not meshes:
        return tree
    everywhere = NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(
        lambda leaf: leaf if _named(leaf) else jax.device_put(leaf, everywhere), tree
    )


def shardings(tree: PyTree, first: Array) -> Shardings:
    """The structure of a tree and where its leaves are; nothing unless `first` is on a mesh."""
    everywhere = _named(first)
    if everywhere is None:
        return None, ()
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(_named(leaf) or everywhere for leaf in leaves)


def require_own_parts(batch: PyTree, *, axis: int, microbatches: int) -> None:
    """Each device has as many rows of every microbatch, or they would move between devices."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        rows = leaf.sharding.shard_shape(leaf.shape)[axis]
        if rows % microbatches:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has {rows} rows on each device, which "
                f"microbatches={microbatches} must divide: jaxloss.pad_batch fills up a batch."
            )


class Agreement:
    """The largest of numbers that processes give after each step, which all learn two steps later.

    Nothing waits for a step that was just launched. `after` takes and returns an array of the
    state, so that every process computes this between the same two steps.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.largest = jax.jit(
            lambda numbers, array: jax.lax.optimization_barrier((jnp.max(numbers), array)),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )
        self.asked: collections.deque[Array] = collections.deque()

    def after(self, array: Array, number: int) -> tuple[Array, int]:
        """The same array, and what was agreed on."""
        local = np.full(len(self.each.addressable_devices), number, np.int32)
        numbers = jax.make_array_from_process_local_data(self.each, local)
        largest, array = self.largest(numbers, array)
        self.asked.append(largest)
        known = self.asked.popleft() if len(self.asked) > 2 else 0
        return array, int(jax.device_get(known))


def agreement(array: Array) -> Agreement | None:
    """Between the processes that an array of the state is spread over, if there are several."""
    place = _named(array)
    if place is None or place.is_fully_addressable or not isinstance(place.mesh, Mesh):
        return None
    return Agreement(place.mesh)


def _named(leaf: object) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
