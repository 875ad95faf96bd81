"""The losses of `torch.nn.functional` for JAX arrays: its names, arguments, reductions.

`import jaxloss.compat.torch as F` is the whole migration: the classes are axis 1,
`ignore_index=-100`, "mean" divides by what torch divides by, and what torch keeps from 0 (a
variance, a norm, a logarithm of -100) is kept from it here. The arithmetic is float32 or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import longer, together
from jaxloss.core import inputs, reductions
from jaxloss.core.reductions import Reduction, unit_mean
from jaxloss.fused import linear
from jaxloss.losses import (
    binary,
    divergence,
    likelihood,
    metric,
    multiclass,
    ranking,
    regression,
    sequence,
)
from jaxloss.losses import (
    margin as margins,
)
from jaxloss.parts.distances import distances

REDUCTIONS: dict[str, Reduction[Array]] = {"none": None, "mean": "mean", "sum": "sum"}


def _reduction(
    name: str, size_average: bool | None = None, reduce: bool | None = None
) -> Reduction[Array]:
    """Ours of that name, or what the two former arguments say."""
    if size_average is not None or reduce is not None:
        name = "none" if reduce is False else "sum" if size_average is False else "mean"
    if name not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {name!r}.")
    return REDUCTIONS[name]


def _per_unit(reduction: Reduction[Array]) -> Reduction[Array]:
    """A mean that divides by the number of units, whatever they weigh."""
    return unit_mean if reduction == "mean" else reduction


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Array:
    """`jaxloss.absolute_error`; a mean divides by the sum of the weights."""
    how = _reduction(reduction, size_average, reduce)
    pair = together(input=input, target=target)
    return regression.absolute_error(*pair, weights=weight, reduction=how)


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Array:
    """`jaxloss.squared_error`; a mean divides by the sum of the weights."""
    how = _reduction(reduction, size_average, reduce)
    pair = together(input=input, target=target)
    return regression.squared_error(*pair, weights=weight, reduction=how)


def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: ArrayLike = 1.0,
    weight: ArrayLike | None = None,
) -> Array:
    """`jaxloss.huber_loss`; a mean divides by the number of elements."""
    how = _per_unit(_reduction(reduction))
    pair = together(input=input, target=target)
    return regression.huber_loss(*pair, delta=delta, weights=weight, reduction=how)


def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: ArrayLike = 1.0,
) -> Array:
    """`jaxloss.smooth_l1_loss`."""
    how = _reduction(reduction, size_average, reduce)
    pair = together(input=input, target=target)
    return regression.smooth_l1_loss(*pair, beta=beta, reduction=how)


def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: ArrayLike = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.poisson_nll_loss`; `eps` is added to the rate in the logarithm."""
    how = _reduction(reduction, size_average, reduce)
    rates, target = together(input=input, target=target)
    more = jnp.asarray(0.0 if log_input else eps, rates.dtype)
    options = {"log_input": log_input, "full": full}
    values = likelihood.poisson_nll_loss(rates + more, target, **options, reduction=None) - more
    return reductions.reduce(values, where=None, weights=None, reduction=how)


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    eps: ArrayLike = 1e-6,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.gaussian_nll_loss` of variances of `eps` or more; a negative one is NaN."""
    if jnp.ndim(var) and jnp.shape(var) == jnp.shape(input)[:-1]:
        var = jnp.expand_dims(var, -1)
    means, target, var = together(input=input, target=target, var=var)
    var = jnp.where(var < 0, var, jnp.maximum(var, jnp.asarray(eps, var.dtype)))
    how = _reduction(reduction)
    return likelihood.gaussian_nll_loss(means, var, target, full=full, reduction=how)


def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.binary_cross_entropy` with no logarithm below -100."""
    how = _per_unit(_reduction(reduction, size_average, reduce))
    p, y = inputs.paired(None, input=input, target=target)

    def cost(label: int) -> Array:
        impossible = (p if label else 1 - p) <= math.exp(-100)
        possible = jnp.where(impossible, label, p)
        labels = jnp.full_like(p, label)
        costs = binary.binary_cross_entropy(possible, labels, reduction=None)
        return jnp.where(impossible, 100, costs)

    weight = None if weight is None else jnp.broadcast_to(weight, p.shape)
    values = y * cost(1) + (1 - y) * cost(0)
    return reductions.reduce(values, where=None, weights=weight, reduction=how)


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Array:
    """`jaxloss.sigmoid_binary_cross_entropy`; a mean divides by the number of elements."""
    how = _per_unit(_reduction(reduction, size_average, reduce))
    x, y = inputs.paired(None, input=input, target=target)
    c = jnp.asarray(1.0 if pos_weight is None else pos_weight)
    axes = [axis for axis, size in zip(range(-c.ndim, 0), c.shape, strict=True) if size > 1]
    if len(axes) > 1:
        raise ValueError(f"pos_weight must vary along one axis, got shape {c.shape}.")
    axis = axes[0] if axes else -1
    x, y = (jnp.moveaxis(array, axis, -1) if axes else array for array in (x, y))
    given = c.reshape(-1) if axes else c.reshape(()) if pos_weight is not None else 1.0
    values = binary.sigmoid_binary_cross_entropy(x, y, pos_weight=given, reduction=None)
    values = jnp.moveaxis(values, -1, axis) if axes else values
    weight = None if weight is None else jnp.broadcast_to(weight, values.shape)
    return reductions.reduce(values, where=None, weights=weight, reduction=how)


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: ArrayLike = 0.0,
) -> Array:
    """`jaxloss.softmax_cross_entropy` where the shapes agree, else the one of class indices.

    A mean divides by the number of distributions, or by the weights of the classes of the labels.
    """
    how = _reduction(reduction, size_average, reduce)
    options = {"class_weights": weight, "label_smoothing": label_smoothing}
    logits = _classes_last(input)
    if jnp.shape(target) == jnp.shape(input):
        labels = _classes_last(target)
        values = multiclass.softmax_cross_entropy(logits, labels, **options, reduction=None)
        return reductions.reduce(values, where=None, weights=None, reduction=how)
    loss, kept = multiclass.softmax_cross_entropy_with_integer_labels, target != ignore_index
    return loss(logits, target, **options, where=kept, reduction=how)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.nll_loss`; a mean divides by the weights of the classes of the labels."""
    how, kept = _reduction(reduction, size_average, reduce), jnp.asarray(target) != ignore_index
    log_probs = _classes_last(input)
    return multiclass.nll_loss(log_probs, target, class_weights=weight, where=kept, reduction=how)


