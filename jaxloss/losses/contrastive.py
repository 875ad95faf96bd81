"""Contrastive: the unit is an anchor, and the anchors of a batch see each other's positives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import inputs, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce_rows
from jaxloss.core.statistics import total

#: The kind of target that each loss learns from: none, a positive is another view of the anchor.
LEARNS: dict[str, str] = {}


def info_nce_loss(
    anchors: Float[ArrayLike, "units features"],
    positives: Shaped[ArrayLike, "units features"],
    *,
    temperature: Float[ArrayLike, ""] | int = 0.1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """InfoNCE: each anchor picks its own positive among those of the whole batch.

        s  = anchors · positivesᵀ / temperature
        ℓᵢ = log Σⱼ exp(sᵢⱼ) - sᵢᵢ

    The positives of the others are the negatives, so a larger batch is a harder task and parts
    of a batch have to see each other: they merge by `jaxloss.stats`. A deleted row is nobody's
    negative; a weight repeats the anchor's own term. Normalise the embeddings to compare angles.

    Args:
        anchors: `[units, features]`, floating.
        positives: `[units, features]`, the match of each anchor.
        temperature: Divides the similarities; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per anchor.

    Raises:
        ValueError: The shapes differ, or `temperature` is not positive.
        TypeError: The anchors are not floating.

    Also known as:
        In-batch negatives, multiple negatives ranking loss, N-pair loss.
        `sentence_transformers.losses.MultipleNegativesRankingLoss`: with scale 1 / temperature

    Example:
        >>> print(f"{jaxloss.info_nce_loss(jnp.eye(2), jnp.eye(2), temperature=1.0):.4f}")
        0.3133

    Reference:
        van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive
        Coding", 2018, arXiv:1807.03748.
    """
    anchors, positives = inputs.paired(where, features=1, anchors=anchors, positives=positives)
    temperature = inputs.option("temperature", temperature, anchors, must_be="positive")
    return reduce_rows(
        _info_nce,
        (anchors, positives),
        temperature,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _info_nce(
    anchors: Array, positives: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    middle = numerics.ratio(total(positives, where, None), jnp.sum(where, dtype=positives.dtype))
    # a shift of all positives changes no loss; without their mean the differences keep their digits
    apart = positives - jax.lax.stop_gradient(middle)[None]
    s = jnp.matmul(anchors, apart.T, precision="highest") / temperature
    s = jnp.where(where[None], s, -jnp.inf)
    return over_classes.cross_entropy_at(s, jnp.arange(s.shape[-1])), where
