"""Sparsemax: the distribution over the class axis, which is the last, nearest to the logits.

A logit of -inf is an absent class; a row without classes is NaN. Nothing here differentiates a
sort: every derivative follows from which classes have a share.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core.numerics import closed_form, finite, ratio
from jaxloss.core.over_classes import at, hit


@jax.custom_jvp
def sparsemax(logits: Array) -> Array:
    """p = max(0, logits - τ), where τ is such that p sums to one."""
    behind, threshold = _behind_top(logits)
    return jnp.maximum(behind - threshold, 0)


@sparsemax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (logits,), (t,) = primals, tangents
    p = sparsemax(logits)
    moving = jnp.where(p > 0, t, 0)
    shares = jnp.sum(p > 0, axis=-1, keepdims=True, dtype=p.dtype)
    mean = ratio(jnp.sum(moving, axis=-1, keepdims=True), shares)
    return p, jnp.where(p > 0, t - mean, p * 0)


def _slope_at(logits: Array, labels: Array) -> Array:
    p = sparsemax(logits)
    own = hit(logits, labels)
    return jnp.where(own, -jnp.sum(jnp.where(own, 0, p), axis=-1, keepdims=True), p)


@closed_form(_slope_at, None)
def sparsemax_loss_at(logits: Array, labels: Array) -> Array:
    """½·‖p - e‖² + max(0, τ - the label's logit), where e is the label's corner.

    It is a sum of what is not negative, and a shift of the logits changes nothing.
    """
    behind, threshold = _behind_top(logits)
    p, hot = jnp.maximum(behind - threshold, 0), hit(logits, labels)
    others = jnp.where(hot, 0, p)
    apart = jnp.sum(others**2, axis=-1) + jnp.sum(others, axis=-1) ** 2
    label, top = at(logits, labels), jnp.max(logits, axis=-1)
    lag = jnp.where(jnp.isposinf(label), 0, label - top)
    return apart / 2 + jnp.maximum(threshold[..., 0] - lag, 0)


def _behind_top(logits: Array) -> tuple[Array, Array]:
    """Logits less the largest, and the threshold: the greatest that any number of classes asks."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    behind = finite(logits) - finite(top)
    ranked = jnp.sort(behind, axis=-1, descending=True)
    number = 1 + jax.lax.broadcasted_iota(behind.dtype, behind.shape, behind.ndim - 1)
    asked = (jnp.cumsum(ranked, axis=-1) - 1) / number
    return behind, jnp.max(asked, axis=-1, keepdims=True)
