"""The losses of `optax.losses` under its own names and arguments, computed by this library.

`import jaxloss.compat.optax as losses` is the whole migration: a loss is one value per unit,
without a reduction, `axis` and `where` are over classes, and arrays are broadcast where Optax
broadcasts them. The arithmetic is float32 or more, and so is the loss.

Where Optax is wrong, what it gives and what is given here:

    cosine_similarity: a vector of zeros, epsilon=0
        nan, here 0: 0/0; it has no angle
    cosine_distance: a vector of zeros, epsilon=0
        nan, here 1: 0/0; it has no angle
    sigmoid_binary_cross_entropy: a logit of ±inf
        nan, here 0: 0 · inf; certain and right
    sigmoid_focal_loss: a label of 0 or 1, slope by labels
        0.063879, here -0.15894: a term of coefficient 0 is left out of the slope
    softmax_cross_entropy: a logit of -inf, label 0
        nan, here 0.31326: 0 · inf; the class is absent
    poly_loss_cross_entropy: a logit of -inf, label 0
        nan, here 0.85114: 0 · inf; the class is absent
    ranking_softmax_loss: a logit of -inf, label 0
        nan, here 0.31326: 0 · inf; the class is absent
    softmax_cross_entropy: slope by a label that where leaves out
        nan, here 0: the class takes part in nothing
    poly_loss_cross_entropy: slope by a label that where leaves out
        nan, here 0: the class takes part in nothing
    softmax_cross_entropy_with_integer_labels: a label of -1
        0.40761, here nan: it is no class; there it is the last one
    softmax_cross_entropy_with_integer_labels: a label that where leaves out
        2.3133, here inf: an absent class has probability 0
    multiclass_hinge_loss: a label out of range
        4, here nan: it is no class; there it has a score of 0
    multiclass_perceptron_loss: a label out of range
        3, here nan: it is no class; there it has a score of 0
    kl_divergence: a log-prediction of -inf, target 0
        nan, here -0.34657: 0 · inf; 0 · log 0 is 0
    generalized_kl_divergence: a log-prediction of -inf, target 0
        nan, here 0.15343: 0 · inf; 0 · log 0 is 0
    convex_kl_divergence: a log-prediction of -inf, target 0
        nan, here 0.15343: 0 · inf; 0 · log 0 is 0
    kl_divergence_with_log_targets: a log-target of -inf
        nan, here -0.36788: 0 · inf; 0 · log 0 is 0
    kl_divergence: a target of 0, slope by targets
        nan, here 1: 0 · log 0 stays 0, and the rest is -log_predictions
    multiclass_sparsemax_loss: scores that are not a matrix
        ValueError, here 0: it maps over exactly one axis
    dice_loss: apply_softmax=False under jit
        TracerBoolConversionError, here 0.088889: it looks at the sums of the rows
    binary_dice_loss: apply_sigmoid=False under jit
        TracerBoolConversionError, here 0.125: it looks at the sums of the rows
    smooth_labels: classes that where leaves out
        0.5, here 0: an absent class gets a share, and rows do not sum to 1
    ntxent: no two labels alike
        nan, here 0: 0/0; an anchor without a positive counts for nothing
    triplet_margin_loss: norm_degree=1
        0, here 2: differences are not made positive before the power
    triplet_margin_loss: norm_degree=3
        nan, here 1.0801: differences are not made positive before the power
    ctc_loss: more labels than steps
        99999, here inf: no path spells the labels; -1e5 stands for log 0
    ctc_loss_with_forward_probs: more labels than steps
        99999, here inf: no path spells the labels; -1e5 stands for log 0

What is refused, with a ValueError:

    ctc_loss: another `log_epsilon`
    ctc_loss_with_forward_probs: another `log_epsilon`
    dice_loss: `axis` with the classes
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import at_least, last, over_classes, together
from jaxloss.compat.optax_sets import binary_dice_loss as binary_dice_loss
from jaxloss.compat.optax_sets import ctc_loss as ctc_loss
from jaxloss.compat.optax_sets import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from jaxloss.compat.optax_sets import dice_loss as dice_loss
from jaxloss.compat.optax_sets import make_fenchel_young_loss as make_fenchel_young_loss
from jaxloss.compat.optax_sets import (
    multiclass_generalized_dice_loss as multiclass_generalized_dice_loss,
)
from jaxloss.compat.optax_sets import ntxent as ntxent
from jaxloss.compat.optax_sets import ranking_softmax_loss as ranking_softmax_loss
from jaxloss.compat.optax_sets import triplet_margin_loss as triplet_margin_loss
from jaxloss.losses import binary, divergence, imbalance, margin, multiclass, regression
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


def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.sparsemax_loss`."""
    return binary.sparsemax_loss(*together(logits=logits, labels=labels), reduction=None)


def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """`jaxloss.multiclass_sparsemax_loss`, of any rank."""
    return multiclass.multiclass_sparsemax_loss(scores, labels, reduction=None)
