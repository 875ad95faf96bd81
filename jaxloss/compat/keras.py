"""The losses of `keras.losses` under its own names: truth first, means over the last axis.

`import jaxloss.compat.keras as losses` is the whole migration. Probabilities and divisors are kept
at `EPSILON` or more, which is Keras' default, and labels of a hinge may be 0 and 1. Keras' own
formulas stay where they say what they do: `alpha` of `tversky` counts what is missed, a
`categorical_hinge` has one more class, of score 0, and logarithmic errors see nothing below
`EPSILON`. A class such as `keras.losses.Huber` is the mean of its function. The arithmetic is
float32 or more.

Where Keras is wrong, what it gives and what is given here:

    mean_absolute_error: prediction equal to truth, slope
        -1, here 0: the absolute value has the slope 1 at 0 in JAX
    mean_absolute_percentage_error: prediction equal to truth, slope
        -100, here 0: the absolute value has the slope 1 at 0 in JAX
    cosine_similarity: a vector of zeros, slope
        nan, here -4.4721e+06: 0 · inf in the slope of a square root
    binary_crossentropy: a logit of ±inf
        nan, here 0: 0 · inf; certain and right
    categorical_crossentropy: a logit of -inf, label 0
        nan, here 0.31326: 0 · inf; the class is absent
    categorical_crossentropy: label_smoothing and an axis but the last
        0.42772, here 0.56326: it divides by the length of the last axis
    sparse_categorical_crossentropy: a label out of range
        -0, here nan: it is no class; there it costs nothing
    categorical_generalized_cross_entropy: a label out of range
        2, here nan: it is no class; there it has probability 0
    binary_focal_crossentropy: from_logits, a logit beyond ±16
        16.118, here 40: the probability is cut off at 1e-7, the slope at 0
    categorical_focal_crossentropy: from_logits, a logit 16 below the largest
        4.0295, here 10: the probability is cut off at 1e-7, the slope at 0
    categorical_hinge: a truth that is not one-hot
        1.25, here 2: the label is one class, the largest
    circle: vectors that are not of length 1
        54.4, here 3.3632: cosines are of directions; there it is products
    circle: slope
        87.733, here 41.815: weights of pairs and lengths are no variables of the paper
    ctc: more labels than steps
        99999, here inf: no path spells the labels; -1e5 stands for log 0

What is refused, with a ValueError:

    circle: `ref_labels`, `ref_embeddings` or `remove_diagonal=False`
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import at_least, last
from jaxloss.core import inputs, numerics
from jaxloss.losses import (
    binary,
    divergence,
    imbalance,
    likelihood,
    metric,
    multiclass,
    regression,
    sequence,
)
from jaxloss.losses import margin as margins
from jaxloss.parts import overlap
from jaxloss.parts import targets as parts

EPSILON = 1e-7


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.squared_error`."""
    return _mean(regression.squared_error(*_pair(y_true, y_pred), reduction=None))


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.absolute_error`."""
    return _mean(regression.absolute_error(*_pair(y_true, y_pred), reduction=None))


def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """100 times `jaxloss.absolute_percentage_error`, of targets of `EPSILON` or more."""
    p, y = _pair(y_true, y_pred)
    least = jnp.where(y < 0, jnp.minimum(y, -EPSILON), jnp.maximum(y, EPSILON))
    p = jnp.where(jnp.abs(y) < EPSILON, p + (least - y), p)
    values = regression.absolute_percentage_error(p, least, reduction=None)
    return 100 * _mean(values)


def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.squared_logarithmic_error` of what is `EPSILON` or more."""
    pair = (jnp.maximum(array, EPSILON) for array in _pair(y_true, y_pred))
    return _mean(regression.squared_logarithmic_error(*pair, reduction=None))


def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: ArrayLike = 1.0) -> Array:
    """`jaxloss.huber_loss`."""
    return _mean(regression.huber_loss(*_pair(y_true, y_pred), delta=delta, reduction=None))


def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.log_cosh`."""
    return _mean(regression.log_cosh(*_pair(y_true, y_pred), reduction=None))


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Array:
    """Minus `jaxloss.cosine_similarity`, of vectors whose norms are `EPSILON` or more."""
    p, y = (last(array, axis) for array in _pair(y_true, y_pred))
    return -regression.cosine_similarity(*at_least(p, y, EPSILON**2), reduction=None)


