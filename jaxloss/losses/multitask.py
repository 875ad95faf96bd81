"""Multitask: combinators of the losses of several tasks, which have no units of their own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import overload

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from jaxloss.core import inputs
from jaxloss.core.statistics import Mean, Statistic, value


@overload
def weighted_sum_loss(
    losses: Mapping[str, Float[ArrayLike, "..."]], *, weights: Mapping[str, Num[ArrayLike, ""]]
) -> Array: ...
@overload
def weighted_sum_loss(
    losses: Mapping[str, Statistic], *, weights: Mapping[str, Num[ArrayLike, ""]]
) -> dict[str, Array | Statistic]: ...
def weighted_sum_loss(
    losses: Mapping[str, Float[ArrayLike, "..."] | Statistic],
    *,
    weights: Mapping[str, Num[ArrayLike, ""]],
) -> Array | dict[str, Array | Statistic]:
    """Sum of the losses of several tasks, each times a number of its own.

        ℓ = Σ weights[task]·losses[task]

    Statistics stay apart, as the terms of a dict, because each has its own denominator: a
    training loss may return them as they are, and their sum is taken over the whole batch.

    Args:
        losses: The loss of each task by name: a number, or a statistic.
        weights: The weight of each task, under the same names; may be traced.

    Returns:
        Of numbers their weighted sum; with a statistic a dict of weighted terms.

    Raises:
        ValueError: The names differ, or there are none.

    Also known as:
        Scalarization, loss weighting, lambda weights.

    Example:
        >>> losses = {"depth": jnp.array(2.0), "normals": jnp.array(1.0)}
        >>> print(jaxloss.weighted_sum_loss(losses, weights={"depth": 0.5, "normals": 3.0}))
        4.0

    Reference:
        Caruana, "Multitask Learning", 1997.
    """
    terms = _scaled(losses, "weights", weights)
    return terms if _mergeable(terms) else value(terms)


@overload
def uncertainty_weighted_loss(
    losses: Mapping[str, Float[ArrayLike, "..."]],
    log_variances: Mapping[str, Float[ArrayLike, ""]],
) -> Array: ...
@overload
def uncertainty_weighted_loss(
    losses: Mapping[str, Statistic], log_variances: Mapping[str, Float[ArrayLike, ""]]
) -> dict[str, Array | Statistic]: ...
def uncertainty_weighted_loss(
    losses: Mapping[str, Float[ArrayLike, "..."] | Statistic],
    log_variances: Mapping[str, Float[ArrayLike, ""]],
) -> Array | dict[str, Array | Statistic]:
    """Losses of several tasks, weighted by how noisy each is found to be.

        s = log_variances
        ℓ = Σ exp(-s[task])·losses[task] / 2 + s[task] / 2

    The log-variances are learned with the model; each settles where exp(s) is the loss of its
    task, so that every task counts alike whatever its unit. For a cross entropy the paper has
    exp(-s)·loss: pass twice the loss. Totals below 0 are normal.

    Args:
        losses: The loss of each task by name: a number, or a statistic.
        log_variances: A parameter of each task, under the same names; 0 to begin with.

    Returns:
        Of numbers their weighted sum; with a statistic a dict of weighted terms, to which the
        term "log_variances" adds Σ s / 2.

    Raises:
        ValueError: The names differ, or there are none, or one is "log_variances".

    Also known as:
        Homoscedastic uncertainty weighting, automatic loss weighting.

    Example:
        >>> losses = {"depth": jnp.array(4.0), "normals": jnp.array(1.0)}
        >>> log_variances = {"depth": jnp.log(4.0), "normals": jnp.log(1.0)}
        >>> print(f"{jaxloss.uncertainty_weighted_loss(losses, log_variances):.4f}")
        1.6931

    Reference:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for
        Scene Geometry and Semantics", 2018, arXiv:1705.07115.
    """
    if "log_variances" in losses:
        raise ValueError("losses must not name a task 'log_variances': that is a term of the sum.")
    s = {task: inputs.floats(log_variances=s)[0] for task, s in log_variances.items()}
    factors = {task: jnp.exp(-each) / 2 for task, each in s.items()}
    terms, half = (
        _scaled(losses, "log_variances", factors),
        functools.reduce(jnp.add, s.values()) / 2,
    )
    if _mergeable(terms):
        return {**terms, "log_variances": Mean.constant(half)}
    return value(terms) + half


def _scaled(
    losses: Mapping[str, ArrayLike | Statistic],
    name: str,
    factors: Mapping[str, ArrayLike],
) -> dict[str, Array | Statistic]:
    if not losses or losses.keys() != factors.keys():
        raise ValueError(
            f"{name} must have the names of losses, at least one, got {sorted(factors)} and "
            f"{sorted(losses)}."
        )
    return {task: _times(factors[task], loss) for task, loss in losses.items()}


def _times(factor: ArrayLike, loss: ArrayLike | Statistic) -> Array | Statistic:
    if isinstance(loss, Statistic):
        return loss * factor
    (loss,) = inputs.floats(losses=loss)
    return jnp.asarray(factor).astype(loss.dtype) * loss


def _mergeable(terms: Mapping[str, Array | Statistic]) -> bool:
    return any(isinstance(term, Statistic) for term in terms.values())
