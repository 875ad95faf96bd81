"""A whole optimization as one compiled loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.loop.stopping import EarlyStop
from jaxloss.train.objective import Loss, PyTree
from jaxloss.train.optimizer import Optimizer
from jaxloss.train.step import TrainState, make_train_step

Progress: TypeAlias = tuple[TrainState, PyTree, EarlyStop]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Minimum:
    """The best parameters that `minimize` met, their loss, and how it ended.

    `converged` says that `patience` steps brought no new best, rather than that the steps ran
    out.
    """

    params: PyTree
    loss: Array
    steps: Array
    converged: Array


def minimize(
    loss_fn: Callable[[PyTree], Loss],
    params: PyTree,
    optimizer: Optimizer,
    *,
    max_steps: int,
    rtol: float = 0.0,
    patience: int = 20,
) -> Minimum:
    """Minimizes a function of the parameters alone, such as the loss of a full batch.

    All steps run on the device in one `while_loop`; it can be put under `jax.jit` and `jax.vmap`.

    Args:
        loss_fn: `loss_fn(params)`, a number, a statistic or a dict of them.
        params: Where to start.
        optimizer: As for `make_train_step`; L-BFGS is `optax.lbfgs()`.
        max_steps: The largest number of updates.
        rtol: By how much of the best loss a new best must be lower.
        patience: After how many steps without a new best it has converged.

    Returns:
        The best parameters, their loss, the number of steps, and whether it has converged.

    Raises:
        ValueError: `patience` is less than 1.

    Example:
        >>> import optax
        >>> found = jaxloss.minimize(
        ...     lambda x: jaxloss.squared_error(x, jnp.array([1.0, 2.0])),
        ...     jnp.zeros(2), optax.lbfgs(), max_steps=100,
        ... )
        >>> print(found.params, found.converged)
        [1. 2.] True
    """
    step = make_train_step(lambda params, _: loss_fn(params), optimizer)

    def unfinished(progress: Progress) -> Array:
        return (progress[0].step < max_steps) & ~progress[2].should_stop

    def advance(progress: Progress) -> Progress:
        state, best, stop = progress
        new, metrics = step.raw(state, None)
        stop = stop.update(metrics["loss"])
        best = jax.tree.map(
            lambda now, old: jnp.where(stop.since_best == 0, now, old), state.params, best
        )
        return new, best, stop

    def run(params: PyTree) -> Minimum:
        state = step.init(params)
        start = (state, state.params, EarlyStop(patience, rtol=rtol))
        state, best, stop = jax.lax.while_loop(unfinished, advance, start)
        return Minimum(
            best, jnp.asarray(stop.best), state.step, stop.should_stop & ~jnp.isnan(stop.best)
        )

    return jax.jit(run)(params)
