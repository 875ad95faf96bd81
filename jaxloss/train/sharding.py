"""Where a state and its batches are kept, on many devices."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxloss.train.objective import PyTree

Tree = TypeVar("Tree")


def on_one_mesh(tree: Tree) -> Tree:
    """With the leaves that are on no mesh on every device of the mesh of the others."""
    meshes = [place.mesh for leaf in jax.tree.leaves(tree) if (place := _named(leaf))]
    if not meshes:
        return tree
    everywhere = NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(
        lambda leaf: leaf if _named(leaf) else jax.device_put(leaf, everywhere), tree
    )


def shardings(tree: PyTree, default: Sharding) -> tuple[Any, tuple[Sharding, ...]]:
    """The structure of a tree, and where its leaves are; by default, what is on no mesh."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(_named(leaf) or default for leaf in leaves)


def _named(leaf: object) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
