"""The exact gradient of a loss over microbatches.

A first pass over the microbatches merges their statistics. The gradient of the last formula at
the total is one cotangent, and a second pass pulls it back through each microbatch. Of a mean
whose weights are data the cotangent needs no model, and XLA drops the first pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeAlias, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Deferred, Statistic, value
from jaxloss.train.microbatches import (
    AxisName,
    different_by_device,
    merging_scan,
    own_rows,
    part,
    require_divisible,
    with_rows,
    without_rows,
)
from jaxloss.train.objective import Aux, Loss, LossFn, PyTree, mergeable, named, objective, wide

ValueAndGrad: TypeAlias = Callable[..., Callable[..., tuple[tuple[Array, Aux], PyTree]]]
Forward: TypeAlias = Callable[[PyTree, PyTree, PyTree, Array | None], tuple[Loss, Aux]]


@overload
def value_and_grad(
    loss_fn: LossFn,
    *,
    microbatches: int = 1,
    axis_name: AxisName = None,
    has_aux: Literal[False] = False,
) -> Callable[..., tuple[Array, PyTree]]: ...


@overload
def value_and_grad(
    loss_fn: LossFn,
    *,
    microbatches: int = 1,
    axis_name: AxisName = None,
    has_aux: Literal[True],
) -> Callable[..., tuple[tuple[Array, Aux], PyTree]]: ...


def value_and_grad(
    loss_fn: LossFn,
    *,
    microbatches: int = 1,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Array | tuple[Array, Aux], PyTree]]:
    """`jax.value_and_grad` of a training loss, with one microbatch in memory at a time.

    The value and the gradient are those of the whole batch, not an average over microbatches,
    for every statistic: means under masks, sums, terms with denominators of their own, formulas
    of sums, and losses whose rows see each other. It is for a step of one's own;
    `make_train_step` is built on it.

    Args:
        loss_fn: `loss_fn(params, batch)`, which may also take `rng`, `model_state` and `step` by
            name. Returns a statistic (a loss with `reduction=jaxloss.stats`), a dict of them
            whose sum is the loss, or with `microbatches=1` a number; alone or with an `Aux`.
        microbatches: How many parts the batch is computed in; divides its leading axis. Each has
            an rng of its own, and starts from the model state that the one before it left.
        axis_name: Inside `jax.shard_map`, the mapped axis or axes over which a batch is spread, for
            parameters that are the same everywhere: the value, the gradient and the metrics are
            those of the batches of all, with `check_vma` on or off. Each device has an rng of its
            own; `loss_fn` keeps the model state the same everywhere, as by `jax.lax.pmean`.
        has_aux: Whether to return `(value, Aux)` for the value: the last model state and, as
            metrics, the merged statistics of the loss, its terms and the metrics of `loss_fn`.

    Returns:
        `f(params, batch, *, rng=None, model_state=None, step=None) -> (value, gradient)`. No
        gradient flows from one microbatch to the next through the model state.

    Raises:
        TypeError: `loss_fn` returns a bare number and `microbatches` is not 1, or a parameter
            is not floating.
        ValueError: `microbatches` does not divide the batch.

    Example:
        >>> def loss_fn(w, x):
        ...     return jaxloss.squared_error(w * x, x, reduction=jaxloss.stats)
        >>> x = jnp.array([1.0, 2.0, 3.0, 4.0])
        >>> value, grad = jaxloss.value_and_grad(loss_fn, microbatches=2)(jnp.array(3.0), x)
        >>> print(value, grad)
        30.0 30.0
    """
    if microbatches < 1:
        raise ValueError(f"microbatches must be 1 or more, got {microbatches}.")
    complete = objective(loss_fn)
    whole = microbatches == 1 and axis_name is None
    gradient = _whole if whole else functools.partial(_by_parts, microbatches, axis_name)

    def call(
        params: PyTree,
        batch: PyTree,
        *,
        rng: Array | None = None,
        model_state: PyTree = None,
        step: ArrayLike | None = None,
    ) -> tuple[Array | tuple[Array, Aux], PyTree]:
        def forward(
            params: PyTree, part: PyTree, model_state: PyTree, index: Array | None
        ) -> tuple[Loss, Aux]:
            key = _key_of_part(rng, index, microbatches, axis_name)
            return complete(params, part, rng=key, model_state=model_state, step=step)

        (loss, aux), grads = gradient(forward, floating_params(params), batch, model_state)
        result = (value(loss), Aux(aux.model_state, named(loss, aux))) if has_aux else value(loss)
        return result, grads

    return call


def _key_of_part(
    rng: Array | None, index: Array | None, n: int, axis_name: AxisName
) -> Array | None:
    if rng is None or index is None:
        return rng
    first = 0 if axis_name is None else n * jax.lax.axis_index(axis_name)
    return jax.random.fold_in(rng, first + index)


def _whole(
    forward: Forward, params: PyTree, batch: PyTree, model_state: PyTree
) -> tuple[tuple[Loss, Aux], PyTree]:
    def number(params: PyTree) -> tuple[Array, tuple[Loss, Aux]]:
        loss, aux = forward(params, batch, model_state, None)
        return value(loss), (loss, aux)

    (_, result), grads = jax.value_and_grad(number, has_aux=True)(params)
    return result, grads


def _by_parts(
    n: int,
    axis_name: AxisName,
    forward: Forward,
    params: PyTree,
    batch: PyTree,
    model_state: PyTree,
) -> tuple[tuple[Loss, Aux], PyTree]:
    require_divisible(batch, n)
    varying = functools.partial(different_by_device, axis_name=axis_name)
    params = varying(params)

    def statistics(model_state: PyTree, index: Array) -> tuple[PyTree, Loss]:
        loss, aux = forward(params, part(batch, n, index), model_state, index)
        return aux.model_state, mergeable(loss)

    def pull_back(model_state: PyTree, index: Array) -> tuple[PyTree, PyTree]:
        def floats(params: PyTree) -> tuple[list[Array], tuple[Loss, Aux]]:
            loss, aux = forward(params, part(batch, n, index), model_state, index)
            return varying(_floats(loss)), (loss, aux)

        _, pull, (loss, aux) = jax.vjp(floats, params, has_aux=True)
        (grads,) = pull(varying(cotangents(index)))
        return aux.model_state, (loss, aux.metrics, jax.tree.map(wide, grads))

    scan = functools.partial(merging_scan, n=n, axis_name=axis_name)
    _, total = scan(statistics, model_state)
    cotangents = _cotangents(total, n, axis_name)
    model_state, (loss, metrics, grads) = scan(pull_back, model_state)
    grads = jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, params)
    return (_one_of_two_passes(total, loss), Aux(model_state, metrics)), grads


def _cotangents(total: Loss, n: int, axis_name: AxisName) -> Callable[[Array], list[Array]]:
    """The gradient of the loss by the floating statistics of the part with a given index."""
    leaves, structure = jax.tree.flatten(total)

    def rebuilt(floats: list[Array]) -> Loss:
        rest = iter(floats)
        return structure.unflatten(next(rest) if _floating(leaf) else leaf for leaf in leaves)

    gradient = jax.grad(lambda floats: value(rebuilt(floats)))(_floats(total))
    sums, rows = without_rows(rebuilt(gradient))
    if axis_name is not None:
        rows = jax.tree.map(functools.partial(own_rows, axis_name), rows)
    return lambda index: _floats(with_rows(sums, part(rows, n, index)))


def _one_of_two_passes(first: Loss, second: Loss) -> Loss:
    """Means from the second pass, so that the first may vanish; what needs the first, from it."""
    return jax.tree.map(
        lambda one, two: one if isinstance(one, Deferred) else two,
        first,
        second,
        is_leaf=lambda node: isinstance(node, Statistic),
    )


def floating_params(params: PyTree) -> PyTree:
    params = jax.tree.map(jnp.asarray, params)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not _floating(leaf):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} must be floating, got {leaf.dtype}: what is "
                "not trained belongs to the batch or the model state."
            )
    return params


def _floats(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if _floating(leaf)]


def _floating(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def norm(tree: PyTree) -> Array:
    """The Euclidean norm of all leaves together, in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def safe_norm(tree: PyTree) -> Array:
    """`norm`, by a pass more, where no square overflows or vanishes."""
    tops = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    top = functools.reduce(jnp.maximum, map(jnp.float32, tops), jnp.zeros((), jnp.float32))
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    return top * norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / top, tree))
