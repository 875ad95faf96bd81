"""From a loss to an optimizer update: a pure function of the state and a batch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Mean
from jaxloss.train.gradient import value_and_grad
from jaxloss.train.objective import Aux, Loss, PyTree, as_mean
from jaxloss.train.optimizer import Optimizer, initial_state, updated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. Arrays only, so that it can be saved, stacked and donated."""

    step: Array
    params: PyTree
    opt_state: PyTree
    model_state: PyTree = None
    rng: Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """`step(state, batch) -> (state, metrics)`, compiled; made by `make_train_step`."""

    loss_fn: Callable[..., Loss | tuple[Loss, Aux]]
    optimizer: Optimizer
    microbatches: int
    steps_per_call: int
    donate: bool

    def init(
        self, params: PyTree, *, rng: Array | None = None, model_state: PyTree = None
    ) -> TrainState:
        """The state before the first step, in arrays of its own."""
        default = inspect.signature(self.loss_fn).parameters.get("rng")
        if rng is None and default is not None and default.default is inspect.Parameter.empty:
            raise ValueError(
                "loss_fn takes an rng and none was given: say "
                "step.init(params, rng=jax.random.key(0))."
            )
        params = jax.tree.map(jnp.asarray, params)
        opt_state = initial_state(self.optimizer, params)
        state = TrainState(jnp.zeros((), jnp.int32), params, opt_state, model_state, rng)
        return jax.tree.map(_own_array, state)

    def raw(self, state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Mean]]:
        """The pure function that a call compiles: for vmap, scan, grad and shard_map."""
        if self.steps_per_call == 1:
            return self._update(state, batch)
        state, metrics = jax.lax.scan(self._update, state, batch, length=self.steps_per_call)
        return state, jax.tree.map(functools.partial(jnp.sum, axis=0), metrics)

    def __call__(self, state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Mean]]:
        """One update, or `steps_per_call` of them. A donated `state` is used up."""
        return self._compiled(state, batch)

    @functools.cached_property
    def _compiled(self) -> Callable[..., tuple[TrainState, dict[str, Mean]]]:
        return jax.jit(self.raw, donate_argnums=0 if self.donate else ())

    def _update(self, state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Mean]]:
        rng = None if state.rng is None else jax.random.fold_in(state.rng, state.step)
        gradient = value_and_grad(self.loss_fn, microbatches=self.microbatches, has_aux=True)
        objective = functools.partial(
            gradient, batch=batch, rng=rng, model_state=state.model_state, step=state.step
        )
        (loss, aux), grads = objective(state.params)
        params, opt_state = updated(
            self.optimizer,
            grads,
            state.opt_state,
            state.params,
            value=loss,
            value_fn=_differentiable(objective),
        )
        new = TrainState(state.step + 1, params, opt_state, aux.model_state, state.rng)
        metrics = {name: as_mean(statistic) for name, statistic in aux.metrics.items()}
        return new, metrics | {"grad_norm": Mean.constant(_norm(grads))}


def make_train_step(
    loss_fn: Callable[..., Loss | tuple[Loss, Aux]],
    optimizer: Optimizer,
    *,
    microbatches: int = 1,
    steps_per_call: int = 1,
    donate: bool = True,
) -> TrainStep:
    """A training step: the exact gradient of a loss, and an Optax update with it.

    Any optimizer of Optax works: those that evaluate the loss themselves (L-BFGS, line searches,
    SAM) see the objective of the whole batch, with the rng of the step. Nothing in a step waits
    for the device.

    Args:
        loss_fn: `loss_fn(params, batch)`, which may also take `rng` (the state's, folded with
            the step and then with the microbatch), `model_state` and `step` by name. Returns a
            number, a statistic (a loss with `reduction=jaxloss.stats`) or a dict of them whose
            sum is the loss; alone or as `(loss, jaxloss.Aux(model_state, metrics))`.
        optimizer: A `GradientTransformation`, with or without extra arguments, or `MultiSteps`.
        microbatches: How many parts the batch is computed in, for less memory and the same
            update. The model state goes from one to the next.
        steps_per_call: How many updates a call makes; the leaves of its batch then have a leading
            axis of that many batches.
        donate: Whether a call reuses the memory of the state that it is given.

    Returns:
        `step`, with `step.init(params, *, rng=None, model_state=None) -> TrainState`,
        `step(state, batch) -> (state, metrics)` and `step.raw`, the same without compilation.
        The metrics are `Mean`s by name: "loss", its terms, those of the `Aux`, and "grad_norm".

    Raises:
        ValueError: `microbatches` or `steps_per_call` is less than 1, or does not fit the batch.
        TypeError: `loss_fn` returns a bare number and `microbatches` is not 1.

    Example:
        >>> import optax
        >>> def loss_fn(w, batch):
        ...     x, y = batch
        ...     return jaxloss.squared_error(w * x, y, reduction=jaxloss.stats)
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.5))
        >>> state = step.init(jnp.array(0.0))
        >>> state, metrics = step(state, (jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])))
        >>> print(state.params, metrics["loss"].value())
        2.0 4.0
    """
    for name, count in (("microbatches", microbatches), ("steps_per_call", steps_per_call)):
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}.")
    return TrainStep(loss_fn, optimizer, microbatches, steps_per_call, donate)


def _differentiable(
    objective: Callable[[PyTree], tuple[tuple[Array, Aux], PyTree]],
) -> Callable[[PyTree], Array]:
    """The loss as a function of the parameters, whose gradient is computed by microbatches."""

    @jax.custom_vjp
    def value_fn(params: PyTree) -> Array:
        return objective(params)[0][0]

    def forward(params: PyTree) -> tuple[Array, PyTree]:
        (loss, _), grads = objective(params)
        return loss, grads

    def backward(grads: PyTree, cotangent: Array) -> tuple[PyTree]:
        return (jax.tree.map(lambda grad: cotangent.astype(grad.dtype) * grad, grads),)

    value_fn.defvjp(forward, backward)
    return value_fn


def _own_array(leaf: ArrayLike) -> Array:
    """A copy, so that donation never meets one buffer twice, of the type that a step returns."""
    leaf = jnp.array(leaf, copy=True)
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _norm(tree: PyTree) -> Array:
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
