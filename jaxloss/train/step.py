"""From a loss to an optimizer update: a pure function of the state and a batch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, Sharding
from jax.typing import ArrayLike

from jaxloss.core.statistics import Mean
from jaxloss.train.gradient import ValueAndGrad, norm, value_and_grad
from jaxloss.train.nonfinite import Metrics, first_bad_leaf, of_a_call, unless
from jaxloss.train.objective import Aux, Loss, LossFn, PyTree, as_mean, objective, wide
from jaxloss.train.optimizer import Optimizer, initial_state, updated
from jaxloss.train.partition import Trainable, apart, together
from jaxloss.train.precision import LossScale, Precision, cast, computing, with_gradient_times
from jaxloss.train.program import MemoryReport, changes, described, memory_report
from jaxloss.train.sharding import on_one_mesh, shardings

Objective: TypeAlias = Callable[[PyTree], tuple[tuple[Array, Aux], PyTree]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass  # frozen, it would take 3 µs more to make, of the 40 of a small step
class TrainState:
    """Everything that a step changes. Arrays only, so that it can be saved, stacked and donated.

    `step` counts the updates that were tried and `skipped` those of them that were not made;
    `ema` is the average of the trained parameters.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    model_state: PyTree = None
    rng: Array | None = None
    ema: PyTree = None
    loss_scale: LossScale | None = None
    skipped: Array | None = None

    @property
    def eval_params(self) -> PyTree:
        """The parameters to evaluate and to keep: averaged with `ema=`, in their own dtype."""
        if self.ema is None:
            return self.params
        return jax.tree.map(
            lambda average, param: param if average is None else average.astype(param.dtype),
            self.ema,
            self.params,
            is_leaf=lambda node: node is None,
        )


