"""Regression: the unit is an element of the predictions (of the cosines: a vector)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, kernels, numerics, vectors
from jaxloss.core.reductions import (
    MeanReduction,
    R,
    Reduction,
    defer,
    reduce,
    require_multiplicities,
)
from jaxloss.core.statistics import Mean


def squared_error(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Squared error.

        ℓ = (predictions - targets)²

    Its mean is least where the predictions are the conditional means of the targets.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Mean squared error, MSE, L2, quadratic loss, Brier score.
        `optax.losses.squared_error(p, t).mean()`: `squared_error(p, t)`
        `torch.nn.functional.mse_loss(p, t)`: `squared_error(p, t)`
        `torch.nn.functional.mse_loss(p, t, reduction="sum")`:
            `squared_error(p, t, reduction="sum")`
        `keras.losses.mean_squared_error(t, p)`: `squared_error(p, t)`, a mean over the last axis
        `sklearn.metrics.mean_squared_error(t, p)`: `squared_error(p, t)`

    Example:
        >>> print(jaxloss.squared_error(jnp.array([1.0, 4.0]), jnp.array([0.0, 1.0])))
        5.0

    Reference:
        Gauss, "Theoria Motus", 1809.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    values = kernels.squared_error(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def l2_loss(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Half the squared error, whose gradient is the error.

        ℓ = (predictions - targets)² / 2

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Half squared error.
        `optax.losses.l2_loss(p, t).mean()`: `l2_loss(p, t)`

    Example:
        >>> print(jaxloss.l2_loss(jnp.array([1.0, 4.0]), jnp.array([0.0, 1.0])))
        2.5

    Reference:
        Bishop, "Pattern Recognition and Machine Learning", 2006, section 1.1.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    values = kernels.half_squared_error(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def absolute_error(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Absolute error.

        ℓ = |predictions - targets|

    Its mean is least where the predictions are the conditional medians of the targets, so an
    outlier counts by its sign and not by its size. The gradient at an error of 0 is 0.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Mean absolute error, MAE, L1.
        `torch.nn.functional.l1_loss(p, t)`: `absolute_error(p, t)`
        `keras.losses.mean_absolute_error(t, p)`: `absolute_error(p, t)`, a mean over the last axis
        `sklearn.metrics.mean_absolute_error(t, p)`: `absolute_error(p, t)`

    Example:
        >>> print(jaxloss.absolute_error(jnp.array([1.0, 4.0]), jnp.array([0.0, 1.0])))
        2.0

    Reference:
        Boscovich, "De litteraria expeditione", 1757.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    values = kernels.absolute_error(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def root_mean_squared_error(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: MeanReduction[R] = "mean",
) -> R:
    """Root of the mean squared error, in the unit of the targets.

        ℓ = √(Σ weights·(predictions - targets)² / Σ weights)

    It is a formula of sums over the batch: parts of a batch merge by `jaxloss.stats`, and the
    mean of the parts' roots is another number. The gradient at a mean of 0 is 0.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        where, weights: See `jaxloss.core.reductions`.
        reduction: `"mean"` or `jaxloss.stats`.

    Returns:
        The loss; an element has no value of its own.

    Raises:
        ValueError: The shapes differ, or the reduction is another one.
        TypeError: The predictions are not floating.

    Also known as:
        RMSE, root mean square error.
        `sklearn.metrics.root_mean_squared_error(t, p)`: `root_mean_squared_error(p, t)`

    Example:
        >>> predictions, targets = jnp.array([3.0, 4.0]), jnp.zeros(2)
        >>> print(f"{jaxloss.root_mean_squared_error(predictions, targets):.4f}")
        3.5355

    Reference:
        Chai and Draxler, "Root mean square error (RMSE) or mean absolute error (MAE)?", 2014.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    mean = Mean.of(kernels.squared_error(predictions, targets), where, weights)
    require_multiplicities(predictions.shape, where, weights)
    return defer(mean, _root, reduction=reduction, name="root_mean_squared_error")


def _root(mean: Mean) -> Array:
    return numerics.safe_sqrt(mean.value())


