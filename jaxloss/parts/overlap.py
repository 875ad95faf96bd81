"""Overlap of predicted shares with labels: what is hit, what false, what missed."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxloss.core import numerics, over_classes


def shares(logits: Float[Array, "*units classes"]) -> tuple[Array, Array]:
    """Softmax of the logits and 1 less it, both exact; of a single class the sigmoid.

    Example:
        >>> print(*jaxloss.parts.overlap.shares(jnp.array([[0.0], [-jnp.inf]])))
        [[0.5] [0. ]] [[0.5] [1. ]]
    """
    if logits.shape[-1] == 1:
        return numerics.sigmoid(logits), numerics.sigmoid(-logits)
    return over_classes.softmax_and_complement(logits)


def overlaps(
    shares: Float[Array, "*units"],
    others: Float[Array, "*units"],
    labels: Float[Array, "*units"],
    *,
    axis: int | tuple[int, ...] | None = None,
) -> tuple[Array, Array, Array]:
    """Sums over pixels of what is hit, false and missed; nothing is subtracted from a sum.

        hit = Σ shares·labels,  false = Σ shares·(1 - labels),  missed = Σ others·labels

    Args:
        shares: `[*units]`, how much of a pixel is predicted to be of the class, in [0, 1].
        others: `[*units]`, 1 - `shares`, exact where it is small.
        labels: `[*units]`, how much of it is.
        axis: The pixels; None for all axes.

    Example:
        >>> p, labels = jnp.array([0.75, 0.25]), jnp.array([1.0, 0.0])
        >>> print(*jaxloss.parts.overlap.overlaps(p, 1 - p, labels))
        0.75 0.25 0.25
    """
    # XLA on CPU would store a 1 for every share, as softmax has one too
    products = (shares * labels, shares * (labels - 1), others * labels)
    hit, false, missed = (jnp.sum(product, axis=axis) for product in products)
    return hit, -false, missed


def overlap_loss(
    sums: tuple[Array, Array, Array],
    *,
    smooth: Float[ArrayLike, ""] | int,
    alpha: Float[ArrayLike, ""] | int,
    beta: Float[ArrayLike, ""] | int,
) -> Array:
    """One minus the Tversky index of the sums of `overlaps`, and 0 where all are 0.

        ℓ = 1 - (hit + smooth) / (hit + alpha·false + beta·missed + smooth)

    Example:
        >>> sums = jnp.array(0.75), jnp.array(0.25), jnp.array(0.25)
        >>> print(jaxloss.parts.overlap.overlap_loss(sums, smooth=0.0, alpha=0.5, beta=0.5))
        0.25
    """
    hit, false, missed = sums
    smooth, alpha, beta = (jnp.asarray(option, hit.dtype) for option in (smooth, alpha, beta))
    return numerics.fraction(alpha * false + beta * missed, hit + smooth)
