"""What a model learns from: distributions over the classes, and how much a class counts."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num

from jaxloss.core import inputs, numerics, over_classes


def smooth_labels(
    labels: Float[ArrayLike, "*units classes"],
    alpha: Float[ArrayLike, ""] | int,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """Distributions of which a share is spread evenly over the classes.

        q = (1 - alpha)·labels + alpha / classes

    A loss with `label_smoothing` does the same without an array of labels, and knows absent
    classes by their logits of -inf.

    Args:
        labels: `[*units, classes]`, floating; one-hot rows or distributions.
        alpha: The share that is spread; in [0, 1], may be traced.
        where: `[*units, classes]`, which classes are present. What is absent gets nothing, so
            rows still sum to 1.

    Returns:
        `[*units, classes]`.

    Raises:
        ValueError: `alpha` is outside [0, 1], or `where` has another shape.
        TypeError: The labels are not floating.

    Also known as:
        Label smoothing regularisation.
        `optax.losses.smooth_labels(q, s)`: `smooth_labels(q, s)`,
            with `where`, it leaves mass on absent classes

    Example:
        >>> labels = jnp.array([[1.0, 0.0, 0.0]])
        >>> print(jaxloss.smooth_labels(labels, 0.5))
        [[0.6666667 0.16666667 0.16666667]]
        >>> print(jaxloss.smooth_labels(labels, 0.5, where=jnp.array([[True, True, False]])))
        [[0.75 0.25 0. ]]

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture", 2015, arXiv:1512.00567.
    """
    (labels,) = inputs.paired(where, labels=labels)
    alpha = inputs.option("alpha", alpha, labels, must_be="in [0, 1]")
    present = inputs.spread("where", True if where is None else where, labels.shape)
    return (1 - alpha) * labels + alpha * over_classes.uniform(present, labels)


def class_balanced_weights(counts: Num[ArrayLike, "classes"], *, beta: float = 0.9999) -> Array:
    """Class weights that count a class by its effective number of examples.

        c = (1 - beta) / (1 - beta ** counts),  scaled to a mean of 1

    An example adds less the more of its class are known: at `beta = 0` every class weighs the
    same, and as `beta` approaches 1 a class weighs one over its count. Pass the result as
    `class_weights`, or `result[labels]` as `weights`.

    Args:
        counts: `[classes]`, how many examples each class has. A class without any weighs 0 and
            is left out of the mean.
        beta: A Python number in [0, 1); (n - 1) / n for an effective number of at most n.

    Returns:
        `[classes]`, floating.

    Raises:
        ValueError: `beta` is outside [0, 1).

    Also known as:
        Class-balanced loss, inverse frequency weights, effective number of samples.

    Example:
        >>> print(jaxloss.class_balanced_weights(jnp.array([30, 10]), beta=0.0))
        [1. 1.]
        >>> print([f"{c:.2f}" for c in jaxloss.class_balanced_weights(jnp.array([30, 10]))])
        ['0.50', '1.50']

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019,
        arXiv:1901.05555.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}.")
    counts = jnp.asarray(counts, float)
    rate = math.log(beta) if beta else -math.inf
    effective = -jnp.expm1(numerics.xtimes(counts, jnp.asarray(rate, counts.dtype)))
    shares = numerics.ratio(jnp.ones_like(counts), effective)
    return numerics.ratio(shares, jnp.sum(shares)) * jnp.sum(counts > 0, dtype=counts.dtype)
