"""Margins: the unit is a label, a sign or one of the classes."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import inputs, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce

#: The kind of label that each loss learns from.
LEARNS = {
    "hinge_loss": "sign",
    "squared_hinge_loss": "sign",
    "perceptron_loss": "sign",
    "soft_margin_loss": "sign",
    "multiclass_hinge_loss": "class",
    "multiclass_perceptron_loss": "class",
}


def hinge_loss(
    scores: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Hinge loss: what a score lacks of a margin of 1 on the side of its label.

        ℓ = max(0, 1 - labels·scores)

    A score beyond its margin costs nothing, so that a solution rests on few examples: the
    support vectors.

    Args:
        scores: `[*units]`, floating.
        labels: `[*units]`, -1 and 1; of labels that are 0 and 1, pass `2 * labels - 1`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The scores are not floating.

    Also known as:
        Support vector machine loss, L1-SVM loss.
        `optax.losses.hinge_loss(x, y).mean()`: `hinge_loss(x, y)`
        `keras.losses.hinge(y, x)`: `hinge_loss(x, y)`,
            a mean over the last axis; it takes labels of 0 and 1 too
        `sklearn.metrics.hinge_loss(y, x)`: `hinge_loss(x, y)`

    Example:
        >>> scores, labels = jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])
        >>> print(jaxloss.hinge_loss(scores, labels, reduction=None))
        [0. 0.5 2. ]

    Reference:
        Cortes and Vapnik, "Support-Vector Networks", 1995.
    """
    values = jnp.maximum(0, 1 - _margins(where, scores, labels))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def squared_hinge_loss(
    scores: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Square of the hinge loss, which has no kink at the margin.

        ℓ = max(0, 1 - labels·scores)²

    Args:
        scores: `[*units]`, floating.
        labels: `[*units]`, -1 and 1; of labels that are 0 and 1, pass `2 * labels - 1`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The scores are not floating.

    Also known as:
        L2-SVM loss.
        `keras.losses.squared_hinge(y, x)`: `squared_hinge_loss(x, y)`,
            a mean over the last axis; it takes labels of 0 and 1 too

    Example:
        >>> scores, labels = jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])
        >>> print(jaxloss.squared_hinge_loss(scores, labels, reduction=None))
        [0. 0.25 4. ]

    Reference:
        Lee and Mangasarian, "SSVM: A Smooth Support Vector Machine for Classification", 2001.
    """
    values = jnp.maximum(0, 1 - _margins(where, scores, labels)) ** 2
    return reduce(values, where=where, weights=weights, reduction=reduction)


def perceptron_loss(
    scores: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Perceptron loss: the size of a score on the wrong side of 0.

        ℓ = max(0, -labels·scores)

    A step of gradient descent on one unit is Rosenblatt's rule.

    Args:
        scores: `[*units]`, floating.
        labels: `[*units]`, -1 and 1; of labels that are 0 and 1, pass `2 * labels - 1`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The scores are not floating.

    Also known as:
        Rosenblatt loss, perceptron criterion.
        `optax.losses.perceptron_loss(x, y).mean()`: `perceptron_loss(x, y)`

    Example:
        >>> scores, labels = jnp.array([2.0, -1.5]), jnp.array([1, 1])
        >>> print(jaxloss.perceptron_loss(scores, labels, reduction=None))
        [0. 1.5]

    Reference:
        Rosenblatt, "The Perceptron", 1958.
    """
    values = jnp.maximum(0, -_margins(where, scores, labels))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def soft_margin_loss(
    scores: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Logistic loss of signs: a hinge without a corner.

        ℓ = log(1 + exp(-labels·scores))

    It is `sigmoid_binary_cross_entropy` for labels of -1 and 1.

    Args:
        scores: `[*units]`, floating; the log odds of 1 against -1.
        labels: `[*units]`, -1 and 1; of labels that are 0 and 1, pass `2 * labels - 1`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The scores are not floating.

    Also known as:
        Logistic margin loss, binomial deviance.
        `torch.nn.functional.soft_margin_loss(x, y)`: `soft_margin_loss(x, y)`

    Example:
        >>> scores, labels = jnp.array([0.0, 2.0]), jnp.array([1, -1])
        >>> print(jaxloss.soft_margin_loss(scores, labels, reduction=None).round(3))
        [0.693 2.127]

    Reference:
        Friedman, Hastie and Tibshirani, "Additive Logistic Regression", 2000.
    """
    values = numerics.softplus(-_margins(where, scores, labels))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def multiclass_hinge_loss(
    scores: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Hinge loss of Crammer and Singer: what the label lacks of a lead of 1 over every other class.

        ℓ = max(0, 1 + max over the other classes of scores - scores[labels])

    A score of -inf is an absent class. A label out of range is NaN, in value and gradient.

    Args:
        scores: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes).
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The scores are not floating, or the labels are not integers.

    Also known as:
        Crammer-Singer loss, multiclass support vector machine loss.
        `optax.losses.multiclass_hinge_loss(x, y).mean()`: `multiclass_hinge_loss(x, y)`

    Example:
        >>> scores = jnp.array([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0]])
        >>> print(jaxloss.multiclass_hinge_loss(scores, jnp.array([0, 1]), reduction=None))
        [0. 3.]

    Reference:
        Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
        Machines", 2001.
    """
    scores, labels = inputs.labelled(where, logits=scores, labels=labels, name="scores")
    values = jnp.maximum(0, 1 + _behind(scores, labels))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def multiclass_perceptron_loss(
    scores: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Perceptron loss of several classes: how far the label is behind the best class.

        ℓ = max over the classes of scores - scores[labels]

    A score of -inf is an absent class. A label out of range is NaN, in value and gradient.

    Args:
        scores: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes).
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The scores are not floating, or the labels are not integers.

    Also known as:
        Structured perceptron loss.
        `optax.losses.multiclass_perceptron_loss(x, y).mean()`: `multiclass_perceptron_loss(x, y)`

    Example:
        >>> scores = jnp.array([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0]])
        >>> print(jaxloss.multiclass_perceptron_loss(scores, jnp.array([0, 1]), reduction=None))
        [0. 2.]

    Reference:
        Collins, "Discriminative Training Methods for Hidden Markov Models", 2002.
    """
    scores, labels = inputs.labelled(where, logits=scores, labels=labels, name="scores")
    values = jnp.maximum(0, _behind(scores, labels))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def _margins(where: ArrayLike | None, scores: ArrayLike, labels: ArrayLike) -> Array:
    """How far each score is on the side of its label."""
    scores, labels = inputs.paired(where, fill={"labels": 1}, scores=scores, labels=labels)
    inputs.require(jnp.abs(labels) == 1, "labels", labels, "a sign is -1 or 1")
    return numerics.signed(scores, labels)


def _behind(scores: Array, labels: Array) -> Array:
    """Score of the best other class minus the label's."""
    others = jnp.where(over_classes.hit(scores, labels), -jnp.inf, scores)
    return over_classes.at(others, over_classes.largest(others)) - over_classes.at(scores, labels)
