"""Multiclass classification: the unit is a label, one of the classes or a distribution of them."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import checks, class_options, inputs, kernels, numerics, over_classes, sparsemax
from jaxloss.core.reductions import R, Reduction, reduce


def softmax_cross_entropy(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    z_loss: Float[ArrayLike, ""] | int = 0.0,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of a softmax against distributions.

        x = logit_softcap·tanh(logits / logit_softcap)
        q = (1 - label_smoothing)·labels + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + Σ class_weights·labels · z_loss·(log Σ exp x)²

    A logit of -inf is an absent class: it takes part in nothing, smoothing included. A label on
    an absent class costs +inf, and a row without any class is NaN: delete it with `where`.

    Args:
        logits: `[*units, classes]`, floating.
        labels: `[*units, classes]`, rows that sum to 1.
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        class_weights: `[classes]`, 0 or more, how often a label of each class counts; a mean
            divides by Σ weights·(Σ class_weights·labels). May be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or an option is outside its range.
        TypeError: The logits are not floating.

    Also known as:
        Categorical cross entropy, multinomial logistic loss, soft-target cross entropy.
        `optax.losses.softmax_cross_entropy(x, q).mean()`: `softmax_cross_entropy(x, q)`
        `optax.losses.safe_softmax_cross_entropy(x, q).mean()`: `softmax_cross_entropy(x, q)`
        `torch.nn.functional.cross_entropy(x, q, label_smoothing=s)`:
            `softmax_cross_entropy(x, q, label_smoothing=s)`, classes last, not second
        `keras.losses.categorical_crossentropy(q, x, from_logits=True, label_smoothing=s)`:
            `softmax_cross_entropy(x, q, label_smoothing=s, reduction=None)`

    Example:
        >>> logits, labels = jnp.array([[2.0, 0.0]]), jnp.array([[0.5, 0.5]])
        >>> print(f"{jaxloss.softmax_cross_entropy(logits, labels):.3f}")
        1.127

    Reference:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs",
        1990. Softcap: Gemma Team, "Gemma 2", 2024, arXiv:2408.00118.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    x, c = (
        class_options.capped(logits, logit_softcap),
        class_options.per_class(class_weights, logits),
    )
    counts = None if c is None else jnp.sum(c * labels, axis=-1)
    values = over_classes.cross_entropy(x, labels if c is None else c * labels)
    values = class_options.with_options(values, x, c, counts, label_smoothing, z_loss)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)


def softmax_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    z_loss: Float[ArrayLike, ""] | int = 0.0,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of a softmax against class indices.

        x = logit_softcap·tanh(logits / logit_softcap)
        q = (1 - label_smoothing)·[class = labels] + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + class_weights[labels]·z_loss·(log Σ exp x)²

    A confident row keeps its digits: at a margin of 20 the loss is 2.06e-9, where the usual form
    rounds to 0. A logit of -inf is an absent class, in which smoothing has no share. A label out
    of range is NaN, in value and gradient; ignore labels with `where=labels != -100`.

    Args:
        logits: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes).
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        class_weights: `[classes]`, 0 or more, how often a label of each class counts: the same
            as `weights=class_weights[labels]`, but for smoothing. May be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: The logits are not floating, or the labels are not integers.

    Also known as:
        Sparse categorical cross entropy, next-token loss.
        `optax.losses.softmax_cross_entropy_with_integer_labels(x, y).mean()`:
            `softmax_cross_entropy_with_integer_labels(x, y)`
        `torch.nn.functional.cross_entropy(x, y, ignore_index=-100)`:
            `softmax_cross_entropy_with_integer_labels(x, y, where=y != -100)`, classes last
        `torch.nn.functional.cross_entropy(x, y, weight=c, label_smoothing=s)`:
            `softmax_cross_entropy_with_integer_labels(x, y, class_weights=c, label_smoothing=s)`
        `keras.losses.sparse_categorical_crossentropy(y, x, from_logits=True)`:
            `softmax_cross_entropy_with_integer_labels(x, y, reduction=None)`

    Example:
        >>> logits, labels = jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
        >>> loss = jaxloss.softmax_cross_entropy_with_integer_labels
        >>> print(loss(logits, labels, reduction=None).round(3))
        [0.127 0.693]

    Reference:
        Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs",
        1990. Penalty: Chowdhery et al., "PaLM", 2022, arXiv:2204.02311.
    """
    logits, labels, loud = inputs.labelled_apart(where, logits=logits, labels=labels, halves=True)
    inputs.warn_of_probabilities(logits, where)
    x = class_options.capped(logits, logit_softcap)
    values, counts = class_options.cost_of_labels(x, labels, class_weights, label_smoothing, z_loss)
    return reduce(loud * values, counts=counts, where=where, weights=weights, reduction=reduction)


