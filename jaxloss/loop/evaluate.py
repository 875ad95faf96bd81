"""Losses of a data set, exact whatever the batches are."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Statistic
from jaxloss.train.objective import LossFn, PyTree, mergeable, named, objective
from jaxloss.train.partition import Trainable, apart, together
from jaxloss.train.precision import Precision, computing
from jaxloss.train.step import TrainState


def make_eval_step(
    loss_fn: LossFn,
    *,
    precision: Precision | None = None,
    trainable: Trainable = True,
    eval_params: Callable[[TrainState], PyTree] = lambda state: state.eval_params,
) -> Callable[..., dict[str, Statistic]]:
    """A compiled evaluation step, whose batches merge to the loss of them all.

    Args:
        loss_fn: As for `make_train_step`, but it must return statistics; its `rng` is None, so
            that what is random in training can be off.
        precision, trainable: As for `make_train_step`: the trained parameters are evaluated in
            the dtype in which they are trained.
        eval_params: Which parameters of a state are evaluated: the averaged ones, if there are
            any. Of `optax.contrib.schedule_free` they are
            `lambda state: schedule_free_eval_params(state.opt_state, state.params)`.

    Returns:
        `evaluate(state, batch, acc=None) -> statistics`, a dict of the loss under "loss", its
        terms and the metrics of the `Aux`, merged with `acc`, which an earlier batch returned.

    Raises:
        TypeError: `loss_fn` returns a bare number.

    Example:
        >>> import optax
        >>> def loss_fn(w, batch):
        ...     x, where = batch
        ...     return jaxloss.squared_error(w * x, x, where=where, reduction=jaxloss.stats)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1))
        >>> evaluate, state, acc = jaxloss.make_eval_step(loss_fn), step.init(jnp.array(2.0)), None
        >>> for rows in jnp.array([1.0, 2.0]), jnp.array([3.0]):
        ...     acc = evaluate(state, jaxloss.pad_batch(rows, 2), acc)
        >>> print(acc["loss"].value(), acc["loss"].weight)
        4.6666665 3.0
    """
    complete = objective(loss_fn)

    @jax.jit
    def evaluate(
        state: TrainState, batch: PyTree, acc: dict[str, Statistic] | None = None
    ) -> dict[str, Statistic]:
        trained, frozen = apart(eval_params(state), trainable)
        params, model_state = together(computing(trained, precision), frozen), state.model_state
        loss, aux = complete(params, batch, rng=None, model_state=model_state, step=state.step)
        statistics = named(mergeable(loss), aux)
        if acc is None:
            return statistics
        return {name: acc[name].merge(statistic) for name, statistic in statistics.items()}

    return evaluate


def pad_batch(batch: PyTree, size: int) -> tuple[PyTree, Array | np.ndarray]:
    """A ragged last batch in the shape of the others, and which of its rows are real.

    A step that deletes the other rows with `where` gives the loss of the batch as it was, and is
    not compiled again.

    Args:
        batch: A tree of arrays with one leading axis, NumPy's or JAX's.
        size: The number of rows to fill up to, with zeros.

    Returns:
        The filled batch, and `where` `[size]`: True for the rows of `batch`.

    Raises:
        ValueError: The batch is empty of arrays, has more than `size` rows, or its leading axes
            differ.

    Example:
        >>> batch, where = jaxloss.pad_batch({"x": np.array([1.0, 2.0])}, 3)
        >>> print(batch["x"], where)
        [1. 2. 0.] [ True  True False]
    """
    leaves = jax.tree.leaves(batch)
    rows = {np.shape(leaf)[:1] for leaf in leaves}
    if len(rows) != 1 or rows == {()}:
        raise ValueError(f"batch must have one leading axis in every leaf, got {sorted(rows)}.")
    ((count,),) = rows
    if count > size:
        raise ValueError(f"batch has {count} rows, which is more than size={size}.")

    def pad(leaf: ArrayLike) -> Array | np.ndarray:
        widths = [(0, size - count)] + [(0, 0)] * (np.ndim(leaf) - 1)
        return (jnp if isinstance(leaf, jax.Array) else np).pad(leaf, widths)

    return jax.tree.map(pad, batch), np.arange(size) < count