def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.hinge_loss`, of labels of -1 and 1, or of 0 and 1."""
    scores, labels = _scores_and_signs(y_true, y_pred)
    return _mean(margins.hinge_loss(scores, labels, reduction=None))


def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.squared_hinge_loss`, of labels of -1 and 1, or of 0 and 1."""
    scores, labels = _scores_and_signs(y_true, y_pred)
    return _mean(margins.squared_hinge_loss(scores, labels, reduction=None))


def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.multiclass_hinge_loss` with one more class, whose score is 0."""
    scores, y_true = inputs.paired(None, features=1, y_pred=y_pred, y_true=y_true)
    zero = jnp.zeros((*scores.shape[:-1], 1), scores.dtype)
    scores, labels = jnp.concatenate([scores, zero], axis=-1), jnp.argmax(y_true, axis=-1)
    return margins.multiclass_hinge_loss(scores, labels, reduction=None)


def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.poisson_nll_loss` of rates; `EPSILON` is added in the logarithm."""
    rates, counts = _pair(y_true, y_pred)
    loss = likelihood.poisson_nll_loss
    return _mean(loss(rates + EPSILON, counts, log_input=False, reduction=None) - EPSILON)


def kl_divergence(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.kl_divergence` of two probabilities between `EPSILON` and 1."""
    p, y = (jnp.clip(array, EPSILON, 1) for array in _pair(y_true, y_pred))
    return divergence.kl_divergence(jnp.log(p), y, reduction=None)


def binary_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: ArrayLike = 0.0,
    axis: int = -1,
) -> Array:
    """`jaxloss.binary_cross_entropy` or `jaxloss.sigmoid_binary_cross_entropy`."""
    x, y = inputs.paired(None, y_pred=y_pred, y_true=y_true)
    y = _smoothed_bits(y, label_smoothing)
    if from_logits:
        values = binary.sigmoid_binary_cross_entropy(x, y, reduction=None)
    else:
        values = binary.binary_cross_entropy(_inside(x), y, reduction=None)
    return jnp.mean(values, axis=axis)


def binary_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    apply_class_balancing: bool = False,
    alpha: ArrayLike = 0.25,
    gamma: ArrayLike = 2.0,
    from_logits: bool = False,
    label_smoothing: ArrayLike = 0.0,
    axis: int = -1,
) -> Array:
    """`jaxloss.sigmoid_focal_loss`, with `alpha` if classes are balanced."""
    x, y = inputs.paired(None, y_pred=y_pred, y_true=y_true)
    p = _inside(x)
    logits = x if from_logits else jnp.log(p) - jnp.log1p(-p)
    balance = alpha if apply_class_balancing else None
    values = imbalance.sigmoid_focal_loss(
        logits, _smoothed_bits(y, label_smoothing), alpha=balance, gamma=gamma, reduction=None
    )
    return jnp.mean(values, axis=axis)


def categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: ArrayLike = 0.0,
    axis: int = -1,
) -> Array:
    """`jaxloss.categorical_cross_entropy` of the shares, or `jaxloss.softmax_cross_entropy`."""
    x, y = (last(a, axis) for a in inputs.paired(None, y_pred=y_pred, y_true=y_true))
    y = parts.smooth_labels(y, label_smoothing)
    if from_logits:
        return multiclass.softmax_cross_entropy(x, y, reduction=None)
    return multiclass.categorical_cross_entropy(_inside(_shares(x)), y, reduction=None)


def categorical_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: ArrayLike = 0.25,
    gamma: ArrayLike = 2.0,
    from_logits: bool = False,
    label_smoothing: ArrayLike = 0.0,
    axis: int = -1,
) -> Array:
    """`jaxloss.softmax_focal_loss`; `alpha` counts every class."""
    x, y = (last(a, axis) for a in inputs.paired(None, y_pred=y_pred, y_true=y_true))
    logits = x if from_logits else jnp.log(_inside(_shares(x)))
    y = parts.smooth_labels(y, label_smoothing)
    return imbalance.softmax_focal_loss(logits, y, alpha=alpha, gamma=gamma, reduction=None)


def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Array:
    """`jaxloss.nll_loss` of the shares, or the softmax cross entropy of class indices."""
    labels = jnp.asarray(y_true)
    if labels.ndim == jnp.ndim(y_pred) and labels.shape[axis] == 1:
        labels = jnp.squeeze(labels, axis)
    labels = labels.astype(jnp.int32)
    kept = None if ignore_class is None else labels != ignore_class
    (x,) = inputs.floats(y_pred=last(y_pred, axis))
    if from_logits:
        loss = multiclass.softmax_cross_entropy_with_integer_labels
        return loss(x, labels, where=kept, reduction=None)
    x = inputs.blank(x, kept, features=1, fill=1)
    return multiclass.nll_loss(jnp.log(_inside(_shares(x))), labels, where=kept, reduction=None)


def categorical_generalized_cross_entropy(
    y_true: ArrayLike, y_pred: ArrayLike, q: ArrayLike
) -> Array:
    """`jaxloss.generalized_cross_entropy`."""
    labels = jnp.asarray(y_true).astype(jnp.int32)
    return multiclass.generalized_cross_entropy(y_pred, labels, q=q, reduction=None)


def dice(y_true: ArrayLike, y_pred: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Array:
    """`jaxloss.batch_binary_dice_loss` of probabilities, summed over `axis`."""
    return _overlap_loss(y_true, y_pred, 0.5, 0.5, axis, EPSILON / 2)


def tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    axis: int | tuple[int, ...] | None = None,
) -> Array:
    """`jaxloss.batch_tversky_loss` of probabilities, with its `alpha` and `beta` exchanged."""
    return _overlap_loss(y_true, y_pred, beta, alpha, axis, EPSILON)


def _overlap_loss(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    axis: int | tuple[int, ...] | None,
    epsilon: float,
) -> Array:
    p, y = inputs.paired(None, y_pred=y_pred, y_true=y_true)
    hit, false, missed = overlap.overlaps(p, 1 - p, y, axis=axis)
    alpha, beta = jnp.asarray(alpha, p.dtype), jnp.asarray(beta, p.dtype)
    return numerics.fraction(alpha * false + beta * missed + epsilon, hit)


def ctc(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """`jaxloss.ctc_loss` of logits, whose class 0 is the blank; labels of 0 are padding."""
    labels = jnp.asarray(y_true).astype(jnp.int32)
    number = jnp.sum(labels != 0, axis=-1, keepdims=True)
    first = jnp.arange(labels.shape[-1], dtype=number.dtype)[None] < number
    return sequence.ctc_loss(y_pred, labels, label_where=first, reduction=None)


def circle(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    ref_labels: None = None,
    ref_embeddings: None = None,
    remove_diagonal: bool = True,
    gamma: ArrayLike = 80,
    margin: ArrayLike = 0.4,
) -> Array:
    """`jaxloss.circle_loss`."""
    if ref_labels is not None or ref_embeddings is not None or not remove_diagonal:
        raise ValueError(
            "circle compares the rows of y_pred with each other: ref_labels and ref_embeddings "
            "must be None and remove_diagonal True."
        )
    labels = jnp.asarray(y_true).astype(jnp.int32)
    return metric.circle_loss(y_pred, labels, margin=margin, gamma=gamma, reduction=None)


def _pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    """Prediction and truth of one shape; a last axis of length 1 may be missing from one."""
    p, y = inputs.floats(y_pred=y_pred, y_true=y_true)
    p, y = _with_axis_of(y, p), _with_axis_of(p, y)
    p, y = jnp.broadcast_arrays(p, y)
    return p, y


def _with_axis_of(other: Array, array: Array) -> Array:
    """The array, with a last axis of length 1 if the other has one."""
    missing = other.ndim == array.ndim + 1 and other.shape[-1] == 1
    return array[..., None] if missing else array


def _mean(values: Array) -> Array:
    return jnp.mean(values, axis=-1)


def _inside(p: Array) -> Array:
    return jnp.clip(p, EPSILON, 1 - EPSILON)


def _shares(p: Array) -> Array:
    return p / jnp.sum(p, axis=-1, keepdims=True)


def _smoothed_bits(y: Array, label_smoothing: ArrayLike) -> Array:
    return y + jnp.asarray(label_smoothing, y.dtype) * (0.5 - y)


def _scores_and_signs(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    """The signs are 2·y - 1 if every label is 0 or 1."""
    scores, y = jnp.broadcast_arrays(*inputs.floats(y_pred=y_pred, y_true=y_true))
    return scores, jnp.where(jnp.all((y == 0) | (y == 1)), 2 * y - 1, y)
