"""Divergence: the unit is a distribution over the classes of the last axis."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, kernels, numerics
from jaxloss.core.reductions import R, Reduction, reduce


def kl_divergence(
    log_probs: Float[ArrayLike, "*units classes"],
    targets: Shaped[ArrayLike, "*units classes"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Kullback-Leibler divergence KL(targets ‖ predictions), of distributions.

        ℓ = Σ targets·(log targets - log_probs)      0·log 0 = 0

    It is the cross entropy less the entropy of the target: what it costs to believe the
    prediction where the target is true. A class with target 0 costs 0 even if its log_prob is
    -∞; a class with a target that the prediction rules out costs +∞.

    Args:
        log_probs: `[*units, classes]`, floating, as `jax.nn.log_softmax` gives them.
        targets: `[*units, classes]`, probabilities.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The log_probs are not floating.

    Also known as:
        Relative entropy, KL(targets ‖ predictions), forward KL, information gain.
        `optax.losses.kl_divergence(log_p, q).mean()`: `kl_divergence(log_p, q)`
        `torch.nn.functional.kl_div(log_p, q, reduction="batchmean")`: `kl_divergence(log_p, q)`,
            its "mean" counts every class
        `keras.losses.kl_divergence(q, jnp.exp(log_p))`: `kl_divergence(log_p, q, reduction=None)`,
            it clips at 1e-7
        `scipy.special.rel_entr(q, np.exp(log_p)).sum(-1).mean()`: `kl_divergence(log_p, q)`

    Example:
        >>> log_probs, targets = jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0])
        >>> print(f"{jaxloss.kl_divergence(log_probs, targets):.4f}")
        0.6931

    Reference:
        Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    log_probs, targets = inputs.paired(where, features=1, log_probs=log_probs, targets=targets)
    checks.require(inputs.RANGES["in [0, 1]"], "targets", targets, "it must be in [0, 1]")
    values = jnp.sum(kernels.relative_entropy(log_probs, targets), axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def kl_divergence_with_log_targets(
    log_probs: Float[ArrayLike, "*units classes"],
    log_targets: Shaped[ArrayLike, "*units classes"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Kullback-Leibler divergence KL(targets ‖ predictions), of targets given as logarithms.

        ℓ = Σ exp(log_targets)·(log_targets - log_probs)      exp(-∞)·(-∞) = 0

    For the log-probabilities of a teacher, which lose nothing to underflow. A log-target of -∞
    contributes 0 to the value and to every gradient.

    Args:
        log_probs: `[*units, classes]`, floating, as `jax.nn.log_softmax` gives them.
        log_targets: `[*units, classes]`, log-probabilities.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per distribution.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The log_probs are not floating.

    Also known as:
        Relative entropy, KL(targets ‖ predictions), distillation loss.
        `optax.losses.kl_divergence_with_log_targets(log_p, log_q).mean()`:
            `kl_divergence_with_log_targets(log_p, log_q)`
        `torch.nn.functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)`:
            `kl_divergence_with_log_targets(log_p, log_q)`

    Example:
        >>> log_probs, log_targets = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
        >>> print(f"{jaxloss.kl_divergence_with_log_targets(log_probs, log_targets):.4f}")
        0.6931

    Reference:
        Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    log_probs, log_targets = inputs.paired(
        where, features=1, log_probs=log_probs, log_targets=log_targets
    )
    gap = jnp.where(jnp.isneginf(log_targets), 0, log_targets - log_probs)
    root = jnp.exp(log_targets / 2)  # does not underflow where a gap makes up for it
    values = jnp.sum(root * numerics.xtimes(root, gap), axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def generalized_kl_divergence(
    log_probs: Float[ArrayLike, "*units classes"],
    targets: Shaped[ArrayLike, "*units classes"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Kullback-Leibler divergence of positive quantities that need not sum to one.

        ℓ = Σ targets·(log targets - log_probs) - targets + exp(log_probs)

    Each class is 0 or more, and 0 only where prediction and target agree, so it compares
    intensities, spectra and counts as well as distributions.

    Args:
        log_probs: `[*units, classes]`, floating, logarithms of the predicted quantities.
        targets: `[*units, classes]`, 0 or more.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per vector of quantities.

    Raises:
        ValueError: The shapes differ, or there is no class axis.
        TypeError: The log_probs are not floating.

    Also known as:
        I-divergence, Csiszár's divergence, the Bregman divergence of x·log x.
        `optax.losses.generalized_kl_divergence(log_p, q).mean()`:
            `generalized_kl_divergence(log_p, q)`

    Example:
        >>> log_probs, targets = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
        >>> print(jaxloss.generalized_kl_divergence(log_probs, targets))
        1.0

    Reference:
        Csiszár, "Why Least Squares and Maximum Entropy?", 1991.
    """
    log_probs, targets = inputs.paired(where, features=1, log_probs=log_probs, targets=targets)
    checks.require(inputs.RANGES["0 or more"], "targets", targets, "a quantity is 0 or more")
    entropy = numerics.xlogy(targets, targets) - numerics.xtimes(targets, log_probs)
    values = jnp.sum(entropy + (jnp.exp(log_probs) - targets), axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def js_divergence(
    log_probs: Float[ArrayLike, "*units classes"],
    log_targets: Shaped[ArrayLike, "*units classes"],
    *,
    beta: Float[ArrayLike, ""] = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Jensen-Shannon divergence: how far prediction and target are from their mixture.

        p = exp(log_probs),  q = exp(log_targets),  m = beta·q + (1 - beta)·p
        ℓ = Σ beta·q·log(q / m) + (1 - beta)·p·log(p / m)

    It is bounded, by log 2 for `beta` 1/2, and finite where either distribution is 0. For
    `beta` towards 0 it is beta·KL(q ‖ p), towards 1 (1 - beta)·KL(p ‖ q).

    Args:
        log_probs: `[*units, classes]`, floating, as `jax.nn.log_softmax` gives them.
        log_targets: `[*units, classes]`, log-probabilities.
        beta: The share of the target in the mixture, in (0, 1); may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair of distributions.

    Raises:
        ValueError: The shapes differ, there is no class axis, or `beta` is outside (0, 1).
        TypeError: The log_probs are not floating.

    Also known as:
        JSD, information radius, generalized Jensen-Shannon divergence.
        `scipy.spatial.distance.jensenshannon(np.exp(log_p), np.exp(log_q), axis=-1) ** 2`:
            `js_divergence(log_p, log_q, reduction=None)`
        `liger_kernel.transformers.LigerJSD`: at `beta` 0 and 1 it switches to a KL divergence

    Example:
        >>> log_probs, log_targets = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> print(f"{jaxloss.js_divergence(log_probs, log_targets):.4f}")
        0.6931

    Reference:
        Lin, "Divergence Measures Based on the Shannon Entropy", 1991.
    """
    log_probs, log_targets = inputs.paired(
        where, features=1, log_probs=log_probs, log_targets=log_targets
    )
    beta = inputs.option("beta", beta, log_probs, must_be="in (0, 1)")
    terms = kernels.divergence_from_mixture(log_probs, log_targets, beta)
    values = jnp.sum(terms, axis=-1)
    return reduce(values, where=where, weights=weights, reduction=reduction)
