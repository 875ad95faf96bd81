"""What becomes of a step whose loss or gradient is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.train.objective import PyTree

if TYPE_CHECKING:
    from jaxloss.train.history import History
    from jaxloss.train.step import Metrics, TrainState


class NonFiniteError(FloatingPointError):
    """`fit` met a loss or a gradient that is not finite, and the step says "raise".

    A gradient that overflows is no error while the loss has a scale that can still be halved.

    Args:
        message: Which leaf it was, and when.
        state: The last good state: no update was made with what is not finite.
        history: What was recorded until then.

    Example:
        >>> import optax
        >>> step = jaxloss.make_train_step(lambda w, x: w * x, optax.sgd(0.1), nonfinite="raise")
        >>> batches = [jnp.array(1.0), jnp.array(jnp.nan)]
        >>> try:
        ...     jaxloss.fit(step, step.init(jnp.array(2.0)), batches, epochs=1, progress=False)
        ... except jaxloss.NonFiniteError as error:
        ...     print(error, error.state.params)
        step 2: the loss is not finite. ... 1.9
    """

    def __init__(self, message: str, state: TrainState, history: History) -> None:
        super().__init__(message)
        self.state, self.history = state, history


def first_bad_leaf(loss: Array, grads: PyTree) -> Array:
    """Which of the loss and the leaves of the gradient is the first not to be finite, or -1."""
    bad = jnp.stack([~jnp.all(jnp.isfinite(x)) for x in (loss, *jax.tree.leaves(grads))])
    return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def unless(bad: Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree, or bit by bit the old one."""
    return jax.tree.map(lambda new, old: jnp.where(bad, old, new), new, old)


def is_fault(metrics: Metrics) -> bool:
    """Whether a step, by the metrics that were read, met what no smaller loss scale can mend."""
    scale = metrics.get("loss_scale")
    overflow = metrics["first_bad_leaf"] > 0 and scale is not None and scale.total > scale.weight
    return metrics["first_bad_leaf"] >= 0 and not overflow


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