def huber_loss(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    delta: Float[ArrayLike, ""] | int = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Huber loss: quadratic near the target, linear beyond `delta`.

        e = |predictions - targets|,  c = min(e, delta)
        ℓ = c·(e - c/2)               which is e²/2 where e ≤ delta

    It behaves like the squared error for ordinary units and like the absolute error for
    outliers. Written with c it is exact where delta·(e - delta/2) would round or overflow.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        delta: The error at which the loss turns linear; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ, or `delta` is not positive.
        TypeError: The predictions are not floating.

    Also known as:
        Robust loss.
        `optax.losses.huber_loss(p, t).mean()`: `huber_loss(p, t)`
        `torch.nn.functional.huber_loss(p, t, delta=d)`: `huber_loss(p, t, delta=d)`
        `keras.losses.huber(t, p, delta=d)`: `huber_loss(p, t, delta=d)`, a mean over the last axis
        `keras.losses.Huber(delta=d)(t[:, None], p[:, None], sample_weight=w)`:
            `huber_loss(p, t, delta=d, weights=w, reduction=jaxloss.unit_mean)`
        `scipy.special.huber(d, p - t).mean()`: `huber_loss(p, t, delta=d)`

    Example:
        >>> print(jaxloss.huber_loss(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])))
        1.3125

    Reference:
        Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    delta = inputs.option("delta", delta, predictions, must_be="positive")
    values = kernels.huber(predictions, targets, delta)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def smooth_l1_loss(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    beta: Float[ArrayLike, ""] | int = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Smooth L1 loss: the absolute error, rounded off within `beta` of the target.

        e = |predictions - targets|,  r = min(e / beta, 1)
        ℓ = r·(e - r·beta/2)          which is e where beta = 0

    It is the Huber loss divided by its `delta`: its slope far away is 1 for every `beta`.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        beta: The error at which the loss turns linear; 0 or more, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ, or `beta` is negative.
        TypeError: The predictions are not floating.

    Also known as:
        Smooth absolute error.
        `torch.nn.functional.smooth_l1_loss(p, t, beta=b)`: `smooth_l1_loss(p, t, beta=b)`

    Example:
        >>> print(jaxloss.smooth_l1_loss(jnp.array([3.0]), jnp.array([0.0]), beta=2.0))
        2.0

    Reference:
        Girshick, "Fast R-CNN", 2015, arXiv:1504.08083.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    beta = inputs.option("beta", beta, predictions, must_be="0 or more")
    values = kernels.smooth_l1(predictions, targets, beta)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def log_cosh(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Logarithm of the hyperbolic cosine of the error.

        ℓ = log cosh(predictions - targets)

    It is e²/2 for small errors and |e| - log 2 for large ones, with derivatives of every order.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Logcosh.
        `optax.losses.log_cosh(p, t).mean()`: `log_cosh(p, t)`
        `keras.losses.log_cosh(t, p)`: `log_cosh(p, t)`, a mean over the last axis

    Example:
        >>> print(f"{jaxloss.log_cosh(jnp.array([100.0]), jnp.array([0.0])):.3f}")
        99.307

    Reference:
        Green, "Bayesian reconstructions from emission tomography data", 1990.
    """
    predictions, targets = inputs.elementwise(where, predictions=predictions, targets=targets)
    values = kernels.log_cosh_error(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def quantile_loss(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "..."],
    *,
    quantile: Float[ArrayLike, "..."] | int = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Quantile loss: least where the prediction is the `quantile` of the targets.

        e = targets - predictions
        ℓ = max(quantile·e, (quantile - 1)·e)

    With a vector of quantiles the last axis of the predictions has one entry for each, and the
    targets have no such axis.

    Args:
        predictions: `[*units]`, floating; with a vector of quantiles `[..., quantiles]`.
        targets: `[*units]`; with a vector of quantiles `[...]`, the predictions' leading axes.
        quantile: In [0, 1]; one number, or a vector. May be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element of the predictions.

    Raises:
        ValueError: The shapes do not fit, or `quantile` is outside [0, 1].
        TypeError: The predictions are not floating.

    Also known as:
        Pinball loss, check loss, tilted loss, quantile regression.
        `sklearn.metrics.mean_pinball_loss(t, p, alpha=q)`: `quantile_loss(p, t, quantile=q)`

    Example:
        >>> y = jnp.array([2.0, 0.0])
        >>> print(jaxloss.quantile_loss(jnp.ones(2), y, quantile=0.75, reduction=None))
        [0.75 0.25]

    Reference:
        Koenker and Bassett, "Regression Quantiles", 1978.
    """
    predictions, targets = inputs.floats(predictions=predictions, targets=targets)
    if jnp.ndim(quantile) == 1:
        targets = inputs.repeated("targets", targets, "predictions", predictions)
    predictions, targets = inputs.paired(where, predictions=predictions, targets=targets)
    quantile = inputs.option("quantile", quantile, predictions, must_be="in [0, 1]", entries=True)
    values = kernels.pinball(targets - predictions, quantile)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def squared_logarithmic_error(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Squared difference of the logarithms of one plus the values.

        ℓ = (log(1 + predictions) - log(1 + targets))²

    For quantities that are 0 or more and grow over orders of magnitude: it compares ratios.
    A value below -1 has no logarithm and gives NaN.

    Args:
        predictions: `[*units]`, floating, above -1.
        targets: `[*units]`, on the scale of the predictions, above -1.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Mean squared logarithmic error, MSLE.
        `keras.losses.mean_squared_logarithmic_error(t, p)`: `squared_logarithmic_error(p, t)`,
            where both are 1e-7 or more
        `sklearn.metrics.mean_squared_log_error(t, p)`: `squared_logarithmic_error(p, t)`

    Example:
        >>> loss = jaxloss.squared_logarithmic_error(jnp.array([jnp.e - 1]), jnp.array([0.0]))
        >>> print(f"{loss:.3f}")
        1.000

    Reference:
        Törnqvist, Vartia and Vartia, "How Should Relative Changes Be Measured?", 1985.
    """
    predictions, targets = inputs.paired(where, predictions=predictions, targets=targets)
    for name, array in (("predictions", predictions), ("targets", targets)):
        checks.require(lambda x: x >= -1, name, array, "it must be -1 or more")
    values = (numerics.log1p(predictions) - numerics.log1p(targets)) ** 2
    return reduce(values, where=where, weights=weights, reduction=reduction)


def absolute_percentage_error(
    predictions: Float[ArrayLike, "*units"],
    targets: Shaped[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Absolute error as a fraction of the target.

        ℓ = |predictions - targets| / |targets|

    It is a fraction, not a percentage. An error at a target of 0 is infinite, with no epsilon to
    hide it: delete such units with `where`, or count them with another loss.

    Args:
        predictions: `[*units]`, floating.
        targets: `[*units]`, on the scale of the predictions, not 0.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per element.

    Raises:
        ValueError: The shapes differ.
        TypeError: The predictions are not floating.

    Also known as:
        Mean absolute percentage error, MAPE, relative error.
        `keras.losses.mean_absolute_percentage_error(t, p)`: `100 * absolute_percentage_error(p, t)`
        `sklearn.metrics.mean_absolute_percentage_error(t, p)`: `absolute_percentage_error(p, t)`

    Example:
        >>> print(jaxloss.absolute_percentage_error(jnp.array([3.0]), jnp.array([4.0])))
        0.25

    Reference:
        Makridakis, "Accuracy measures: theoretical and practical concerns", 1993.
    """
    predictions, targets = inputs.elementwise(
        where, fill={"targets": 1}, predictions=predictions, targets=targets
    )
    values = kernels.relative_error(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def cosine_distance(
    predictions: Float[ArrayLike, "*units features"],
    targets: Shaped[ArrayLike, "*units features"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """One minus the cosine of the angle between two vectors.

        ℓ = 1 - predictions·targets / (‖predictions‖·‖targets‖)

    A vector of length 0 has no direction: its similarity is 0, its gradient 0, and no epsilon is
    needed.

    Args:
        predictions: `[*units, features]`, floating.
        targets: `[*units, features]`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss, in [0, 2]; with `reduction=None` one value per vector.

    Raises:
        ValueError: The shapes differ, or there is no feature axis.
        TypeError: The predictions are not floating.

    Also known as:
        Cosine loss.
        `optax.losses.cosine_distance(p, t).mean()`: `cosine_distance(p, t)`

    Example:
        >>> print(jaxloss.cosine_distance(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 2.0]])))
        1.0

    Reference:
        Singhal, "Modern Information Retrieval: A Brief Overview", 2001.
    """
    predictions, targets = inputs.paired(
        where,
        features=1,
        fill={"predictions": 1, "targets": 1},  # whose squares keep their digits
        predictions=predictions,
        targets=targets,
    )
    values = 1 - vectors.cosine(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def cosine_similarity(
    predictions: Float[ArrayLike, "*units features"],
    targets: Shaped[ArrayLike, "*units features"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cosine of the angle between two vectors: a score, the larger the closer.

        s = predictions·targets / (‖predictions‖·‖targets‖)

    Args:
        predictions: `[*units, features]`, floating.
        targets: `[*units, features]`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced similarity, in [-1, 1]; with `reduction=None` one value per vector.

    Raises:
        ValueError: The shapes differ, or there is no feature axis.
        TypeError: The predictions are not floating.

    Also known as:
        Normalised dot product.
        `optax.losses.cosine_similarity(p, t).mean()`: `cosine_similarity(p, t)`
        `torch.nn.functional.cosine_similarity(p, t).mean()`: `cosine_similarity(p, t)`
        `keras.losses.cosine_similarity(t, p)`: `-cosine_similarity(p, t, reduction=None)`

    Example:
        >>> print(jaxloss.cosine_similarity(jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 0.0]])))
        1.0

    Reference:
        Singhal, "Modern Information Retrieval: A Brief Overview", 2001.
    """
    predictions, targets = inputs.paired(
        where,
        features=1,
        fill={"predictions": 1, "targets": 1},  # whose squares keep their digits
        predictions=predictions,
        targets=targets,
    )
    values = vectors.cosine(predictions, targets)
    return reduce(values, where=where, weights=weights, reduction=reduction)
