"""Gradients of the terms of a loss, each by itself, made into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.numerics import ratio
from jaxloss.core.statistics import Statistic, value
from jaxloss.train.gradient import ValueAndGrad, safe_norm, value_and_grad
from jaxloss.train.objective import Aux, Loss, LossFn, PyTree, named, objective
from jaxloss.train.partition import Trainable, apart

# parameters, the gradient of each term, the terms, rng -> gradient
Combine: TypeAlias = Callable[[PyTree, list[PyTree], dict[str, Statistic], Array | None], PyTree]


def pcgrad(
    loss_fn: LossFn, *, microbatches: int = 1, has_aux: bool = False
) -> Callable[..., tuple[PyTree, PyTree]]:
    """Projects conflicting gradients: `make_train_step(..., value_and_grad=jaxloss.pcgrad)`.

        gᵢ ← gᵢ - gⱼ · min(gᵢ·gⱼ, 0) / ‖gⱼ‖²   for the other terms j, in random order;   Σᵢ gᵢ

    Args:
        loss_fn: As for `make_train_step`; returns a dict of terms.
        microbatches: How many parts the batch is computed in.
        has_aux: Whether to return `(value, Aux)` for the value.

    Returns:
        A function with the arguments and the result of the one that `jaxloss.value_and_grad`
        returns. Without an rng, the order is that of their names.

    Raises:
        TypeError: `loss_fn` does not return a dict.

    Example:
        >>> def loss_fn(w, _):
        ...     return {"a": jaxloss.Sum(w[0]), "b": jaxloss.Sum(w[1] - w[0])}
        >>> _, grad = jaxloss.pcgrad(loss_fn)(jnp.zeros(2), None)
        >>> print(grad)
        [0.5 1.5]

    Reference:
        Yu et al., Gradient Surgery for Multi-Task Learning, 2020, arXiv:2001.06782.
    """
    return _by_terms(_projected, loss_fn, microbatches=microbatches, has_aux=has_aux)


def gradnorm(
    first_losses: Mapping[str, float],
    *,
    weights: str = "loss_weights",
    alpha: float = 1.5,
    shared: Trainable = True,
) -> ValueAndGrad:
    """Learns the weights of terms, so that all train at one pace.

        gradient by the parameters: Σᵢ wᵢ gᵢ;   by wᵢ: ‖gᵢ‖ · sign(wᵢ‖gᵢ‖ - mean(w‖g‖) · rᵢ^alpha)

    Here rᵢ is the share of its first loss that the term i still has, over the mean of these
    shares. The weights are parameters, `params[weights]`: a dict with a number for each term,
    which the optimizer moves; they count relative to their mean, and below 0 as 0.

    Args:
        first_losses: The loss of each term before training, or that of a guess, such as log C.
        weights: The entry of the parameters that holds the weights.
        alpha: How strongly a term that lags behind is favoured.
        shared: Over which parameters norms are taken, as `trainable` of `make_train_step`; the
            paper takes the last layer that all terms share.

    Returns:
        A function with the arguments, but for `axis_name`, and the result of
        `jaxloss.value_and_grad`, whose value is the plain sum of the terms.

    Raises:
        TypeError: The loss function does not return a dict.
        ValueError: The terms are not those of `first_losses` and of the weights.

    Example:
        >>> def loss_fn(params, _):
        ...     w = params["w"]
        ...     return {"small": jaxloss.Sum(w), "large": jaxloss.Sum(9 * w)}
        >>> balanced = jaxloss.gradnorm({"small": 1.0, "large": 9.0})
        >>> ones = {"small": jnp.ones(()), "large": jnp.ones(())}
        >>> _, grad = balanced(loss_fn)({"w": jnp.ones(()), "loss_weights": ones}, None)
        >>> print(grad["w"], grad["loss_weights"]["small"], grad["loss_weights"]["large"])
        10.0 -1.0 9.0

    Reference:
        Chen et al., GradNorm, 2018, arXiv:1711.02257.
    """
    combine = functools.partial(_balanced, dict(first_losses), weights, alpha, shared)
    return functools.partial(_by_terms, combine)


def _by_terms(
    combine: Combine, loss_fn: LossFn, *, microbatches: int = 1, has_aux: bool = False
) -> Callable[..., tuple[PyTree, PyTree]]:
    complete = objective(loss_fn)

    def call(
        params: PyTree,
        batch: PyTree,
        *,
        rng: Array | None = None,
        model_state: PyTree = None,
        step: ArrayLike | None = None,
    ) -> tuple[PyTree, PyTree]:
        given = {"rng": rng, "model_state": model_state, "step": step}
        shapes, _ = jax.eval_shape(functools.partial(complete, **given), params, batch)
        auxes, grads = {}, []
        for name in _terms(shapes):
            gradient = value_and_grad(
                _only(name, complete), microbatches=microbatches, has_aux=True
            )
            (_, auxes[name]), grad = gradient(params, batch, **given)
            grads.append(grad)
        terms = {name: aux.metrics["loss"] for name, aux in auxes.items()}
        grads = combine(params, grads, terms, rng)
        aux = _of_all_terms(terms, *auxes.values())
        return ((value(terms), aux) if has_aux else value(terms)), grads

    return call


def _terms(loss: Loss) -> Mapping[str, Array | Statistic]:
    if isinstance(loss, Mapping):
        return loss
    raise TypeError(
        "loss_fn must return a dict of terms, whose gradients are to be told apart, got "
        f"{type(loss).__name__}."
    )


def _of_all_terms(terms: dict[str, Statistic], first: Aux, *_: Aux) -> Aux:
    """The metrics of the loss function, and its model state, come with each of its terms."""
    metrics = {name: metric for name, metric in first.metrics.items() if name != "loss"}
    return Aux(first.model_state, named(terms, Aux(metrics=metrics)))


def _only(name: str, complete: Callable[..., tuple[Loss, Aux]]) -> LossFn:
    def loss_fn(
        params: PyTree,
        batch: PyTree,
        *,
        rng: Array | None,
        model_state: PyTree,
        step: ArrayLike | None,
    ) -> tuple[Loss, Aux]:
        loss, aux = complete(params, batch, rng=rng, model_state=model_state, step=step)
        return _terms(loss)[name], aux

    return loss_fn


def _projected(
    params: PyTree, grads: list[PyTree], terms: dict[str, Statistic], rng: Array | None
) -> PyTree:
    """Every projection is a sum of the gradients, so that their cosines and norms say which."""
    count, norms = len(grads), [safe_norm(grad) for grad in grads]
    each = list(zip(grads, norms, strict=True))
    cosines = jnp.stack([jnp.stack([_cosine(*a, *b) for b in each]) for a in each])
    norms = jnp.stack(norms)
    orders = jnp.tile(jnp.arange(count), (count, 1))
    if rng is not None:
        orders = jax.random.permutation(rng, orders, axis=1, independent=True)

    def project(i: Array, order: Array) -> Array:
        def remove(times: Array, j: Array) -> tuple[Array, None]:
            conflict = jnp.where(i == j, 0, jnp.minimum(times @ cosines[j], 0))
            return times.at[j].add(-conflict), None

        return jax.lax.scan(remove, norms * jax.nn.one_hot(i, count, dtype=norms.dtype), order)[0]

    times = jnp.sum(jax.vmap(project)(jnp.arange(count), orders), axis=0)
    return _weighted(ratio(times, norms), grads)


def _balanced(
    first_losses: dict[str, float],
    weights: str,
    alpha: float,
    shared: Trainable,
    params: PyTree,
    grads: list[PyTree],
    terms: dict[str, Statistic],
    rng: Array | None,
) -> PyTree:
    if not terms.keys() == first_losses.keys() == params[weights].keys():
        raise ValueError(
            f"first_losses and params[{weights!r}] must name the terms {', '.join(terms)}, got "
            f"{', '.join(first_losses)} and {', '.join(params[weights])}."
        )
    times = jnp.maximum(jnp.stack([params[weights][name] for name in terms]), 0)
    times = ratio(times, jnp.mean(times))
    norms = jnp.stack([safe_norm(apart(grad, shared)[0]) for grad in grads])
    shares = jnp.stack([terms[name].value() / first_losses[name] for name in terms])
    target = jnp.mean(times * norms) * (shares / jnp.mean(shares)) ** alpha
    slopes = norms * jnp.sign(times * norms - target)
    slopes = dict(zip(terms, slopes, strict=True))
    return {**_weighted(times, grads), weights: slopes}


def _weighted(times: Array, grads: list[PyTree]) -> PyTree:
    return jax.tree.map(
        lambda *each: sum(t.astype(g.dtype) * g for t, g in zip(times, each, strict=True)), *grads
    )


def _cosine(a: PyTree, length: Array, b: PyTree, of_b: Array) -> Array:
    """Of two gradients of known norms, in float32; 0 with one that is 0."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    products = [
        jnp.sum(ratio(x.astype(jnp.float32), length) * ratio(y.astype(jnp.float32), of_b))
        for x, y in pairs
    ]
    return sum(products, jnp.zeros((), jnp.float32))
