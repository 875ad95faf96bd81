"""Of `jaxloss.compat.optax`: images, embeddings, rankings, sequences and maxima."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.compat.calls import last, together
from jaxloss.core import inputs, reductions
from jaxloss.losses import contrastive, metric, ranking, sequence
from jaxloss.parts import fenchel_young, overlap
from jaxloss.parts.distances import distances


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


def make_fenchel_young_loss(max_fun: Callable[..., ArrayLike]) -> Callable[..., Array]:
    """`jaxloss.make_fenchel_young_loss`; keywords of the loss are those of `max_fun`."""

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, **options: object) -> Array:
        loss = fenchel_young.make_fenchel_young_loss(functools.partial(max_fun, **options))
        return loss(scores, targets, reduction=None)

    return fenchel_young_loss


def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> Array:
    """`jaxloss.ntxent`, a mean."""
    return contrastive.ntxent(embeddings, labels, temperature=temperature)


def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> Array:
    """`jaxloss.triplet_margin_loss`; `eps` is added before the root of a distance."""
    triplet = together(anchors=anchors, positives=positives, negatives=negatives)

    def distance(x: Array, y: Array) -> Array:
        root = jnp.asarray(eps, x.dtype) ** (1 / jnp.asarray(norm_degree, x.dtype))
        more = jnp.broadcast_to(root, (*x.shape[:-1], 1))
        apart = jnp.concatenate([x - y, more], axis=-1)
        return distances(apart, jnp.zeros_like(apart), norm_degree)

    rows = (last(array, axis) for array in triplet)
    return metric.triplet_margin_loss(*rows, margin=margin, distance=distance, reduction=None)


def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> ArrayLike:
    """`jaxloss.ranking_softmax_loss`; weights are of items, `where` is passed to `reduce_fn`."""
    x, y = together(logits=logits, labels=labels)
    y = y if weights is None else y * jnp.asarray(weights, y.dtype)
    values = ranking.ranking_softmax_loss(x, y, where=where, reduction=None)
    lists = None if where is None else jnp.any(jnp.asarray(where), axis=-1)
    if reduce_fn is None:
        return values
    if reduce_fn is not jnp.mean:
        return reduce_fn(values, where=lists)
    return reductions.reduce(values, where=lists, weights=None, reduction="mean")


def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> Array:
    """`jaxloss.ctc_loss`; a padding is 1 where there is nothing."""
    _zero_is_zero(log_epsilon)
    steps, there = (jnp.asarray(padding) == 0 for padding in (logit_paddings, label_paddings))
    options = {"label_where": there, "blank_id": blank_id, "where": steps}
    return sequence.ctc_loss(logits, labels, **options, reduction=None)


def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[Array, Array, Array]:
    """`jaxloss.ctc_loss_with_forward_probs`; a padding is 1 where there is nothing."""
    _zero_is_zero(log_epsilon)
    steps, there = (jnp.asarray(padding) == 0 for padding in (logit_paddings, label_paddings))
    options = {"label_where": there, "blank_id": blank_id, "where": steps}
    return sequence.ctc_loss_with_forward_probs(logits, labels, **options)


def _zero_is_zero(log_epsilon: ArrayLike) -> None:
    if not isinstance(log_epsilon, float) or log_epsilon != -1e5:
        raise ValueError(
            f"log_epsilon must be left at -1e5, got {log_epsilon}: the logarithm of 0 is -inf here."
        )
