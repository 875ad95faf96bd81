"""Which parameters are trained: two trees of one shape, with None for what the other one holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax

from jaxloss.train.objective import PyTree

Trainable: TypeAlias = PyTree | Callable[[str], bool]


def apart(params: PyTree, trainable: Trainable) -> tuple[PyTree, PyTree]:
    """The trained leaves, and the frozen ones."""
    if callable(trainable) and jax.tree_util.all_leaves([trainable]):
        marks = jax.tree.map_with_path(lambda path, _: trainable(_name(path)), params)
    else:
        marks = jax.tree.map(
            lambda mark, part: jax.tree.map(lambda _: mark, part), trainable, params
        )
    trained = jax.tree.map(lambda mark, leaf: leaf if mark else None, marks, params)
    frozen = jax.tree.map(lambda mark, leaf: None if mark else leaf, marks, params)
    if jax.tree.leaves(frozen) and not jax.tree.leaves(trained):
        names = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        raise ValueError(f"trainable selects none of the parameters {', '.join(names)}.")
    return trained, frozen


def together(trained: PyTree, frozen: PyTree) -> PyTree:
    """What was taken apart."""
    return jax.tree.map(
        lambda leaf, other: other if leaf is None else leaf,
        trained,
        frozen,
        is_leaf=lambda node: node is None,
    )


def _name(path: jax.tree_util.KeyPath) -> str:
    """Such as "encoder/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
