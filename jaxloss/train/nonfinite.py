"""What becomes of a step whose loss or gradient is not finite."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.train.objective import PyTree

# a Mean by name, and with `nonfinite` the int32 "first_bad_leaf"
Metrics: TypeAlias = dict[str, PyTree]


def first_bad_leaf(loss: Array, grads: PyTree) -> Array:
    """Which of the loss and the leaves of the gradient is the first not to be finite, or -1."""
    bad = jnp.stack([~jnp.all(jnp.isfinite(x)) for x in (loss, *jax.tree.leaves(grads))])
    return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def unless(bad: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree, or bit by bit the old one.

    The whole gradient is in memory before the first parameter changes, as it is to clip its norm.
    On a CPU, the moments of Adam are there twice as well: a step of 2.1 MB of parameters has 5.8 MB
    of temporaries, and 1.3 MB without this. A `lax.cond` copies the state, which makes 8.4 MB of
    them. A `lax.while_loop` of one turn needs only 2.2 MB, but has no gradient in reverse.
    """
    return jax.tree.map(lambda new, old: jnp.where(bad, old, new), new, old)


def of_a_call(metrics: Metrics) -> Metrics:
    """The metrics of several updates as one: of those that were made, or of all if none was."""
    bad = metrics.get("first_bad_leaf")
    if bad is None:
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
    made = (bad < 0) | jnp.all(bad >= 0)
    kept = jax.vmap(lambda made, leaf: jnp.where(made, leaf, 0))
    sums = {name: metric for name, metric in metrics.items() if name != "first_bad_leaf"}
    sums = jax.tree.map(lambda leaf: jnp.sum(kept(made, leaf), axis=0), sums)
    return sums | {"first_bad_leaf": bad[jnp.argmax(bad >= 0)]}
