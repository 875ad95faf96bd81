"""Binary classification: the unit is a label, of which there may be several to an example."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, kernels, margins, numerics
from jaxloss.core.reductions import R, Reduction, reduce


def sigmoid_binary_cross_entropy(
    logits: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    pos_weight: Float[ArrayLike, "..."] | int = 1.0,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of independent yes-or-no labels.

        y = (1 - label_smoothing)·labels + label_smoothing / 2
        ℓ = -pos_weight·y·log σ(logits) - (1 - y)·log σ(-logits)

    For labels that do not exclude each other: an example has one logit for each of them.

    Args:
        logits: `[*units]`, floating; the log odds of yes.
        labels: `[*units]`, 0 and 1, or probabilities of yes.
        pos_weight: How much a yes counts; 0 or more, one number or one per entry of the last
            axis. May be traced.
        label_smoothing: The share of a label that is spread over yes and no; in [0, 1], may be
            traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ, or an option is outside its range.
        TypeError: The logits are not floating.

    Also known as:
        BCE with logits, logistic loss, log loss, multi-label cross entropy.
        `optax.losses.sigmoid_binary_cross_entropy(x, y).mean()`:
            `sigmoid_binary_cross_entropy(x, y)`
        `torch.nn.functional.binary_cross_entropy_with_logits(x, y, pos_weight=c)`:
            `sigmoid_binary_cross_entropy(x, y, pos_weight=c)`
        `keras.losses.binary_crossentropy(y, x, from_logits=True, label_smoothing=s)`:
            `sigmoid_binary_cross_entropy(x, y, label_smoothing=s)`, a mean over the last axis

    Example:
        >>> loss = jaxloss.sigmoid_binary_cross_entropy
        >>> values = loss(jnp.array([0.0, 40.0]), jnp.array([1, 1]), reduction=None)
        >>> print([f"{value:.3g}" for value in values])
        ['0.693', '4.25e-18']

    Reference:
        Cox, "The Regression Analysis of Binary Sequences", 1958.
    """
    plain = isinstance(pos_weight, int | float) and pos_weight == 1
    smooth = inputs.given(label_smoothing)
    paired = inputs.elementwise if plain and not smooth else inputs.paired
    x, y = paired(where, logits=logits, labels=labels)
    inputs.require_probabilities(labels=y)
    p = inputs.option("pos_weight", pos_weight, x, must_be="0 or more", entries=True)
    smoothing = inputs.option("label_smoothing", label_smoothing, x, must_be="in [0, 1]")

    def against(y: Array) -> Array:
        if plain:
            return kernels.logistic_loss(x, y)
        yes, no = numerics.softplus(-x), numerics.softplus(x)
        return numerics.xtimes(p * y, yes) + numerics.xtimes(1 - y, no)

    values = against(y)
    if smooth:
        values = numerics.blend(smoothing, values, against(jnp.full_like(y, 0.5)))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def binary_cross_entropy(
    probabilities: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of probabilities of yes against yes-or-no labels.

        ℓ = -labels·log probabilities - (1 - labels)·log(1 - probabilities)

    Where a model ends in a sigmoid, drop it and use `sigmoid_binary_cross_entropy`: a float32
    probability cannot come nearer to 1 than 6e-8. No epsilon is added: what was held impossible
    and happens costs +inf, and what was held certain and happens costs 0.

    Args:
        probabilities: `[*units]`, floating, in [0, 1].
        labels: `[*units]`, 0 and 1, or probabilities of yes.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The probabilities are not floating.

    Also known as:
        BCE, log loss, logarithmic score.
        `torch.nn.functional.binary_cross_entropy(p, y)`: `binary_cross_entropy(p, y)`,
            where a term is under its limit of 100
        `keras.losses.binary_crossentropy(y, p)`: `binary_cross_entropy(p, y)`, it clips at 1e-7

    Example:
        >>> probabilities, labels = jnp.array([0.25, 0.0]), jnp.array([1, 1])
        >>> print(jaxloss.binary_cross_entropy(probabilities, labels, reduction=None).round(3))
        [1.386 inf]

    Reference:
        Good, "Rational Decisions", 1952.
    """
    p, y = inputs.elementwise(where, probabilities=probabilities, labels=labels)
    inputs.require_probabilities(probabilities=p, labels=y)
    values = kernels.binary_cross_entropy(p, y)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def sparsemax_loss(
    logits: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Binary sparsemax loss: 0 beyond a margin of 1, a parabola within it, then a line.

        x = (1 - 2·labels)·logits
        ℓ = 0 where x ≤ -1,   (x + 1)² / 4 where -1 < x < 1,   x where x ≥ 1

    The probability that belongs to it, min(max((logits + 1) / 2, 0), 1), reaches 0 and 1.

    Args:
        logits: `[*units]`, floating.
        labels: `[*units]`, 0 and 1; not probabilities between.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes differ.
        TypeError: The logits are not floating.

    Also known as:
        Modified Huber loss (scaled), sparse plus.
        `optax.losses.sparsemax_loss(x, y).mean()`: `sparsemax_loss(x, y)`

    Example:
        >>> logits, labels = jnp.array([0.0, 2.0, 2.0]), jnp.array([1, 1, 0])
        >>> print(jaxloss.sparsemax_loss(logits, labels, reduction=None))
        [0.25 0. 2. ]

    Reference:
        Blondel, Martins and Niculae, "Learning with Fenchel-Young Losses", 2020,
        arXiv:1901.02324.
    """
    logits, labels = inputs.elementwise(where, logits=logits, labels=labels)
    checks.require_bits(labels)
    values = margins.sparse_margin(logits, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)
