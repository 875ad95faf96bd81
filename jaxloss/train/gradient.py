"""The exact gradient of a loss over microbatches.

A first pass over the microbatches merges their statistics. The gradient of the last formula at
the total is one cotangent, and a second pass pulls it back through each microbatch. Of a mean
whose weights are data the cotangent needs no model, and XLA drops the first pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Concat, Deferred, Statistic, merge, value
from jaxloss.train.objective import Aux, Loss, PyTree, mergeable, named, objective, wide

Carry = TypeVar("Carry")
Merged = TypeVar("Merged")
AxisName: TypeAlias = str | Sequence[str] | None
Forward: TypeAlias = Callable[[PyTree, PyTree, PyTree, Array | None], tuple[Loss, Aux]]


@overload
def value_and_grad(
    loss_fn: Callable[..., Loss | tuple[Loss, Aux]],
    *,
    microbatches: int = 1,
    axis_name: AxisName = None,
    has_aux: Literal[False] = False,
) -> Callable[..., tuple[Array, PyTree]]: ...


@overload
def value_and_grad(
    loss_fn: Callable[..., Loss | tuple[Loss, Aux]],
    *,
    microbatches: int = 1,
    axis_name: AxisName = None,
    has_aux: Literal[True],
) -> Callable[..., tuple[tuple[Array, Aux], PyTree]]: ...


def value_and_grad(
    loss_fn: Callable[..., Loss | tuple[Loss, Aux]],
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
            key = rng
            if rng is not None and index is not None:
                key = jax.random.fold_in(rng, _first_part(microbatches, axis_name) + index)
            return complete(params, part, rng=key, model_state=model_state, step=step)

        (loss, aux), grads = gradient(forward, _floating_params(params), batch, model_state)
        result = (value(loss), Aux(aux.model_state, named(loss, aux))) if has_aux else value(loss)
        return result, grads

    return call


def _first_part(n: int, axis_name: AxisName) -> ArrayLike:
    """The number of the first part of this device among those of all."""
    return 0 if axis_name is None else n * jax.lax.axis_index(axis_name)


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
    _require_divisible(batch, n)
    params = _varying(params, axis_name)

    def statistics(model_state: PyTree, index: Array) -> tuple[PyTree, Loss]:
        loss, aux = forward(params, _part(batch, n, index), model_state, index)
        return aux.model_state, mergeable(loss)

    def pull_back(
        carry: tuple[PyTree, PyTree], index: Array
    ) -> tuple[tuple[PyTree, PyTree], tuple[Loss, Mapping[str, Statistic]]]:
        def floats(params: PyTree) -> tuple[list[Array], tuple[Loss, Aux]]:
            loss, aux = forward(params, _part(batch, n, index), carry[0], index)
            return _varying(_floats(loss), axis_name), (loss, aux)

        _, pull, (loss, aux) = jax.vjp(floats, params, has_aux=True)
        (grads,) = pull(_varying(cotangents(index), axis_name))
        grads = jax.tree.map(lambda total, grad: total + grad.astype(total.dtype), carry[1], grads)
        return (aux.model_state, grads), (loss, aux.metrics)

    scan = functools.partial(_merging_scan, n=n, axis_name=axis_name)
    total = _merged(scan(statistics, model_state)[1], axis_name)
    cotangents = _cotangents(total, n, axis_name)
    zeros = jax.tree.map(lambda param: jnp.zeros_like(wide(param)), params)
    (model_state, grads), again = scan(pull_back, (model_state, _varying(zeros, axis_name)))
    loss, metrics = _merged(again, axis_name)
    grads = _merged(grads, axis_name)
    grads = jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, params)
    return (_one_of_two_passes(total, loss), Aux(model_state, metrics)), grads


def _merged(tree: Merged, axis_name: AxisName) -> Merged:
    return tree if axis_name is None else merge(tree, axis_name=axis_name)


def _varying(tree: Merged, axis_name: AxisName) -> Merged:
    """As if it differed by device, so that JAX leaves it to `_by_parts` to add up gradients."""
    if axis_name is None:
        return tree
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)


def _cotangents(total: Loss, n: int, axis_name: AxisName) -> Callable[[Array], list[Array]]:
    """The gradient of the loss by the floating statistics of the part with a given index."""
    leaves, structure = jax.tree.flatten(total)

    def rebuilt(floats: list[Array]) -> Loss:
        rest = iter(floats)
        return structure.unflatten(next(rest) if _floating(leaf) else leaf for leaf in leaves)

    gradient = jax.grad(lambda floats: value(rebuilt(floats)))(_floats(total))
    sums, rows = _apart(rebuilt(gradient))
    if axis_name is not None:
        rows = jax.tree.map(functools.partial(_own_rows, axis_name), rows)
    return lambda index: _floats(_together(sums, _part(rows, n, index)))


def _own_rows(axis_name: str | Sequence[str], rows: Array) -> Array:
    """Of the rows of all devices."""
    count = rows.shape[0] // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(axis_name) * count, count)


def _one_of_two_passes(first: Loss, second: Loss) -> Loss:
    """Means from the second pass, so that the first may vanish; what needs the first, from it."""
    return jax.tree.map(
        lambda one, two: one if isinstance(one, Deferred) else two,
        first,
        second,
        is_leaf=lambda node: isinstance(node, Statistic),
    )


def _merging_scan(
    body: Callable[[Carry, Array], tuple[Carry, Merged]],
    carry: Carry,
    *,
    n: int,
    axis_name: AxisName,
) -> tuple[Carry, Merged]:
    """`jax.lax.scan` over n parts that merges their statistics: arrays add, rows join in order."""

    def merge_part(
        state: tuple[Carry, PyTree], index: Array
    ) -> tuple[tuple[Carry, PyTree], list[Concat]]:
        carry, statistics = body(state[0], index)
        sums, rows = _apart(statistics)
        return (carry, jax.tree.map(jnp.add, state[1], sums)), rows

    shapes = jax.eval_shape(lambda index: _apart(body(carry, index)[1])[0], 0)
    zeros = _varying(jax.tree.map(jnp.zeros_like, shapes), axis_name)
    (carry, sums), rows = jax.lax.scan(merge_part, (carry, zeros), jnp.arange(n))
    return carry, _together(sums, jax.tree.map(_in_order, rows))


def _apart(statistics: Merged) -> tuple[Merged, list[Concat]]:
    """The tree without its rows, and the rows."""
    nodes, structure = jax.tree.flatten(statistics, is_leaf=_concatenates)
    without = structure.unflatten(Concat(()) if _concatenates(node) else node for node in nodes)
    return without, [node for node in nodes if isinstance(node, Concat)]


def _together(without: Merged, rows: list[Concat]) -> Merged:
    rest = iter(rows)
    return jax.tree.map(
        lambda node: next(rest) if _concatenates(node) else node, without, is_leaf=_concatenates
    )


def _require_divisible(batch: PyTree, n: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        shape = jnp.shape(leaf)
        if not shape or shape[0] % n:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {shape}, and microbatches={n} must "
                "divide its leading axis: jaxloss.pad_batch fills up a batch."
            )


def _part(rows: Merged, n: int, index: Array) -> Merged:
    """The rows index, index + n, index + 2n, ...: each device has its share of every part."""

    def part(leaf: ArrayLike) -> Array:
        leaf = jnp.asarray(leaf)
        strided = leaf.reshape(leaf.shape[0] // n, n, *leaf.shape[1:])
        return jax.lax.dynamic_index_in_dim(strided, index, axis=1, keepdims=False)

    return jax.tree.map(part, rows)


def _in_order(parts: Array) -> Array:
    """Rows `[n, rows / n, ...]` of all parts, where they were in the batch."""
    n, rows, *rest = parts.shape
    return jnp.swapaxes(parts, 0, 1).reshape(n * rows, *rest)


def _floating_params(params: PyTree) -> PyTree:
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


def _concatenates(node: object) -> bool:
    return isinstance(node, Concat)
