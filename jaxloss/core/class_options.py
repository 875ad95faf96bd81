"""The options that losses over classes share: class weights, a cap, smoothing and a penalty."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core import inputs, numerics, over_classes


def per_class(class_weights: ArrayLike | None, logits: Array) -> Array | None:
    """One weight per class, with axes of length 1 for the units."""
    if class_weights is None:
        return None
    if jnp.ndim(class_weights):
        class_weights = inputs.with_a_class(jnp.asarray(class_weights), 0)
    c = inputs.option("class_weights", class_weights, logits, must_be="0 or more", entries=True)
    return jnp.broadcast_to(c, (1,) * (logits.ndim - 1) + logits.shape[-1:])


def soft_cap(logits: Array, cap: Array) -> Array:
    """cap · tanh(logits / cap), and an absent class stays absent."""
    absent = jnp.isneginf(logits)
    return jnp.where(absent, logits, cap * numerics.tanh(jnp.where(absent, 0, logits) / cap))


def tempered(logits: Array, temperature: Array) -> Array:
    """logits / temperature, and an absent class stays absent."""
    absent = jnp.isneginf(logits)
    return jnp.where(absent, logits, jnp.where(absent, 0, logits) / temperature)


def uniform(present: Array, like: Array) -> Array:
    """The same share for every class that is present, in the dtype of `like`; 0 for the others."""
    counted = present.astype(like.dtype)
    return numerics.ratio(counted, jnp.sum(counted, axis=-1, keepdims=True))


def capped(logits: Array, logit_softcap: ArrayLike | None) -> Array:
    """The logits, bounded smoothly where there is a bound."""
    if logit_softcap is None or (isinstance(logit_softcap, float) and logit_softcap == math.inf):
        return logits
    cap = inputs.option("logit_softcap", logit_softcap, logits, must_be="positive")
    return soft_cap(numerics.wide(logits), cap)


def own_of(x: Array, labels: Array, loud: Array) -> Array:
    """What `x` holds at the label; where `loud` is NaN, so is it and its derivative by all of x."""
    return over_classes.at(x * loud[..., None], labels)


def weighted_at(values: Array, labels: Array, c: Array | None) -> tuple[Array, Array | None]:
    """What each label costs times the weight of its class, and that weight."""
    if c is None:
        return values, None
    counts = over_classes.shared_at(c, labels)
    return counts * values, counts


def cost_of_labels(
    x: Array,
    labels: Array,
    class_weights: ArrayLike | None,
    label_smoothing: ArrayLike,
    z_loss: ArrayLike,
) -> tuple[Array, Array | None]:
    """Cross entropy of class indices with all options, and how much each label counts."""
    c = per_class(class_weights, x)
    if inputs.given(label_smoothing) or inputs.given(z_loss):
        x = numerics.wide(x)
        values = over_classes.cross_entropy_at(x, labels)
    else:
        values = over_classes.lone_cross_entropy_at(x, labels)
    values, counts = weighted_at(values, labels, c)
    return with_options(values, x, c, counts, label_smoothing, z_loss), counts


def with_options(
    values: Array,
    x: Array,
    c: Array | None,
    counts: Array | None,
    label_smoothing: ArrayLike,
    z_loss: ArrayLike,
) -> Array:
    """What the labels cost, blended with the cost of every class alike, and the penalty."""
    smoothing = inputs.option("label_smoothing", label_smoothing, x, must_be="in [0, 1]")
    penalty = inputs.option("z_loss", z_loss, x, must_be="0 or more")
    if inputs.given(label_smoothing):
        shares = uniform(~jnp.isneginf(x), x)
        even = over_classes.spread_cross_entropy(x, shares if c is None else c * shares)
        values = numerics.blend(smoothing, values, even)
    if inputs.given(z_loss):
        penalty = penalty if counts is None else counts * penalty
        values = values + penalty * over_classes.logsumexp(x) ** 2
    return values
