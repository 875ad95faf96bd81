"""Of `jaxloss.compat.torch`: margins, embeddings and sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import longer, per_unit, reduction_of, together
from jaxloss.core import reductions
from jaxloss.losses import margin as margins
from jaxloss.losses import metric, ranking, sequence
from jaxloss.parts.distances import distances


def soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """`jaxloss.soft_margin_loss`."""
    how = reduction_of(reduction, size_average, reduce)
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
    how = per_unit(reduction_of(reduction, size_average, reduce))
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how, pair = reduction_of(reduction, size_average, reduce), together(input=input, target=target)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction, size_average, reduce)
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
    how = reduction_of(reduction)
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
    how = reduction_of(reduction)
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