@dataclasses.dataclass(eq=False)
class TrainStep:
    """`step(state, batch) -> (state, metrics)`, compiled; made by `make_train_step`."""

    loss_fn: LossFn
    optimizer: Optimizer
    microbatches: int
    steps_per_call: int
    precision: Precision | None
    nonfinite: Literal["apply", "skip", "raise"]
    trainable: Trainable
    ema: float | None
    value_and_grad: ValueAndGrad
    donate: bool
    max_traces: int | None
    traces: int = dataclasses.field(default=0, init=False)
    leaf_names: tuple[str, ...] = dataclasses.field(default=(), init=False)
    _traced: dict[str, str] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def init(
        self,
        params: PyTree,
        *,
        rng: Array | None = None,
        model_state: PyTree = None,
        sharding: PyTree = None,
    ) -> TrainState:
        """The state before the first step, in arrays of its own.

        `sharding` says where the parameters are kept: a `NamedSharding`, or a tree of them, of
        which one stands for all below it. Without it they stay where they are. What the optimizer
        makes like a parameter is kept like it, and all else on every device.
        """
        default = inspect.signature(self.loss_fn).parameters.get("rng")
        if rng is None and default is not None and default.default is inspect.Parameter.empty:
            raise ValueError(
                "loss_fn takes an rng and none was given: say "
                "step.init(params, rng=jax.random.key(0))."
            )
        params = jax.tree.map(jnp.asarray, params)
        if sharding is not None:
            params = jax.device_put(params, sharding)
        trained, frozen = apart(params, self.trainable)
        if self.precision is not None:
            trained = cast(trained, self.precision.params)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=together(trained, frozen),
            opt_state=initial_state(self.optimizer, trained),
            model_state=model_state,
            rng=rng,
            ema=None if self.ema is None else jax.tree.map(wide, trained),
            loss_scale=LossScale.first() if self._loss_scale == "dynamic" else None,
            skipped=jnp.zeros((), jnp.int32) if self._skips else None,
        )
        return on_one_mesh(jax.tree.map(_own_array, state))

    def raw(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """The pure function that a call compiles: for vmap, scan, grad and shard_map."""
        if self.steps_per_call == 1:
            return self._update(state, batch)
        state, metrics = jax.lax.scan(self._update, state, batch, length=self.steps_per_call)
        return state, of_a_call(metrics)

    def __call__(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """One update, or `steps_per_call` of them. A donated `state` is used up."""
        return self._program(state)(state, batch)

    def memory_report(self, state: TrainState, batch: PyTree) -> MemoryReport:
        """What a call needs in memory, without making it.

        Raises:
            ValueError: The step donates, and the memory of a leaf of the state is not reused.
        """
        return memory_report(self._program(state), state, batch, donated=self.donate)

    def _program(self, state: TrainState) -> jax.stages.Wrapped:
        """Of a state on a mesh one that keeps its shardings, which XLA would not by itself."""
        # neither isinstance nor a cache, which take as long as a twentieth of a small step
        if type(getattr(state.step, "sharding", None)) is not NamedSharding:
            return self._anywhere
        return self._on_mesh(*shardings(state, state.step.sharding))

    @functools.cached_property
    def _anywhere(self) -> jax.stages.Wrapped:
        return jax.jit(self._counted, donate_argnums=0 if self.donate else ())

    @functools.cached_property
    def _on_mesh(self) -> Callable[..., jax.stages.Wrapped]:
        @functools.cache
        def keeping(structure: Any, kept: tuple[Sharding, ...]) -> jax.stages.Wrapped:
            donated, state = 0 if self.donate else (), structure.unflatten(kept)
            return jax.jit(self._counted, donate_argnums=donated, out_shardings=(state, None))

        return keeping

    def _counted(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        self.traces += 1
        now, before = described(state=state, batch=batch), self._traced
        if self.max_traces is not None and self.traces > self.max_traces:
            raise RuntimeError(
                f"the step was compiled {self.traces} times, which is more than "
                f"max_traces={self.max_traces}: {changes(before, now)}."
            )
        self._traced = now
        return self.raw(state, batch)

    @property
    def _loss_scale(self) -> float | Literal["dynamic"] | None:
        return None if self.precision is None else self.precision.loss_scale

    @property
    def _skips(self) -> bool:
        return self.nonfinite != "apply" or self._loss_scale is not None

    def _update(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        trained, frozen = apart(state.params, self.trainable)
        objective = self._objective(state, frozen, batch)
        (loss, aux), grads = objective(trained)
        trained, opt_state = updated(
            self.optimizer,
            grads,
            state.opt_state,
            trained,
            value=loss,
            value_fn=_differentiable(objective),
        )
        new = dataclasses.replace(
            state,
            params=together(trained, frozen),
            opt_state=opt_state,
            model_state=aux.model_state,
            ema=None if self.ema is None else _averaged(self.ema, state.ema, trained),
        )
        metrics = {name: as_mean(statistic) for name, statistic in aux.metrics.items()}
        metrics["grad_norm"] = Mean.constant(norm(grads))
        if self._skips:
            new, report = self._guarded(state, new, loss, grads)
            metrics |= report
        return dataclasses.replace(new, step=state.step + 1), metrics

    def _objective(self, state: TrainState, frozen: PyTree, batch: PyTree) -> Objective:
        """The loss of the batch and its gradient, as a function of the trained parameters."""
        loss_fn = self._loss_of_trained(frozen, state.loss_scale)
        return functools.partial(
            self.value_and_grad(loss_fn, microbatches=self.microbatches, has_aux=True),
            batch=batch,
            rng=None if state.rng is None else jax.random.fold_in(state.rng, state.step),
            model_state=state.model_state,
            step=state.step,
        )

    def _loss_of_trained(
        self, frozen: PyTree, loss_scale: LossScale | None
    ) -> Callable[..., tuple[Loss, Aux]]:
        complete = objective(self.loss_fn)
        fixed = None if self._loss_scale == "dynamic" else self._loss_scale
        scale = fixed if loss_scale is None else loss_scale.scale

        def loss_fn(
            trained: PyTree,
            batch: PyTree,
            *,
            rng: Array | None,
            model_state: PyTree,
            step: ArrayLike | None,
        ) -> tuple[Loss, Aux]:
            if scale is not None:
                trained = with_gradient_times(trained, 1 / scale)
            params = together(computing(trained, self.precision), frozen)
            loss, aux = complete(params, batch, rng=rng, model_state=model_state, step=step)
            return loss if scale is None else with_gradient_times(loss, scale), aux

        return loss_fn

    def _guarded(
        self, old: TrainState, new: TrainState, loss: Array, grads: PyTree
    ) -> tuple[TrainState, Metrics]:
        """The new state if the loss and the gradient are finite, else the old one, counted."""
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(grads)]
        self.leaf_names = ("loss", *(f"params{path}" for path in paths))
        first = first_bad_leaf(loss, grads)
        skipped = jnp.zeros((), jnp.int32) if old.skipped is None else old.skipped
        kept = dataclasses.replace(
            unless(first >= 0, new, old), skipped=skipped + (first >= 0).astype(jnp.int32)
        )
        if old.loss_scale is None:
            return kept, {"first_bad_leaf": first}
        kept = dataclasses.replace(kept, loss_scale=old.loss_scale.after(first >= 0))
        return kept, {"first_bad_leaf": first, "loss_scale": Mean.constant(old.loss_scale.scale)}


def make_train_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    microbatches: int = 1,
    steps_per_call: int = 1,
    precision: Precision | None = None,
    nonfinite: Literal["apply", "skip", "raise"] = "apply",
    trainable: Trainable = True,
    ema: float | None = None,
    value_and_grad: ValueAndGrad = value_and_grad,
    donate: bool = True,
    max_traces: int | None = None,
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
        precision: What the model computes in, in what its parameters are kept, and a scale of
            the loss.
        nonfinite: What becomes of an update whose loss or gradient is not finite. "skip" leaves
            the state as it was, but for `state.step`, and counts in `state.skipped`; the metric
            "first_bad_leaf" is an index into `step.leaf_names`, or -1. With "raise", `fit` also
            ends with a `NonFiniteError`. "apply" makes the update, unless the loss is scaled.
        trainable: Which parameters have a gradient, a state of the optimizer and a part in
            clipping: a tree of booleans, of which one stands for all below it, or a function of
            a path such as "encoder/kernel".
        ema: The decay of an average of the trained parameters, which starts at the first ones;
            `state.eval_params` are the averaged parameters.
        value_and_grad: What computes the gradient: a function with the arguments and the result
            of `jaxloss.value_and_grad`, such as `jaxloss.pcgrad`, `jaxloss.per_example(...)`, or
            `functools.partial(jaxloss.value_and_grad, axis_name="data")` inside `jax.shard_map`.
        donate: Whether a call reuses the memory of the state that it is given.
        max_traces: How often the step may be compiled; what changed is then named. It is counted
            in `step.traces`.

    Returns:
        `step`, with `step.init(params, *, rng=None, model_state=None, sharding=None)`, which makes
        a `TrainState`, `step(state, batch) -> (state, metrics)` and `step.raw`, the same without
        compilation.
        `step.memory_report(state, batch)` says what a call needs.
        The metrics are `Mean`s by name: "loss", its terms, those of the `Aux`, "grad_norm",
        and "loss_scale" if it is dynamic.

    Raises:
        ValueError: `microbatches` or `steps_per_call` is less than 1, or does not fit the batch;
            `nonfinite` is another word, `ema` is not in [0, 1), or nothing is trainable.
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
    if nonfinite not in ("apply", "skip", "raise"):
        raise ValueError(f"nonfinite must be 'apply', 'skip' or 'raise', got {nonfinite!r}.")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must be at least 0 and less than 1, got {ema}.")
    return TrainStep(
        loss_fn,
        optimizer,
        microbatches,
        steps_per_call,
        precision,
        nonfinite,
        trainable,
        ema,
        value_and_grad,
        donate,
        max_traces,
    )


def _differentiable(objective: Objective) -> Callable[[PyTree], Array]:
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


def _averaged(decay: float, average: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(
        lambda old, new: old + (1 - decay) * (new.astype(old.dtype) - old), average, params
    )
