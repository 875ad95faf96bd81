"""Imbalanced classes: the unit is a label."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import inputs, kernels, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce


def sigmoid_focal_loss(
    logits: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    alpha: Float[ArrayLike, "..."] | int | None = None,
    gamma: Float[ArrayLike, ""] | int = 2.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Binary cross entropy that all but ignores the labels it already gets right.

        p = σ(logits)
        m = labels·(1 - p) + (1 - labels)·p
        a = labels·alpha + (1 - labels)·(1 - alpha)
        ℓ = a·m^gamma·(-labels·log p - (1 - labels)·log(1 - p))

    For detectors, where easy background outnumbers everything else. `gamma = 0` is the cross
    entropy. The gradient is alive however wrong or right a logit is.

    Args:
        logits: `[*units]`, floating; the log odds of yes.
        labels: `[*units]`, 0 and 1, or probabilities of yes.
        alpha: How much a yes counts, and 1 - alpha a no; in [0, 1], one number or one per entry
            of the last axis, may be traced. None counts both fully; the paper's detector has
            0.25.
        gamma: How fast the weight of a label falls with its probability; 0 or more, may be
            traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ, or an option is outside its range.
        TypeError: The logits are not floating.

    Also known as:
        Focal loss, binary focal cross entropy, RetinaNet loss.
        `optax.losses.sigmoid_focal_loss(x, y, alpha=a, gamma=g).mean()`:
            `sigmoid_focal_loss(x, y, alpha=a, gamma=g)`
        `keras.losses.binary_focal_crossentropy(y, x, from_logits=True, gamma=g)`:
            `sigmoid_focal_loss(x, y, gamma=g)`, it clips at 1e-7

    Example:
        >>> logits, labels = jnp.array([0.0, 50.0, -50.0]), jnp.array([1, 1, 1])
        >>> values = jaxloss.sigmoid_focal_loss(logits, labels, gamma=0.5, reduction=None)
        >>> print([f"{value:.3g}" for value in values])
        ['0.49', '2.68e-33', '50']

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002.
    """
    x, y = inputs.paired(where, logits=logits, labels=labels)
    inputs.require_probabilities(labels=y)
    gamma = inputs.option("gamma", gamma, x, must_be="0 or more")
    values = kernels.sigmoid_focal(x, y, gamma)
    if alpha is not None:
        alpha = inputs.option("alpha", alpha, x, must_be="in [0, 1]", entries=True)
        values = numerics.xtimes(alpha * y + (1 - alpha) * (1 - y), values)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def softmax_focal_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    alpha: Float[ArrayLike, "..."] | int | None = None,
    gamma: Float[ArrayLike, ""] | int = 2.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of a softmax that all but ignores the labels it already gets right.

        p = softmax(logits)
        ℓ = -Σ alpha·labels·(1 - p)^gamma·log p

    `gamma = 0` is the cross entropy. The gradient is alive however wrong or right a row is.

    Args:
        logits: `[*units, classes]`, floating; -inf for an absent class.
        labels: `[*units, classes]`, one-hot rows or distributions.
        alpha: How much each class counts; 0 or more, one number or `[classes]`, may be traced.
            It scales the loss and no denominator.
        gamma: How fast the weight of a label falls with its probability; 0 or more, may be
            traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or an option is outside its range.
        TypeError: The logits are not floating.

    Also known as:
        Multiclass focal loss, categorical focal cross entropy.
        `keras.losses.categorical_focal_crossentropy(q, x, alpha=a, gamma=g, from_logits=True)`:
            `softmax_focal_loss(x, q, alpha=a, gamma=g, reduction=None)`,
            for one-hot `q`; it clips at 1e-7

    Example:
        >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
        >>> print(f"{jaxloss.softmax_focal_loss(logits, labels):.4f}")
        0.1733

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    gamma = inputs.option("gamma", gamma, logits, must_be="0 or more")
    if alpha is not None:
        alpha = inputs.option("alpha", alpha, logits, must_be="0 or more", entries=True)
        labels = alpha * labels
    misses, losses = over_classes.complement_of_softmax(logits), -over_classes.log_softmax(logits)
    values = jnp.sum(numerics.xtimes(labels, kernels.focal(misses, losses, gamma)), axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)
