"""The losses of `torch.nn.functional` for JAX arrays: its names, arguments, reductions.

`import jaxloss.compat.torch as F` is the whole migration: the classes are axis 1,
`ignore_index=-100`, "mean" divides by what torch divides by, and what torch keeps from 0 (a
variance, a norm, a logarithm of -100) is kept from it here. The arithmetic is float32 or more.

Where torch is wrong, what it gives and what is given here:

    cross_entropy: every label ignored
        nan, here 0: 0/0 of a mean
    nll_loss: every label ignored
        nan, here 0: 0/0 of a mean
    linear_cross_entropy: every label ignored
        nan, here 0: 0/0 of a mean
    l1_loss: weights that sum to 0
        nan, here 0: 0/0 of a mean
    l1_loss: no elements
        nan, here 0: 0/0 of a mean; the same for every loss
    mse_loss: weights that sum to 0
        nan, here 0: 0/0 of a mean
    mse_loss: no elements
        nan, here 0: 0/0 of a mean; the same for every loss
    cross_entropy: a logit of -inf, probability 0
        nan, here 0.31326: 0 · inf; the class is absent
    cross_entropy: a label out of range
        IndexError, here nan: an array's values raise nothing under jit; checked names them
    nll_loss: a label out of range
        IndexError, here nan: an array's values raise nothing under jit; checked names them
    binary_cross_entropy_with_logits: a logit of ±inf
        nan, here 0: 0 · inf; certain and right
    binary_cross_entropy: held impossible, slope
        -1e+12, here 0: the value is the constant 100
    gaussian_nll_loss: var below eps, slope by var
        -5e+11, here 0: the value is that of eps, a constant
    gaussian_nll_loss: a negative var
        ValueError, here nan: an array's values raise nothing under jit; checked names them
    poisson_nll_loss: full=True, a target above 1
        2.7641, here 2.7918: log target! by the first terms of Stirling's series
    kl_div: an input of -inf, target 0
        nan, here 0: 0 · inf; 0 · log 0 is 0
    kl_div: a log-target of -inf
        nan, here 0: 0 · inf; 0 · log 0 is 0
    soft_margin_loss: a score of -710 or less on the wrong side
        inf, here 1000: the exponential overflows
    multilabel_margin_loss: a class that is listed twice
        2, here 1: labels are a set; there it counts twice
    ctc_loss: more labels than steps, slope
        nan, here 0: the value is inf whatever the input

What is refused, with a ValueError:

    binary_cross_entropy_with_logits: a `pos_weight` of two axes
    linear_cross_entropy: `options`
    linear_cross_entropy: `ignore_index` of probabilities, as there
    triplet_margin_loss: `p` below 1
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import per_unit, reduction_of, together
from jaxloss.compat.torch_margins import cosine_embedding_loss as cosine_embedding_loss
from jaxloss.compat.torch_margins import ctc_loss as ctc_loss
from jaxloss.compat.torch_margins import hinge_embedding_loss as hinge_embedding_loss
from jaxloss.compat.torch_margins import margin_ranking_loss as margin_ranking_loss
from jaxloss.compat.torch_margins import multi_margin_loss as multi_margin_loss
from jaxloss.compat.torch_margins import multilabel_margin_loss as multilabel_margin_loss
from jaxloss.compat.torch_margins import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxloss.compat.torch_margins import soft_margin_loss as soft_margin_loss
from jaxloss.compat.torch_margins import triplet_margin_loss as triplet_margin_loss
from jaxloss.compat.torch_margins import (
    triplet_margin_with_distance_loss as triplet_margin_with_distance_loss,
)
from jaxloss.core import inputs, reductions
from jaxloss.fused import linear
from jaxloss.losses import binary, divergence, likelihood, multiclass, regression


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Array:
    """`jaxloss.absolute_error`; a mean divides by the sum of the weights."""
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = per_unit(reduction_of(reduction))
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction)
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
    how = per_unit(reduction_of(reduction, size_average, reduce))
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
    how = per_unit(reduction_of(reduction, size_average, reduce))
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
    how = reduction_of(reduction, size_average, reduce)
    options = {"class_weights": weight, "label_smoothing": label_smoothing}
    logits = _classes_last(input)
    if jnp.shape(target) == jnp.shape(input):
        labels = _classes_last(target)
        values = multiclass.softmax_cross_entropy(logits, labels, **options, reduction=None)
        return reductions.reduce(values, where=None, weights=None, reduction=how)
    loss = multiclass.softmax_cross_entropy_with_integer_labels
    kept = jnp.asarray(target) != ignore_index
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
    how, kept = reduction_of(reduction, size_average, reduce), jnp.asarray(target) != ignore_index
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
    """`jaxloss.linear_softmax_cross_entropy`; `linear_weight` is the transpose of its `head`.

    With axes between the classes and the features, or targets that are probabilities, it is
    `cross_entropy` of the logits.
    """
    if options is not None:
        raise ValueError("options of torch's blocks have no meaning here and must be None.")
    shares = {"weight": weight, "label_smoothing": label_smoothing, "reduction": reduction}
    ignored = -100 if ignore_index is None else ignore_index
    of_indices = jnp.issubdtype(jnp.asarray(target).dtype, jnp.integer)
    if jnp.ndim(linear_weight) > 2 or not of_indices:
        if ignore_index is not None and not of_indices:
            raise ValueError("ignore_index is of class indices: target must be integers.")
        logits = jnp.tensordot(input, linear_weight, axes=(-1, -1))
        if linear_bias is not None:
            logits = logits + jnp.broadcast_to(linear_bias, logits.shape)
        return cross_entropy(logits, target, ignore_index=ignored, **shares)
    return linear.linear_softmax_cross_entropy(
        input,
        jnp.transpose(linear_weight),
        target,
        bias=linear_bias,
        class_weights=weight,
        label_smoothing=label_smoothing,
        where=jnp.asarray(target) != ignored,
        reduction=reduction_of(reduction),
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
    how = reduction_of("sum" if batch else reduction, size_average, reduce)
    x, y = (array[..., None] for array in together(input=input, target=target))
    plain, of_logs = divergence.kl_divergence, divergence.kl_divergence_with_log_targets
    total = (of_logs if log_target else plain)(x, y, reduction=how)
    return total / max(len(x), 1) if batch and jnp.ndim(input) else total
