"""The losses of `optax.losses` under its own names and arguments, computed by this library.

`import jaxloss.compat.optax as losses` is the whole migration: a loss is one value per unit,
without a reduction, `axis` and `where` are over classes, and arrays are broadcast where Optax
broadcasts them. What differs is the arithmetic (float32 or more), and where Optax is wrong:
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import at_least, last, over_classes, together
from jaxloss.core import inputs
from jaxloss.losses import (
    binary,
    divergence,
    imbalance,
    margin,
    multiclass,
    regression,
)
from jaxloss.parts import overlap
from jaxloss.parts import targets as parts

Axis = int | tuple[int, ...] | None


def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """`jaxloss.squared_error`; without targets, of errors."""
    return regression.squared_error(predictions, _or_zeros(targets, predictions), reduction=None)


def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """`jaxloss.l2_loss`; without targets, of errors."""
    return regression.l2_loss(predictions, _or_zeros(targets, predictions), reduction=None)


def huber_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0
) -> Array:
    """`jaxloss.huber_loss`; without targets, of errors."""
    pair = together(predictions=predictions, targets=_or_zeros(targets, predictions))
    return regression.huber_loss(*pair, delta=delta, reduction=None)


def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """`jaxloss.log_cosh`; without targets, of errors."""
    pair = together(predictions=predictions, targets=_or_zeros(targets, predictions))
    return regression.log_cosh(*pair, reduction=None)


def _or_zeros(targets: ArrayLike | None, predictions: ArrayLike) -> ArrayLike:
    return jnp.zeros_like(predictions) if targets is None else targets


def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.cosine_distance` of vectors whose squared norms are `epsilon` or more."""
    a, b, _ = over_classes(axis, where, (0, 0), predictions=predictions, targets=targets)
    return regression.cosine_distance(*at_least(a, b, epsilon), reduction=None)


def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.cosine_similarity` of vectors whose squared norms are `epsilon` or more."""
    a, b, _ = over_classes(axis, where, (0, 0), predictions=predictions, targets=targets)
    return regression.cosine_similarity(*at_least(a, b, epsilon), reduction=None)


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.sigmoid_binary_cross_entropy`."""
    pair = together(logits=logits, labels=labels)
    return binary.sigmoid_binary_cross_entropy(*pair, reduction=None)


def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
) -> Array:
    """`jaxloss.sigmoid_focal_loss`."""
    pair = together(logits=logits, labels=labels)
    return imbalance.sigmoid_focal_loss(*pair, alpha=alpha, gamma=gamma, reduction=None)


def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """`jaxloss.hinge_loss`."""
    pair = together(predictor_outputs=predictor_outputs, targets=targets)
    return margin.hinge_loss(*pair, reduction=None)


def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """`jaxloss.perceptron_loss`."""
    return margin.perceptron_loss(predictor_outputs, targets, reduction=None)


def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.multiclass_hinge_loss`."""
    return margin.multiclass_hinge_loss(scores, labels, reduction=None)


def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.multiclass_perceptron_loss`."""
    return margin.multiclass_perceptron_loss(scores, labels, reduction=None)


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """`jaxloss.softmax_cross_entropy`; `where` is over classes, or over units if it has no axis."""
    where = _of_units(where, logits, axis)
    x, y, rows = over_classes(axis, where, (-jnp.inf, 0), logits=logits, labels=labels)
    return multiclass.softmax_cross_entropy(x, y, where=rows, reduction=None)


def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.softmax_cross_entropy`, in which a class of logit -inf costs nothing anyhow."""
    return softmax_cross_entropy(logits, labels)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.softmax_cross_entropy_with_integer_labels`; `where` as in the one above."""
    where = _of_units(where, logits, axis)
    x, _, rows = over_classes(axis, where, (-jnp.inf, 0), logits=logits, like=logits)
    loss = multiclass.softmax_cross_entropy_with_integer_labels
    return loss(x, labels, where=rows, reduction=None)


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.poly_loss_cross_entropy`; `where` is over classes."""
    x, y, rows = over_classes(axis, where, (-jnp.inf, 0), logits=logits, labels=labels)
    loss = multiclass.poly_loss_cross_entropy
    return loss(x, y, epsilon=epsilon, where=rows, reduction=None)


def _of_units(where: ArrayLike | None, logits: ArrayLike, axis: Axis) -> ArrayLike | None:
    """`where` with a class axis of length 1, if it has none."""
    if where is None or axis is None or jnp.ndim(where) == jnp.ndim(logits):
        return where
    return jnp.expand_dims(where, axis)


def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.kl_divergence`; `where` is over classes."""
    arrays = {"log_predictions": log_predictions, "targets": targets}
    x, y, rows = over_classes(axis, where, (-jnp.inf, 0), **arrays)
    return divergence.kl_divergence(x, y, where=rows, reduction=None)


def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.kl_divergence_with_log_targets`; `where` is over classes."""
    arrays = {"log_predictions": log_predictions, "log_targets": log_targets}
    x, y, rows = over_classes(axis, where, (-jnp.inf, -jnp.inf), **arrays)
    return divergence.kl_divergence_with_log_targets(x, y, where=rows, reduction=None)


