"""Margins: the unit is a label, a sign, one of the classes or several of them."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import (
    checks,
    class_options,
    inputs,
    kernels,
    margins,
    numerics,
    over_classes,
    vectors,
)
from jaxloss.core.reductions import R, Reduction, reduce


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
        TypeError: The scores are not floating, or the labels are boolean or unsigned.

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
    values = margins.hinge(*_signed(where, scores, labels))
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
        TypeError: The scores are not floating, or the labels are boolean or unsigned.

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
    values = margins.squared_hinge(*_signed(where, scores, labels))
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
        TypeError: The scores are not floating, or the labels are boolean or unsigned.

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
    values = margins.perceptron(*_signed(where, scores, labels))
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
        TypeError: The scores are not floating, or the labels are boolean or unsigned.

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
    values = margins.soft_margin(*_signed(where, scores, labels))
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
    scores, labels, loud = inputs.labelled_apart(where, logits=scores, labels=labels, name="scores")
    values = loud * numerics.positive_part(1 + _behind(scores, labels, loud))
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
    scores, labels, loud = inputs.labelled_apart(where, logits=scores, labels=labels, name="scores")
    values = loud * numerics.positive_part(_behind(scores, labels, loud))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def multi_margin_loss(
    scores: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    p: int = 1,
    margin: Float[ArrayLike, ""] | int = 1.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Hinge loss of Weston and Watkins: what the label lacks of a lead over each other class.

        ℓ = class_weights[labels] / classes
            · Σ over the other classes of max(0, margin + scores - scores[labels]) ** p

    `multiclass_hinge_loss` looks at the best other class only. A score of -inf is an absent
    class, which `classes` does not count. A label out of range is NaN, in value and gradient.

    Args:
        scores: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes).
        p: 1, or 2 for squared hinges.
        margin: The lead that is enough; may be traced.
        class_weights: `[classes]`, 0 or more, how often a label of each class counts: the same
            as `weights=class_weights[labels]`. May be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, `p` is not 1 or 2, or the margin is not a number.
        TypeError: The scores are not floating, or the labels are not integers.

    Also known as:
        Weston-Watkins loss, multiclass support vector machine loss.
        `torch.nn.functional.multi_margin_loss(x, y, p=n, margin=m)`:
            `multi_margin_loss(x, y, p=n, margin=m)`
        `torch.nn.functional.multi_margin_loss(x, y, weight=c, reduction="sum")`:
            `multi_margin_loss(x, y, class_weights=c, reduction="sum")`,
            its mean divides by the number of labels, ours by the sum of their weights

    Example:
        >>> scores = jnp.array([[2.0, 1.5, -1.0], [2.0, 1.5, -1.0]])
        >>> print(jaxloss.multi_margin_loss(scores, jnp.array([0, 1]), reduction=None))
        [0.16666667 0.5 ]

    Reference:
        Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", 1999.
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p}.")
    scores, labels, loud = inputs.labelled_apart(where, logits=scores, labels=labels, name="scores")
    margin = inputs.option("margin", margin, scores, must_be="a number")
    c = class_options.per_class(class_weights, scores)
    mean = margins.mean_of_hinges if p == 1 else margins.mean_of_squared_hinges
    shares, counts = class_options.weighted_at(loud, labels, c)
    values = mean(scores, labels, margin, shares)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)


def multilabel_margin_loss(
    scores: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Hinge loss of several labels at once: each label leads each other class by 1.

        ℓ = Σᵢ labelsᵢ · Σⱼ (1 - labelsⱼ) · max(0, 1 + scoresⱼ - scoresᵢ) / classes

    A score of -inf is an absent class, which `classes` does not count. It looks at every pair
    of classes, and so takes time for their square.

    Args:
        scores: `[*units, classes]`, floating.
        labels: `[*units, classes]`, 1 for the classes that a unit has and 0 for the others.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per unit.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The scores are not floating.

    Also known as:
        Multi-label hinge loss.
        `torch.nn.functional.multilabel_margin_loss(x, indices)`: its labels are lists of class
            indices that end at -1, ours are `jax.nn.one_hot(indices, classes).max(-2)`

    Example:
        >>> scores, labels = jnp.array([[0.5, 0.0, -2.0, 1.0]]), jnp.array([[1, 0, 0, 1]])
        >>> print(jaxloss.multilabel_margin_loss(scores, labels))
        0.125

    Reference:
        Crammer and Singer, "A Family of Additive Online Algorithms for Category Ranking", 2003.
    """
    scores, labels = inputs.paired(where, features=1, scores=scores, labels=labels)
    checks.require_bits(labels)
    values = margins.hinges_of_pairs(scores, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def multilabel_soft_margin_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Binary cross entropy of several labels at once, averaged over the classes.

        ℓ = mean over the classes of class_weights·(-labels·log σ(logits)
            - (1 - labels)·log σ(-logits))

    It is `sigmoid_binary_cross_entropy` with a value for each unit instead of each label.

    Args:
        logits: `[*units, classes]`, floating; the log odds of each class.
        labels: `[*units, classes]`, 0 and 1, or probabilities.
        class_weights: `[classes]`, 0 or more; the mean over the classes divides by their number.
            May be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per unit.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The logits are not floating.

    Also known as:
        Multi-label binary cross entropy, multi-label one-versus-all loss.
        `torch.nn.functional.multilabel_soft_margin_loss(x, y, weight=c)`:
            `multilabel_soft_margin_loss(x, y, class_weights=c)`

    Example:
        >>> logits, labels = jnp.array([[0.0, 2.0]]), jnp.array([[1, 1]])
        >>> print(f"{jaxloss.multilabel_soft_margin_loss(logits, labels):.3f}")
        0.410

    Reference:
        Zhang and Zhou, "Multilabel Neural Networks with Applications to Functional Genomics and
        Text Categorization", 2006.
    """
    logits, labels = inputs.paired(where, features=1, logits=logits, labels=labels)
    inputs.require_probabilities(labels=labels)
    costs = kernels.logistic_loss(logits, labels)
    if class_weights is not None:
        c = inputs.option("class_weights", class_weights, logits, must_be="0 or more", entries=True)
        costs = c * costs
    values = jnp.mean(costs, axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def hinge_embedding_loss(
    distances: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Distance of what belongs together, and what the distance of others lacks of a margin.

        ℓ = distances where labels = 1,   max(0, margin - distances) where labels = -1

    Args:
        distances: `[*units]`, floating, such as `jnp.sum(abs(x - y), -1)`.
        labels: `[*units]`, 1 for a pair that belongs together and -1 for one that does not.
        margin: The distance that is enough; may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ, or the margin is not a number.
        TypeError: The distances are not floating, or the labels are boolean or unsigned.

    Also known as:
        Hinge embedding criterion.
        `torch.nn.functional.hinge_embedding_loss(d, y, margin=m)`:
            `hinge_embedding_loss(d, y, margin=m)`

    Example:
        >>> distances, labels = jnp.array([0.25, 0.25, 2.0]), jnp.array([1, -1, -1])
        >>> print(jaxloss.hinge_embedding_loss(distances, labels, reduction=None))
        [0.25 0.75 0. ]

    Reference:
        Mobahi, Collobert and Weston, "Deep Learning from Temporal Coherence in Video", 2009.
    """
    distances, signs = inputs.paired(where, fill={"labels": 1}, distances=distances, labels=labels)
    checks.require_signs(signs, labels)
    margin = inputs.option("margin", margin, distances, must_be="a number")
    apart = numerics.positive_part(margin - distances)
    values = numerics.blend((1 + signs) / 2, apart, distances)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def cosine_embedding_loss(
    x1: Float[ArrayLike, "*units features"],
    x2: Shaped[ArrayLike, "*units features"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cosine distance of what belongs together, and the cosine of others beyond a margin.

        s = x1·x2 / (‖x1‖·‖x2‖)
        ℓ = 1 - s where labels = 1,   max(0, s - margin) where labels = -1

    A vector of length 0 has no direction: its similarity is 0 and its gradient 0.

    Args:
        x1, x2: `[*units, features]`, floating.
        labels: `[*units]`, 1 for a pair that belongs together and -1 for one that does not.
        margin: The cosine that others may have; may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair.

    Raises:
        ValueError: The shapes do not fit, or the margin is not a number.
        TypeError: `x1` is not floating, or the labels are boolean or unsigned.

    Also known as:
        Cosine contrastive loss.
        `torch.nn.functional.cosine_embedding_loss(a, b, y, margin=m)`:
            `cosine_embedding_loss(a, b, y, margin=m)`, it adds 1e-12 to squared lengths

    Example:
        >>> x1, x2 = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [3.0, 4.0]])
        >>> print(jaxloss.cosine_embedding_loss(x1, x2, jnp.array([1, -1]), reduction=None))
        [1. 0.6]

    Reference:
        Yih et al., "Learning Discriminative Projections for Text Similarity Measures", 2011.
    """
    x1, x2 = inputs.paired(where, features=1, fill={"x1": 1, "x2": 1}, x1=x1, x2=x2)
    signs = inputs.one_per_unit(where, "labels", labels, "x1", x1, fill=1)
    checks.require_signs(signs, labels)
    margin = inputs.option("margin", margin, x1, must_be="a number")
    s = vectors.cosine(x1, x2)
    values = numerics.blend((1 + signs) / 2, numerics.positive_part(s - margin), 1 - s)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def _signed(where: ArrayLike | None, scores: ArrayLike, labels: ArrayLike) -> list[Array]:
    """Scores, and labels that are -1 and 1."""
    scores, signs = inputs.elementwise(where, fill={"labels": 1}, scores=scores, labels=labels)
    checks.require_signs(signs, labels)
    return [scores, signs]


def _behind(scores: Array, labels: Array, loud: Array) -> Array:
    """Score of the best other class, -∞ if there is none, minus the label's."""
    top = over_classes.largest(jnp.where(over_classes.hit(scores, labels), -jnp.inf, scores))
    alone = top.astype(labels.dtype) == labels
    best = jnp.where(alone, -jnp.inf, over_classes.at(scores, top))
    return best - class_options.own_of(scores, labels, loud)
