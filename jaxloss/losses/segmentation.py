"""Segmentation: the unit is an image and its parts are pixels; of the batch forms, a pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, numerics, over_classes
from jaxloss.core.reductions import (
    MeanReduction,
    R,
    Reduction,
    defer,
    reduce,
    require_multiplicities,
)
from jaxloss.core.statistics import Mean, kept, total
from jaxloss.parts import overlap


def dice_loss(
    logits: Float[ArrayLike, "images *pixels classes"],
    labels: Shaped[ArrayLike, "images *pixels classes"],
    *,
    smooth: Float[ArrayLike, ""] | int = 1.0,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Soft Dice loss: one minus the overlap of each class in an image, averaged over classes.

        p = softmax(logits)      of a single class: sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = mean of class_weights·(1 - (i + smooth) / (i + alpha·f + beta·m + smooth))

    It counts a small class as much as a large one, where a mean over pixels would forget it.
    The sums are over the pixels of an image; `batch_dice_loss` takes them over the batch.

    Args:
        logits: `[images, *pixels, classes]`, floating.
        labels: `[images, *pixels, classes]`, the share of each class in each pixel, as one-hot.
        smooth: Added to both sides of the ratio; 0 or more. With 0 a class that is neither
            present nor predicted costs 0.
        alpha, beta: The costs of false and of missed pixels; 1/2 and 1/2 is Dice.
        class_weights: One per class, 0 or more; the mean over classes divides by their number.
        where: `[images]`, or up to `[images, *pixels]`; deletes pixels.
        weights: `[images]`.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image.

    Raises:
        ValueError: The shapes differ, or an option is negative.
        TypeError: The logits are not floating.

    Also known as:
        Sørensen-Dice, soft F1, Tversky loss (with `alpha` and `beta`).
        `optax.losses.dice_loss(x, q).mean()`: `dice_loss(x, q)`

    Example:
        >>> logits = jnp.array([[[30.0, 0.0], [30.0, 0.0]]])
        >>> labels = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
        >>> print(f"{jaxloss.dice_loss(logits, labels, smooth=0.0):.4f}")
        0.6667

    Reference:
        Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric
        Medical Image Segmentation", 2016, arXiv:1606.04797; Salehi, Erdogmus and Gholipour,
        "Tversky loss function for image segmentation", 2017, arXiv:1706.05721.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    sums = _sums(logits, labels, where, None, tuple(range(1, logits.ndim - 1)))
    values = _dice(sums, _options(sums[0], smooth, alpha, beta, class_weights))
    images = inputs.units_kept(where, logits.shape[:-1], units=1)
    return reduce(values, where=images, weights=weights, reduction=reduction)


def binary_dice_loss(
    logits: Float[ArrayLike, "images *pixels"],
    labels: Shaped[ArrayLike, "images *pixels"],
    *,
    smooth: Float[ArrayLike, ""] | int = 1.0,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Soft Dice loss of one class against the background.

        p = sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = 1 - (i + smooth) / (i + alpha·f + beta·m + smooth)

    The background is not counted: a pixel that is rightly left out changes nothing. The sums are
    over the pixels of an image; `batch_binary_dice_loss` takes them over the batch.

    Args:
        logits: `[images, *pixels]`, floating.
        labels: `[images, *pixels]`, 0 or 1 or a share between.
        smooth: Added to both sides of the ratio; 0 or more.
        alpha, beta: The costs of false and of missed pixels; 1/2 and 1/2 is Dice.
        where: `[images]`, or up to `[images, *pixels]`; deletes pixels.
        weights: `[images]`.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image.

    Raises:
        ValueError: The shapes differ, or an option is negative.
        TypeError: The logits are not floating.

    Also known as:
        Sørensen-Dice, soft F1, binary Tversky loss.
        `optax.losses.binary_dice_loss(x, y).mean()`: `binary_dice_loss(x, y)`

    Example:
        >>> logits, labels = jnp.array([[30.0, 30.0, -30.0]]), jnp.array([[1, 0, 0]])
        >>> print(f"{jaxloss.binary_dice_loss(logits, labels, smooth=0.0):.4f}")
        0.3333

    Reference:
        Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric
        Medical Image Segmentation", 2016, arXiv:1606.04797.
    """
    logits, labels = _binary(where, logits, labels)
    sums = _sums(logits, labels, where, None, tuple(range(1, logits.ndim - 1)))
    values = _dice(sums, _options(sums[0], smooth, alpha, beta, None))
    images = inputs.units_kept(where, logits.shape[:-1], units=1)
    return reduce(values, where=images, weights=weights, reduction=reduction)