def generalized_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """`jaxloss.generalized_kl_divergence`; `where` is over classes."""
    arrays = {"log_predictions": log_predictions, "targets": targets}
    x, y, rows = over_classes(axis, where, (-jnp.inf, 0), **arrays)
    return divergence.generalized_kl_divergence(x, y, where=rows, reduction=None)


def convex_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """The former name of `generalized_kl_divergence`."""
    return generalized_kl_divergence(log_predictions, targets, axis=axis, where=where)


def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: int | tuple[int, ...] | None = None,
) -> Array:
    """`jaxloss.dice_loss` of each class: `reduction` is over classes, `axis` has the pixels."""
    x, y = _of_one_rank(predictions, targets)
    pixels = tuple(range(1, x.ndim - 1)) if axis is None else axis
    if (x.ndim - 1) in [i % x.ndim for i in ([pixels] if isinstance(pixels, int) else pixels)]:
        raise ValueError(f"axis must leave out the classes, which are the last axis, got {axis}.")
    p, others = overlap.shares(x) if apply_softmax else (x, 1 - x)
    sums = overlap.overlaps(p, others, y, axis=pixels)
    values = overlap.overlap_loss(sums, smooth=smooth, alpha=alpha, beta=beta)
    if class_weights is not None:
        c = inputs.option("class_weights", class_weights, values, must_be="a number", entries=True)
        values = values * c
    values = values[..., 1:] if ignore_background and x.shape[-1] > 1 else values
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    total = values if reduction == "none" else jnp.sum(values, axis=-1)
    return total / values.shape[-1] if reduction == "mean" else total


def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> Array:
    """The mean `dice_loss`, a class weighted by one over its squared number of pixels.

    `jaxloss.generalized_dice_loss` is Sudre's: one ratio of weighted sums.
    """
    predictions, targets = together(predictions=predictions, targets=targets)
    pixels = jnp.sum(targets, axis=range(targets.ndim - 1))
    rarity = 1 / (pixels**2 + 1e-7)
    return jnp.mean(
        dice_loss(
            predictions,
            targets,
            class_weights=rarity / jnp.sum(rarity) * len(rarity),
            smooth=smooth,
            apply_softmax=apply_softmax,
            reduction="none",
            ignore_background=ignore_background,
        )
    )


def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_sigmoid: bool = True,
) -> Array:
    """`jaxloss.binary_dice_loss`; the arrays may have a class axis of length 1."""
    logits, targets = _of_one_rank(predictions, targets)
    if logits.shape[-1] != 1:
        logits, targets = logits[..., None], targets[..., None]
    return dice_loss(logits, targets, smooth=smooth, apply_softmax=apply_sigmoid)


def _of_one_rank(predictions: ArrayLike, targets: ArrayLike) -> list[Array]:
    """Both with a class axis, if one of them has it."""
    predictions, targets = inputs.floats(predictions=predictions, targets=targets)
    if predictions.ndim == targets.ndim - 1:
        predictions = predictions[..., None]
    return [predictions, targets[..., None] if targets.ndim == predictions.ndim - 1 else targets]


def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """`jaxloss.smooth_labels`; `where` is over classes."""
    labels = jnp.asarray(labels)
    axes = range(labels.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    ends = range(-len(axes), 0)
    classes_last = jnp.moveaxis(labels, axes, ends)
    rows = classes_last.shape[: labels.ndim - len(axes)]
    present = None if where is None else last(jnp.broadcast_to(where, labels.shape), axis)
    smoothed = parts.smooth_labels(classes_last.reshape(*rows, -1), alpha, where=present)
    return jnp.moveaxis(smoothed.reshape(classes_last.shape), ends, axes)
