"""The losses of a score and its sign, of classes and of pairs, with closed-form derivatives.

As in `kernels`, value and derivative share no product and no constant, which XLA on CPU would
store: it multiplies by the label in the one, and by what is less the label in the other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core.numerics import closed_form, positive_part, sigmoid, softplus, xtimes
from jaxloss.core.over_classes import at, hit


def _times(x: Array, slope: Array) -> Array:
    """x · slope for a slope of 0 or more, of which 0 ends even an infinite x."""
    most = jnp.finfo(x.dtype).max
    return jnp.clip(x, -most, most) * slope


def _slope_of_hinge(x: Array, y: Array) -> Array:
    return jnp.sign(0.5 + x * -y / 2) / 2 + 0.5


@closed_form(
    lambda x, y: -y * _slope_of_hinge(x, y), lambda x, y: -_times(x, _slope_of_hinge(x, y))
)
def hinge(x: Array, y: Array) -> Array:
    """max(0, 1 - x·y)."""
    return positive_part(1 - x * y)


def _slope_of_squared_hinge(x: Array, y: Array) -> Array:
    lack = jnp.maximum(1 + x * -y, -2)
    return lack + jnp.abs(lack)  # 2·max(0, 1 - x·y)


@closed_form(
    lambda x, y: -y * _slope_of_squared_hinge(x, y),
    lambda x, y: -_times(x, _slope_of_squared_hinge(x, y)),
)
def squared_hinge(x: Array, y: Array) -> Array:
    """max(0, 1 - x·y)²."""
    return positive_part(-(x * y - 1)) ** 2


def _slope_of_perceptron(x: Array, y: Array) -> Array:
    return jnp.sign(x * -y) / 2 + 0.5


@closed_form(
    lambda x, y: -y * _slope_of_perceptron(x, y),
    lambda x, y: -_times(x, _slope_of_perceptron(x, y)),
)
def perceptron(x: Array, y: Array) -> Array:
    """max(0, -x·y)."""
    return positive_part(-(x * y))


@closed_form(
    lambda x, y: -y * sigmoid(x * -y),
    lambda x, y: -_times(x, sigmoid(x * -y)),
)
def soft_margin(x: Array, y: Array) -> Array:
    """log(1 + exp(-x·y))."""
    return softplus(-(x * y))


def _lacks(x: Array, labels: Array, margin: Array) -> Array:
    """What the label lacks of a lead over each class: -∞ over itself and over an absent one."""
    out = hit(x, labels) | jnp.isneginf(x)
    return margin + jnp.where(out, -jnp.inf, x - at(x, labels)[..., None])


def _lacking(x: Array, labels: Array, margin: Array) -> Array:
    return jnp.where(_lacks(x, labels, margin) <= 0, 0, 1).astype(x.dtype)


def _mean_over_classes(costs: Array, x: Array) -> Array:
    """Over those that are there, of costs over the number of all, whose sum overflows later."""
    total, classes = sums(costs, jnp.where(jnp.isneginf(x), 0, 1).astype(x.dtype))
    return total * (x.shape[-1] / classes)


def _slope_over_classes(slopes: Array, x: Array, labels: Array, weight: Array) -> Array:
    total, classes = sums(slopes, jnp.where(jnp.isneginf(x), 0, 1).astype(x.dtype))
    slopes = jnp.where(hit(x, labels), -total[..., None], slopes)
    return slopes * (weight / classes)[..., None]


def _slope_of_hinges(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    return _slope_over_classes(_lacking(x, labels, margin), x, labels, weight)


def _hinges_in_margin(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    shares = _lacking(x, labels, margin) / x.shape[-1]
    return _mean_over_classes(shares, x) * weight


def _hinges_in_weight(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    return mean_of_hinges(x, labels, margin, jnp.ones_like(weight))


@closed_form(_slope_of_hinges, None, _hinges_in_margin, _hinges_in_weight)
def mean_of_hinges(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    """weight · Σ over the other classes of max(0, margin + x - x[labels]) / classes."""
    share = (weight / x.shape[-1])[..., None]
    return _mean_over_classes(positive_part(_lacks(x, labels, margin)) * share, x)


def _slope_of_squared_hinges(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    return _slope_over_classes(2 * positive_part(_lacks(x, labels, margin)), x, labels, weight)


def _squared_hinges_in_margin(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    return 2 * mean_of_hinges(x, labels, margin, weight)


def _squared_hinges_in_weight(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    return mean_of_squared_hinges(x, labels, margin, jnp.ones_like(weight))


@closed_form(_slope_of_squared_hinges, None, _squared_hinges_in_margin, _squared_hinges_in_weight)
def mean_of_squared_hinges(x: Array, labels: Array, margin: Array, weight: Array) -> Array:
    """weight · Σ over the other classes of max(0, margin + x - x[labels])² / classes."""
    hinges, share = positive_part(_lacks(x, labels, margin)), (weight / x.shape[-1])[..., None]
    return _mean_over_classes(hinges * (hinges * share), x)


def _lacks_of_pairs(x: Array) -> Array:
    """What class i lacks of a lead over class j: -∞ over itself and over an absent one."""
    ahead = x[..., None, :] - x[..., None]
    out = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=bool), ahead.shape)
    return 1 + jnp.where(out | jnp.isneginf(x)[..., None, :], -jnp.inf, ahead)


def _of_pairs(costs: Array, x: Array, labels: Array) -> tuple[Array, Array]:
    """Sums for each class, over those that it is to lead and over those that are to lead it."""
    led, leads = 1 - labels[..., None, :], labels[..., None, :]
    return sums(xtimes(led, costs), xtimes(leads, jnp.swapaxes(costs, -1, -2)))


def _classes(x: Array) -> Array:
    return sums(jnp.where(jnp.isneginf(x), 0, 1).astype(x.dtype), jnp.zeros_like(x))[0]


def _slope_of_hinges_of_pairs(x: Array, labels: Array) -> Array:
    lacking = jnp.where(_lacks_of_pairs(x) <= 0, 0, 1).astype(x.dtype)
    behind, ahead = _of_pairs(lacking, x, labels)
    return ((1 - labels) * ahead - labels * behind) / _classes(x)[..., None]


def _hinges_of_pairs_in_labels(x: Array, labels: Array) -> Array:
    behind, ahead = _of_pairs(positive_part(_lacks_of_pairs(x)), x, labels)
    return (behind - ahead) / _classes(x)[..., None]


@closed_form(_slope_of_hinges_of_pairs, _hinges_of_pairs_in_labels)
def hinges_of_pairs(x: Array, labels: Array) -> Array:
    """Σ labels[i]·(1 - labels[j])·max(0, 1 + x[j] - x[i]) / classes, over i and j ≠ i."""
    pairs = labels[..., None] * (1 - labels[..., None, :])
    costs = xtimes(pairs, positive_part(_lacks_of_pairs(x)))
    return jnp.sum(sums(costs, jnp.zeros_like(costs))[0], axis=-1) / _classes(x)


def _slope_of_pairs(x: Array, before: Array) -> Array:
    """Σ of ±sigmoid: pairs in the wrong order count 1 each, what they lack of it is summed apart.

    Where pairs pull an item both ways, 1 - 1 is then exactly 0 and leaves the digits of the rest.
    """
    after, ahead = jnp.swapaxes(before, -1, -2), x[..., None] - x[..., None, :]
    ahead = jnp.where(before | after, ahead, 0)
    wrong = (after & (ahead > 0)).astype(x.dtype) - (before & (ahead < 0)).astype(x.dtype)
    rising = jnp.where(after, ahead <= 0, ahead < 0)
    rest = jnp.where(rising, sigmoid(ahead), -sigmoid(-ahead))
    rest = jnp.where(before | after, rest, 0)
    return jnp.sum(wrong, axis=-1) + jnp.sum(rest, axis=-1)


@closed_form(_slope_of_pairs, None)
def logistic_of_pairs(x: Array, before: Array) -> Array:
    """Σ of log(1 + exp(xⱼ - xᵢ)) over the pairs of a row in which i comes before j."""
    lags = jnp.where(before, x[..., None, :] - x[..., None], 0)
    return jnp.sum(jnp.where(before, softplus(lags), 0), axis=(-2, -1))


def _slope_of_sparse_margin(x: Array, y: Array) -> Array:
    return jnp.clip((x * (1 - 2 * y) + 1) / 2, 0, 1)


@closed_form(
    lambda x, y: (1 - 2 * y) * _slope_of_sparse_margin(x, y),
    lambda x, y: -2 * _times(x, _slope_of_sparse_margin(x, y)),
)
def sparse_margin(x: Array, y: Array) -> Array:
    """Of z = (1 - 2·y)·x: 0 up to -1, z from 1 on, and between (z + 1)² / 4."""
    z = x * (1 - 2 * y)
    return jnp.where(z < 1, _slope_of_sparse_margin(x, y) ** 2, z)


@jax.custom_jvp
def sums(x: Array, y: Array) -> tuple[Array, Array]:
    """Those of the last axis, in one loop for both; of x to the last digit, however many it adds.

    XLA on CPU stores a select that goes into one sum, and not what goes into several. Their loop
    is a plain one, for what is cheaper than an exponential.
    """
    none = jnp.zeros((), x.dtype)
    three = (x, jnp.zeros_like(x), y)
    x, lost, y = jax.lax.reduce(three, (none, none, none), _two_sums, (x.ndim - 1,))
    return jnp.where(jnp.isfinite(x), x + lost, x), y


def _two_sums(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    """Knuth's TwoSum of the first, which knows what it lost, and a plain sum of the last."""
    total = some[0] + more[0]
    part = total - some[0]
    lost = (some[0] - (total - part)) + (more[0] - part)
    return total, some[1] + more[1] + lost, some[2] + more[2]


@sums.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Any, Any]:
    return sums(*primals), tuple(jnp.sum(t, axis=-1) for t in tangents)
