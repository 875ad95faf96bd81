"""Where a state and its batches are kept, on many devices."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

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


def _named(leaf: object) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