def categorical_cross_entropy(
    probabilities: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of probabilities against distributions.

        ℓ = -Σ labels·log probabilities

    Where a model ends in a softmax, drop it and use `softmax_cross_entropy`. Nothing is clipped
    or normalised: what was held impossible and happens costs +inf.

    Args:
        probabilities: `[*units, classes]`, floating, rows that sum to 1.
        labels: `[*units, classes]`, one-hot rows or distributions.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The probabilities are not floating.

    Also known as:
        Multiclass log loss, logarithmic score.
        `keras.losses.categorical_crossentropy(q, p)`:
            `categorical_cross_entropy(p, q, reduction=None)`,
            it divides rows by their sum and clips at 1e-7

    Example:
        >>> probabilities = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
        >>> labels = jnp.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
        >>> print(jaxloss.categorical_cross_entropy(probabilities, labels, reduction=None))
        [0.6931472 inf]

    Reference:
        Good, "Rational Decisions", 1952.
    """
    p, y = inputs.paired(where, features=1, probabilities=probabilities, labels=labels)
    inputs.require_probabilities(probabilities=p, labels=y)
    values = -jnp.sum(numerics.xlogy(y, p), axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def nll_loss(
    log_probs: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Negative log likelihood: minus the log probability of the label.

        ℓ = -class_weights[labels]·log_probs[labels]

    For a model whose output is normalised already; from logits,
    `softmax_cross_entropy_with_integer_labels` is more accurate. A label out of range is NaN, in
    value and gradient.

    Args:
        log_probs: `[*units, classes]`, floating, logarithms of probabilities.
        labels: `[*units]`, integers in [0, classes).
        class_weights: `[classes]`, 0 or more, how often a label of each class counts: the same
            as `weights=class_weights[labels]`. May be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The log probabilities are not floating, or the labels are not integers.

    Also known as:
        Surprisal, logarithmic score.
        `torch.nn.functional.nll_loss(log_p, y, weight=c)`: `nll_loss(log_p, y, class_weights=c)`,
            classes last, not second

    Example:
        >>> log_probs = jnp.log(jnp.array([[0.25, 0.75], [1.0, 0.0]]))
        >>> print(f"{jaxloss.nll_loss(log_probs, jnp.array([0, 0])):.3f}")
        0.693

    Reference:
        Fisher, "On the Mathematical Foundations of Theoretical Statistics", 1922.
    """
    log_probs, labels, loud = inputs.labelled_apart(
        where, logits=log_probs, labels=labels, name="log_probs"
    )
    checks.require(
        lambda log_p: log_p <= 0, "log_probs", log_probs, "a log probability is 0 or less"
    )
    c = class_options.per_class(class_weights, log_probs)
    costs = -class_options.own_of(log_probs, labels, loud)
    values, counts = class_options.weighted_at(costs, labels, c)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)