def batch_dice_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    smooth: Float[ArrayLike, ""] | int = 1.0,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: MeanReduction[R] = "mean",
) -> R:
    """Soft Dice loss of each class over all pixels of the batch, averaged over classes.

        p = softmax(logits)      of a single class: sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = mean of class_weights·(1 - (i + smooth) / (i + alpha·f + beta·m + smooth))

    A class that is absent from most images is judged where it occurs. It is a formula of sums
    over the batch: parts of a batch merge by `jaxloss.stats`.

    Args:
        logits: `[*units, classes]`, floating; a unit is a pixel.
        labels: `[*units, classes]`, the share of each class in each pixel, as one-hot.
        smooth: Added to both sides of the ratio; 0 or more.
        alpha, beta: The costs of false and of missed pixels; 1/2 and 1/2 is Dice.
        class_weights: One per class, 0 or more; the mean over classes divides by their number.
        where, weights: See `jaxloss.core.reductions`.
        reduction: `"mean"` or `jaxloss.stats`.

    Returns:
        The loss; a pixel has no value of its own.

    Raises:
        ValueError: The shapes differ, an option is negative, or the reduction is another one.
        TypeError: The logits are not floating.

    Also known as:
        Batch Dice, micro-averaged Dice, Tversky loss (with `alpha` and `beta`).

    Example:
        >>> logits = jnp.array([[[30.0, 0.0]], [[30.0, 0.0]]])
        >>> labels = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> print(f"{jaxloss.batch_dice_loss(logits, labels, smooth=0.0):.4f}")
        0.6667

    Reference:
        Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric
        Medical Image Segmentation", 2016, arXiv:1606.04797.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    sums = _sums(logits, labels, where, weights, tuple(range(logits.ndim - 1)))
    options = _options(sums[0], smooth, alpha, beta, class_weights)
    statistics = (sums, tuple(map(Mean.constant, options)))
    return defer(statistics, _dice_of_batch, reduction=reduction, name="batch_dice_loss")


def batch_binary_dice_loss(
    logits: Float[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    smooth: Float[ArrayLike, ""] | int = 1.0,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: MeanReduction[R] = "mean",
) -> R:
    """Soft Dice loss of one class against the background over all pixels of the batch.

        p = sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = 1 - (i + smooth) / (i + alpha·f + beta·m + smooth)

    An image without the class does not count as a failure of its own. It is a formula of sums
    over the batch: parts of a batch merge by `jaxloss.stats`.

    Args:
        logits: `[*units]`, floating; a unit is a pixel.
        labels: `[*units]`, 0 or 1 or a share between.
        smooth: Added to both sides of the ratio; 0 or more.
        alpha, beta: The costs of false and of missed pixels; 1/2 and 1/2 is Dice.
        where, weights: See `jaxloss.core.reductions`.
        reduction: `"mean"` or `jaxloss.stats`.

    Returns:
        The loss; a pixel has no value of its own.

    Raises:
        ValueError: The shapes differ, an option is negative, or the reduction is another one.
        TypeError: The logits are not floating.

    Also known as:
        Batch Dice, soft F1 score as a loss, binary Tversky loss.
        `keras.losses.dice(y, jax.nn.sigmoid(x))`: `batch_binary_dice_loss(x, y, smooth=0.0)`

    Example:
        >>> logits, labels = jnp.array([30.0, 30.0, -30.0]), jnp.array([1, 0, 0])
        >>> print(f"{jaxloss.batch_binary_dice_loss(logits, labels, smooth=0.0):.4f}")
        0.3333

    Reference:
        Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric
        Medical Image Segmentation", 2016, arXiv:1606.04797.
    """
    logits, labels = _binary(where, logits, labels)
    sums = _sums(logits, labels, where, weights, tuple(range(logits.ndim - 1)))
    options = _options(sums[0], smooth, alpha, beta, None)
    statistics = (sums, tuple(map(Mean.constant, options)))
    return defer(statistics, _dice_of_batch, reduction=reduction, name="batch_binary_dice_loss")


def generalized_dice_loss(
    logits: Float[ArrayLike, "images *pixels classes"],
    labels: Shaped[ArrayLike, "images *pixels classes"],
    *,
    power: Float[ArrayLike, ""] | int = 2.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Generalized Dice loss: one overlap of all classes, in which a rare class weighs more.

        p = softmax(logits)      of a single class: sigmoid(logits)
        c = 1 / (Σ labels) ** power      of an absent class: the largest c of the others
        ℓ = 1 - 2·Σ c·Σ p·labels / Σ c·Σ (p + labels)      over classes, over pixels

    A class of few pixels counts as much as one of many, and unlike the mean of `dice_loss` a
    class that is nowhere takes no fixed share of the loss. The sums are over the pixels of an
    image; `batch_generalized_dice_loss` takes them over the batch.

    Args:
        logits: `[images, *pixels, classes]`, floating.
        labels: `[images, *pixels, classes]`, the share of each class in each pixel, as one-hot.
        power: How much more a rare class weighs; 0 or more. 2 is the paper's, 0 weighs all alike.
        where: `[images]`, or up to `[images, *pixels]`; deletes pixels.
        weights: `[images]`.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image.

    Raises:
        ValueError: The shapes differ, or `power` is negative.
        TypeError: The logits are not floating.

    Also known as:
        GDL.
        `optax.losses.multiclass_generalized_dice_loss(x, q)`: another formula, the mean of the
            Dice losses of the classes with weights c; the paper's is a quotient of sums
        `monai.losses.GeneralizedDiceLoss`: adds 1e-5 to both sums; its w_type is a power

    Example:
        >>> logits = jnp.array([[[30.0, 0.0], [30.0, 0.0], [30.0, 0.0]]])
        >>> labels = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> print(f"{jaxloss.generalized_dice_loss(logits, labels):.4f}")
        0.5556

    Reference:
        Sudre, Li, Vercauteren, Ourselin and Cardoso, "Generalised Dice overlap as a deep learning
        loss function for highly unbalanced segmentations", 2017, arXiv:1707.03237.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    sums = _sums(logits, labels, where, None, tuple(range(1, logits.ndim - 1)))
    power = inputs.option("power", power, logits, must_be="0 or more")
    images = inputs.units_kept(where, logits.shape[:-1], units=1)
    size = jnp.sum(labels, axis=tuple(range(1, logits.ndim - 1)))
    values = _generalized_dice(sums, size, power)
    return reduce(values, where=images, weights=weights, reduction=reduction)


def batch_generalized_dice_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    power: Float[ArrayLike, ""] | int = 2.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: MeanReduction[R] = "mean",
) -> R:
    """Generalized Dice loss over all pixels of the batch.

        p = softmax(logits)      of a single class: sigmoid(logits)
        c = 1 / (Σ labels) ** power      of an absent class: the largest c of the others
        ℓ = 1 - 2·Σ c·Σ p·labels / Σ c·Σ (p + labels)      over classes, over pixels

    What is rare is told by the batch, and not by each image. It is a formula of sums over the
    batch: parts of a batch merge by `jaxloss.stats`.

    Args:
        logits: `[*units, classes]`, floating; a unit is a pixel.
        labels: `[*units, classes]`, the share of each class in each pixel, as one-hot.
        power: How much more a rare class weighs; 0 or more. 2 is the paper's, 0 weighs all alike.
        where, weights: See `jaxloss.core.reductions`.
        reduction: `"mean"` or `jaxloss.stats`.

    Returns:
        The loss; a pixel has no value of its own.

    Raises:
        ValueError: The shapes differ, `power` is negative, or the reduction is another one.
        TypeError: The logits are not floating.

    Also known as:
        GDL.
        `monai.losses.GeneralizedDiceLoss`: with `batch=True`; adds 1e-5 to both sums

    Example:
        >>> logits = jnp.array([[30.0, 0.0], [30.0, 0.0], [30.0, 0.0]])
        >>> labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(f"{jaxloss.batch_generalized_dice_loss(logits, labels):.4f}")
        0.5556

    Reference:
        Sudre, Li, Vercauteren, Ourselin and Cardoso, "Generalised Dice overlap as a deep learning
        loss function for highly unbalanced segmentations", 2017, arXiv:1707.03237.
    """
    logits, labels = inputs.distributed(where, logits=logits, labels=labels)
    sums = _sums(logits, labels, where, weights, tuple(range(logits.ndim - 1)))
    power = inputs.option("power", power, logits, must_be="0 or more")
    return defer(
        (sums, total(labels, where, weights), Mean.constant(power)),
        _generalized_dice_of_batch,
        reduction=reduction,
        name="batch_generalized_dice_loss",
    )


def tversky_loss(
    logits: Float[ArrayLike, "images *pixels classes"],
    labels: Shaped[ArrayLike, "images *pixels classes"],
    *,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    smooth: Float[ArrayLike, ""] | int = 0.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Tversky loss: the Dice loss with a price for each of the two ways to be wrong.

        p = softmax(logits)      of a single class: sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = mean of class_weights·(1 - (i + smooth) / (i + alpha·f + beta·m + smooth))

    With `beta` above `alpha` what is missed costs more than what is false, as it does where the
    class is small. The sums are over the pixels of an image; `batch_tversky_loss` takes them over
    the batch. It is `dice_loss`, whose `smooth` is 0 by default here.

    Args:
        logits: `[images, *pixels, classes]`, floating.
        labels: `[images, *pixels, classes]`, the share of each class in each pixel, as one-hot.
        alpha, beta: The costs of false and of missed pixels, 0 or more; 1 and 1 is Jaccard.
        smooth: Added to both sides of the ratio; 0 or more.
        class_weights: One per class, 0 or more; the mean over classes divides by their number.
        where: `[images]`, or up to `[images, *pixels]`; deletes pixels.
        weights: `[images]`.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image.

    Raises:
        ValueError: The shapes differ, or an option is negative.
        TypeError: The logits are not floating.

    Also known as:
        Tversky index loss.
        `monai.losses.TverskyLoss`: adds 1e-5 to both sides of the ratio

    Example:
        >>> logits, labels = jnp.array([[[0.0], [0.0], [30.0]]]), jnp.array([[[1.0], [0.0], [1.0]]])
        >>> print(f"{jaxloss.tversky_loss(logits, labels, alpha=0.2, beta=0.8):.4f}")
        0.2500

    Reference:
        Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation", 2017,
        arXiv:1706.05721.
    """
    return dice_loss(
        logits,
        labels,
        smooth=smooth,
        alpha=alpha,
        beta=beta,
        class_weights=class_weights,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def batch_tversky_loss(
    logits: Float[ArrayLike, "*units classes"],
    labels: Shaped[ArrayLike, "*units classes"],
    *,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    beta: Float[ArrayLike, ""] | int = 0.5,
    smooth: Float[ArrayLike, ""] | int = 0.0,
    class_weights: Num[ArrayLike, "..."] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: MeanReduction[R] = "mean",
) -> R:
    """Tversky loss of each class over all pixels of the batch, averaged over classes.

        p = softmax(logits)      of a single class: sigmoid(logits)
        i = Σ p·labels,  f = Σ p·(1 - labels),  m = Σ (1 - p)·labels      hit, false, missed
        ℓ = mean of class_weights·(1 - (i + smooth) / (i + alpha·f + beta·m + smooth))

    A class that is absent from most images is judged where it occurs. It is a formula of sums
    over the batch: parts of a batch merge by `jaxloss.stats`.

    Args:
        logits: `[*units, classes]`, floating; a unit is a pixel.
        labels: `[*units, classes]`, the share of each class in each pixel, as one-hot.
        alpha, beta: The costs of false and of missed pixels, 0 or more; 1 and 1 is Jaccard.
        smooth: Added to both sides of the ratio; 0 or more.
        class_weights: One per class, 0 or more; the mean over classes divides by their number.
        where, weights: See `jaxloss.core.reductions`.
        reduction: `"mean"` or `jaxloss.stats`.

    Returns:
        The loss; a pixel has no value of its own.

    Raises:
        ValueError: The shapes differ, an option is negative, or the reduction is another one.
        TypeError: The logits are not floating.

    Also known as:
        Batch Tversky.
        `keras.losses.tversky(y, jax.nn.sigmoid(x), alpha=b, beta=a)`:
            `batch_tversky_loss(x[..., None], y[..., None], alpha=a, beta=b)`,
            its alpha weighs what is missed, and all elements are of one class

    Example:
        >>> logits, labels = jnp.array([[[0.0], [0.0], [30.0]]]), jnp.array([[[1.0], [0.0], [1.0]]])
        >>> print(f"{jaxloss.batch_tversky_loss(logits, labels, alpha=0.2, beta=0.8):.4f}")
        0.2500

    Reference:
        Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation", 2017,
        arXiv:1706.05721.
    """
    return batch_dice_loss(
        logits,
        labels,
        smooth=smooth,
        alpha=alpha,
        beta=beta,
        class_weights=class_weights,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _binary(where: ArrayLike | None, logits: ArrayLike, labels: ArrayLike) -> list[Array]:
    logits, labels = inputs.paired(where, logits=logits, labels=labels)
    checks.require(inputs.RANGES["in [0, 1]"], "labels", labels, "a share is in [0, 1]")
    return [logits[..., None], labels[..., None]]


def _sums(
    logits: Array,
    labels: Array,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    pixels: tuple[int, ...],
) -> tuple[Array, Array, Array]:
    """How much of each class is hit, false and missed."""
    require_multiplicities(logits.shape[:-1], where, weights)
    p, other = overlap.shares(logits)
    _, times = kept(jnp.zeros(logits.shape[:-1], logits.dtype), where, weights)
    if logits.shape[-1] == 1:  # XLA on CPU sums beside an axis of one number by number
        p, other, y = p[..., 0], other[..., 0], labels[..., 0]
        hit, false, missed = overlap.overlaps(times * p, times * other, y, axis=pixels)
        return hit[..., None], false[..., None], missed[..., None]
    times = times[..., None]
    return overlap.overlaps(times * p, times * other, labels, axis=pixels)


def _options(
    like: Array,
    smooth: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    class_weights: ArrayLike | None,
) -> tuple[Array, ...]:
    numbers = {"smooth": smooth, "alpha": alpha, "beta": beta}
    each = [inputs.option(k, v, like, must_be="0 or more") for k, v in numbers.items()]
    given = 1.0 if class_weights is None else class_weights
    of_classes = inputs.option("class_weights", given, like, must_be="0 or more", entries=True)
    return (*each, of_classes)


def _dice(sums: tuple[Array, Array, Array], options: tuple[Array, ...]) -> Array:
    smooth, alpha, beta, class_weights = options
    losses = overlap.overlap_loss(sums, smooth=smooth, alpha=alpha, beta=beta)
    return jnp.mean(class_weights * losses, axis=-1)


def _dice_of_batch(statistics: tuple[tuple[Array, Array, Array], tuple[Mean, ...]]) -> Array:
    sums, options = statistics
    return _dice(sums, tuple(option.value() for option in options))


def _generalized_dice(sums: tuple[Array, Array, Array], size: Array, power: Array) -> Array:
    (hit, false, missed), tiny = sums, jnp.finfo(size.dtype).tiny
    smallest = jnp.argmin(jnp.where(size > 0, size, jnp.inf), axis=-1)
    rarest = over_classes.at(size, smallest)[..., None]
    known = jnp.where(size > 0, size, rarest)
    c = jnp.maximum(numerics.ratio(jax.lax.stop_gradient(rarest), known, empty=1), tiny) ** power
    wrong, right = (jnp.sum(c * share, axis=-1) for share in (false + missed, 2 * hit))
    return numerics.fraction(wrong, right)


def _generalized_dice_of_batch(
    statistics: tuple[tuple[Array, Array, Array], Array, Mean],
) -> Array:
    sums, size, power = statistics
    return _generalized_dice(sums, size, power.value())
