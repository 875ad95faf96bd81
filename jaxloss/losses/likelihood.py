"""Likelihood: the unit is an element of the predictions."""

from __future__ import annotations

import math

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, kernels, numerics
from jaxloss.core.reductions import R, Reduction, reduce


def gaussian_nll_loss(
    means: Float[ArrayLike, "*units"],
    variances: Shaped[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Negative log-likelihood of a normal distribution whose variance is predicted too.

        e = means - targets
        ℓ = (log variances + e² / variances) / 2      with `full` also + log(2π) / 2

    For regression that says how sure it is. No epsilon keeps the variance from 0: it belongs to
    the model, as in `jnp.exp(log_variances)`, and a variance of 0 or less gives NaN.

    Args:
        means: `[*units]`, floating.
        variances: `[*units]`, positive.
        targets: `[*units]`, in the unit of the means.
        full: Whether to add the constant, so that the loss is a log-density.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The means are not floating.

    Also known as:
        Gaussian likelihood, heteroscedastic regression, mean-variance estimation.
        `torch.nn.functional.gaussian_nll_loss(m, t, v)`: `gaussian_nll_loss(m, v, t)`,
            without the floor on `v`
        `torch.nn.functional.gaussian_nll_loss(m, t, v, full=True)`:
            `gaussian_nll_loss(m, v, t, full=True)`

    Example:
        >>> means, variances, targets = jnp.array([1.0]), jnp.array([1.0]), jnp.array([3.0])
        >>> print(jaxloss.gaussian_nll_loss(means, variances, targets))
        2.0

    Reference:
        Nix and Weigend, "Estimating the mean and variance of the target probability
        distribution", 1994.
    """
    means, variances, targets = inputs.elementwise(
        where, fill={"variances": 1}, means=means, variances=variances, targets=targets
    )
    checks.require(inputs.RANGES["positive"], "variances", variances, "it must be positive")
    values = kernels.gaussian_nll(means, variances, targets)
    if full:
        values = values + math.log(2 * math.pi) / 2
    return reduce(values, where=where, weights=weights, reduction=reduction)


def poisson_nll_loss(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    log_input: bool = True,
    full: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Negative log-likelihood of a Poisson distribution.

        ℓ = exp(predictions) - targets·predictions      the predictions are log rates
        ℓ = predictions - targets·log(predictions)      with `log_input=False`: they are rates
                                                        with `full` also + log(targets!)

    For counts. A log rate can be any number and is what a model should put out. A rate of 0 (a
    log rate of -∞) is right for a count of 0, with loss 0, and infinitely wrong for any other.

    Args:
        predictions: `[*units]`, floating: log rates, or rates of 0 or more.
        targets: `[*units]`, counts, 0 or more.
        log_input: Whether the predictions are log rates.
        full: Whether to add log(targets!), so that the loss is a log-probability.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Poisson regression, Poisson deviance (half of it, up to what the targets fix).
        `torch.nn.functional.poisson_nll_loss(p, t)`: `poisson_nll_loss(p, t)`,
            its `full` is Stirling's approximation
        `keras.losses.poisson(t, p)`: `poisson_nll_loss(p, t, log_input=False)`,
            it adds an epsilon to the rate

    Example:
        >>> print(jaxloss.poisson_nll_loss(jnp.array([0.0]), jnp.array([3])))
        1.0

    Reference:
        Nelder and Wedderburn, "Generalized Linear Models", 1972.
    """
    paired = inputs.paired if full else inputs.elementwise
    predictions, targets = paired(where, predictions=predictions, targets=targets)
    checks.require(inputs.RANGES["0 or more"], "targets", targets, "a count is 0 or more")
    if log_input:
        values = kernels.poisson_nll(predictions, targets)
    else:
        values = kernels.poisson_nll_of_rate(predictions, targets)
    if full:
        values = values + numerics.log_factorial(targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)