def poly_loss_cross_entropy(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    epsilon: Float[ArrayLike, ""] | int = 2.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy with another coefficient for its first polynomial term.

        p = softmax(logits)
        ℓ = -Σ labels·log p + epsilon·Σ labels·(1 - p)

    Log p is a series in 1 - p whose first coefficient is 1: here it is 1 + epsilon. Positive
    values sharpen predictions (image classification: 2), negative ones soften them (detection:
    -1).

    Args:
        logits: `[*units, classes]`, floating; -inf for an absent class.
        labels: `[*units, classes]`, rows that sum to 1.
        epsilon: What is added to the first coefficient; may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The logits are not floating.

    Also known as:
        Poly-1 loss.
        `optax.losses.poly_loss_cross_entropy(x, q, epsilon=e).mean()`:
            `poly_loss_cross_entropy(x, q, epsilon=e)`

    Example:
        >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
        >>> print(f"{jaxloss.poly_loss_cross_entropy(logits, labels):.3f}")
        1.693

    Reference:
        Leng et al., "PolyLoss", 2022, arXiv:2204.12511.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    epsilon = inputs.option("epsilon", epsilon, logits, must_be="a number")
    misses = over_classes.misses(logits, labels)
    values = over_classes.cross_entropy(logits, labels) + epsilon * misses
    return reduce(values, where=where, weights=weights, reduction=reduction)


def generalized_cross_entropy(
    probabilities: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    q: Float[ArrayLike, ""] | int = 0.7,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Generalized cross entropy: between cross entropy and mean absolute error.

        p = probabilities[labels]
        ℓ = (1 - p ** q) / q      at q = 0: -log p

    A wrong label costs at most 1 / q, so that noisy labels do less harm: `q = 0` is cross entropy,
    which learns fastest, and `q = 1` is the absolute error 1 - p, which tolerates most.

    Args:
        probabilities: `[*units, classes]`, floating, rows that sum to 1.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        q: In [0, 1], may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, or `q` is outside [0, 1].
        TypeError: The probabilities are not floating, or the labels are not integers.

    Also known as:
        GCE, Lq loss.
        `keras.losses.categorical_generalized_cross_entropy(y, p, q=g)`:
            `generalized_cross_entropy(p, y, q=g, reduction=None)`, its class starts from q = 0.5

    Example:
        >>> p, labels = jnp.array([[0.25, 0.75], [1.0, 0.0]]), jnp.array([0, 1])
        >>> print(jaxloss.generalized_cross_entropy(p, labels, q=0.5, reduction=None))
        [1. 2.]

    Reference:
        Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
        Noisy Labels", 2018, arXiv:1805.07836.
    """
    p, labels, loud = inputs.labelled_apart(
        where, logits=probabilities, labels=labels, name="probabilities", fill=1, absent=0
    )
    inputs.require_probabilities(probabilities=p)
    q = inputs.option("q", q, p, must_be="in [0, 1]")
    values = -kernels.box_cox(class_options.own_of(p, labels, loud), q)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def multiclass_sparsemax_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Sparsemax loss: the cross entropy of a softmax that gives most classes no share at all.

        p = max(0, logits - τ) with τ such that Σ p = 1
        ℓ = ½·‖p - e‖² + max(0, τ - logits[labels])      e: 1 at the label, 0 elsewhere

    The gradient is p - e, and the loss is exactly 0 where the label leads every class by 1. A
    logit of -inf is an absent class. A label out of range is NaN, in value and gradient.

    Args:
        logits: `[*units, classes]`, floating.
        labels: `[*units]`, integers in [0, classes).
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The logits are not floating, or the labels are not integers.

    Also known as:
        Fenchel-Young loss of the Gini entropy, multiclass modified Huber loss.
        `optax.losses.multiclass_sparsemax_loss(x, y).mean()`: `multiclass_sparsemax_loss(x, y)`

    Example:
        >>> logits, labels = jnp.array([[0.5, 0.0, -1.0], [2.0, 0.0, -1.0]]), jnp.array([1, 0])
        >>> print(jaxloss.multiclass_sparsemax_loss(logits, labels, reduction=None))
        [0.5625 0. ]

    Reference:
        Martins and Astudillo, "From Softmax to Sparsemax: A Sparse Model of Attention and
        Multi-Label Classification", 2016, arXiv:1602.02068.
    """
    logits, labels, loud = inputs.labelled_apart(where, logits=logits, labels=labels)
    values = loud * sparsemax.sparsemax_loss_at(logits, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)
