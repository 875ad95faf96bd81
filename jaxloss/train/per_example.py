"""The gradient of every example by itself, clipped and made noisy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.numerics import ratio
from jaxloss.core.statistics import Concat, concatenates, value
from jaxloss.train.gradient import ValueAndGrad, floating_params, safe_norm
from jaxloss.train.microbatches import merging_scan, part, require_divisible
from jaxloss.train.objective import Aux, Loss, LossFn, PyTree, mergeable, named, objective, wide

Merged = TypeVar("Merged")


def per_example(
    *, clip: float, noise_multiplier: float = 0.0, key: Array | None = None
) -> ValueAndGrad:
    """The gradient of DP-SGD: `make_train_step(..., value_and_grad=jaxloss.per_example(...))`.

        (Σᵢ gᵢ · min(1, clip / ‖gᵢ‖) + noise_multiplier · clip · N(0, 1)) / rows

    The rows are those of the batch, with those that `where` deletes: how many are real is private
    too. So is what a batch would do to the model state, which stays as it is. With `microbatches`,
    only the gradients of one part are in memory at a time.

    Args:
        clip: The largest norm of the gradient of an example.
        noise_multiplier: The standard deviation of the noise, in units of `clip`.
        key: Of the noise, folded with the number of the step.

    Returns:
        A function with the arguments, but for `axis_name`, and the result of
        `jaxloss.value_and_grad`; the value and
        the metrics are exact.

    Raises:
        ValueError: `clip` is not positive, `noise_multiplier` is negative, or there is noise
            without a key or without the number of the step.
        TypeError: `loss_fn` returns a bare number, which has no parts.

    Example:
        >>> def loss_fn(w, x):
        ...     return jaxloss.Mean.of(w * x)
        >>> private = jaxloss.per_example(clip=1.0)(loss_fn)
        >>> print(*private(jnp.array(2.0), jnp.array([0.5, -0.5, 100.0, 100.0])))
        100.0 0.5

    Reference:
        Abadi et al., Deep Learning with Differential Privacy, 2016, arXiv:1607.00133.
    """
    if not (clip > 0 and noise_multiplier >= 0):
        raise ValueError(
            f"clip must be positive, got {clip}; noise_multiplier 0 or more, {noise_multiplier}."
        )
    if noise_multiplier and key is None:
        raise ValueError("noise needs a key: per_example(..., key=jax.random.key(0)).")

    def value_and_grad(
        loss_fn: LossFn, *, microbatches: int = 1, has_aux: bool = False
    ) -> Callable[..., tuple[PyTree, PyTree]]:
        def call(
            params: PyTree, batch: PyTree, *, step: ArrayLike | None = None, **given: PyTree
        ) -> tuple[PyTree, PyTree]:
            params = floating_params(params)
            clipped = _clipped_sum(loss_fn, microbatches, clip, params, batch, step, **given)
            aux, rows, total = clipped
            if noise_multiplier and key is not None:
                total = _noisy(total, noise_multiplier * clip, key, step)
            grads = jax.tree.map(lambda g, param: (g / rows).astype(param.dtype), total, params)
            loss = aux.metrics["loss"].value()
            return ((loss, aux) if has_aux else loss), grads

        return call

    return value_and_grad


def _clipped_sum(
    loss_fn: LossFn,
    n: int,
    clip: float,
    params: PyTree,
    batch: PyTree,
    step: ArrayLike | None,
    *,
    rng: Array | None = None,
    model_state: PyTree = None,
) -> tuple[Aux, int, PyTree]:
    """Σ of clipped gradients, beside the exact loss in an Aux and the number of rows."""
    require_divisible(batch, n)
    complete, rows = objective(loss_fn), len(jax.tree.leaves(batch)[0])

    def example(index: Array, row: PyTree) -> tuple[Loss, PyTree, PyTree]:
        own = None if rng is None else jax.random.fold_in(rng, index)

        def number(params: PyTree) -> tuple[Array, tuple[Loss, PyTree]]:
            one = jax.tree.map(lambda leaf: leaf[None], row)
            loss, aux = complete(params, one, rng=own, model_state=model_state, step=step)
            return value(loss), (mergeable(loss), aux.metrics)

        grads, (loss, metrics) = jax.grad(number, has_aux=True)(params)
        grads = jax.tree.map(wide, grads)
        clipped = ratio(jnp.asarray(clip, jnp.float32), safe_norm(grads), empty=1)
        times = jnp.minimum(1, clipped)
        return loss, metrics, jax.tree.map(lambda g: times.astype(g.dtype) * g, grads)

    def examples(_: None, index: Array) -> tuple[None, tuple[Loss, PyTree, PyTree]]:
        each = jax.vmap(example)(part(jnp.arange(rows), n, index), part(batch, n, index))
        return None, _over_examples(each)

    _, (loss, metrics, total) = merging_scan(examples, None, n=n, axis_name=None)
    return Aux(model_state, named(loss, Aux(metrics=metrics))), rows, total


def _over_examples(each: Merged) -> Merged:
    """Statistics with a leading axis of examples, merged over it."""

    def merged(node: Array | Concat) -> Array | Concat:
        if isinstance(node, Concat):
            return jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:]), node)
        return jnp.sum(node, axis=0)

    return jax.tree.map(merged, each, is_leaf=concatenates)


def _noisy(tree: PyTree, scale: float, key: Array, step: ArrayLike | None) -> PyTree:
    if step is None:
        raise ValueError(
            "noise needs the number of the step, so that no two steps share it: pass step=."
        )
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))
    return structure.unflatten(
        leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    )