def _classes_last(array: ArrayLike) -> Array:
    array = jnp.asarray(array)
    return array if array.ndim < 2 else jnp.moveaxis(array, 1, -1)


def linear_cross_entropy(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: ArrayLike = 0.0,
    options: None = None,
) -> Array:
    """`jaxloss.linear_softmax_cross_entropy` of class indices; `linear_weight` is the transpose."""
    if options is not None:
        raise ValueError("options of torch's blocks have no meaning here and must be None.")
    if jnp.ndim(linear_weight) != 2:
        raise ValueError("linear_weight must be [classes, features]: for more axes, vmap it.")
    if not jnp.issubdtype(jnp.asarray(target).dtype, jnp.integer):
        raise ValueError("target must be class indices; of distributions, use cross_entropy.")
    kept = jnp.asarray(target) != (-100 if ignore_index is None else ignore_index)
    return linear.linear_softmax_cross_entropy(
        input,
        jnp.transpose(linear_weight),
        target,
        bias=linear_bias,
        class_weights=weight,
        label_smoothing=label_smoothing,
        where=kept,
        reduction=_reduction(reduction),
    )


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Array:
    """`jaxloss.kl_divergence`, a term per class; "batchmean" divides by the first axis only."""
    batch = reduction == "batchmean" and size_average is None and reduce is None
    how = _reduction("sum" if batch else reduction, size_average, reduce)
    x, y = (array[..., None] for array in together(input=input, target=target))
    plain, of_logs = divergence.kl_divergence, divergence.kl_divergence_with_log_targets
    total = (of_logs if log_target else plain)(x, y, reduction=how)
    return total / max(len(x), 1) if batch and jnp.ndim(input) else total


def soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.soft_margin_loss`."""
    how = _reduction(reduction, size_average, reduce)
    return margins.soft_margin_loss(*together(input=input, target=target), reduction=how)


def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: ArrayLike = 1.0,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.multi_margin_loss`; a mean divides by the number of units."""
    how = _per_unit(_reduction(reduction, size_average, reduce))
    options = {"p": p, "margin": margin, "class_weights": weight}
    return margins.multi_margin_loss(input, target, **options, reduction=how)


def multilabel_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.multilabel_margin_loss` of class indices up to the first -1."""
    how = _reduction(reduction, size_average, reduce)
    target = jnp.asarray(target)
    listed = jnp.where(jnp.cumsum(target == -1, axis=-1) == 0, target, -1)
    named = jnp.any(jax.nn.one_hot(listed, jnp.shape(input)[-1], dtype=bool), axis=-2)
    return margins.multilabel_margin_loss(input, named, reduction=how)


def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.multilabel_soft_margin_loss`."""
    how = _reduction(reduction, size_average, reduce)
    loss = margins.multilabel_soft_margin_loss
    return loss(*together(input=input, target=target), class_weights=weight, reduction=how)


def hinge_embedding_loss(
    input: ArrayLike,
    target: ArrayLike,
    margin: ArrayLike = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.hinge_embedding_loss`."""
    how, pair = _reduction(reduction, size_average, reduce), together(input=input, target=target)
    return margins.hinge_embedding_loss(*pair, margin=margin, reduction=how)


def cosine_embedding_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: ArrayLike = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.cosine_embedding_loss`; 1e-12 is added to the squared norms."""
    how = _reduction(reduction, size_average, reduce)
    a, b = together(input1=input1, input2=input2)
    a, b = longer(a, b, 1e-6, 1e-6)
    return margins.cosine_embedding_loss(a, b, target, margin=margin, reduction=how)


def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: ArrayLike = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.margin_ranking_loss`."""
    how = _reduction(reduction, size_average, reduce)
    arrays = together(input1=input1, input2=input2, target=target)
    return ranking.margin_ranking_loss(*arrays, margin=margin, reduction=how)


def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: ArrayLike = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.triplet_margin_loss`; `eps` is added to each difference."""
    _positive("margin", margin)
    how = _reduction(reduction, size_average, reduce)
    triplet = together(anchor=anchor, positive=positive, negative=negative)
    options = {"distance": _shifted_distance(p, eps), "margin": margin, "swap": swap}
    return metric.triplet_margin_loss(*triplet, **options, reduction=how)


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[Array, Array], Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.triplet_margin_loss` with a distance of yours."""
    _positive("margin", margin)
    how = _reduction(reduction)
    triplet = together(anchor=anchor, positive=positive, negative=negative)
    distance = distance_function or _shifted_distance(2, 1e-6)
    options = {"distance": distance, "margin": margin, "swap": swap}
    return metric.triplet_margin_loss(*triplet, **options, reduction=how)


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}.")


def _shifted_distance(p: ArrayLike, eps: float) -> Callable[[Array, Array], Array]:
    return lambda x, y: distances(x - y + eps, jnp.zeros_like(x), p)


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike | Sequence[int],
    target_lengths: ArrayLike | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Array:
    """`jaxloss.ctc_loss` of `[steps, batch, classes]`; a mean is over losses per label.

    The targets are `[batch, length]`, or one after the other if the lengths are not traced.
    """
    how = _reduction(reduction)
    logits, labels = jnp.asarray(log_probs), jnp.asarray(targets)
    steps, lengths = (jnp.atleast_1d(jnp.asarray(n)) for n in (input_lengths, target_lengths))
    alone = logits.ndim == 2
    if alone:
        logits, labels = logits[:, None], labels[None]
    if labels.ndim == 1:
        labels = _split(labels, np.asarray(target_lengths))
    values = sequence.ctc_loss(
        jnp.swapaxes(logits, 0, 1),
        labels,
        label_where=_first(lengths, labels.shape[1]),
        blank_id=blank,
        zero_infinity=zero_infinity,
        where=_first(steps, len(logits)),
        reduction=None,
    )
    values = values / jnp.maximum(lengths, 1).astype(values.dtype) if how == "mean" else values
    values = values[0] if alone else values
    return reductions.reduce(values, where=None, weights=None, reduction=how)


def _first(lengths: Array, size: int) -> Array:
    """Which of `size` places come before each of the lengths."""
    return jnp.arange(size, dtype=lengths.dtype)[None] < lengths[:, None]


def _split(labels: Array, lengths: np.ndarray) -> Array:
    """Labels one after the other as `[batch, length]`."""
    starts = np.cumsum(lengths) - lengths
    places = starts[:, None] + np.arange(max(lengths, default=0))
    return labels[np.minimum(places, len(labels) - 1)]
