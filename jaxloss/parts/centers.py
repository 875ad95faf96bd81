"""Centers of classes, which follow the embeddings instead of a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Shaped

from jaxloss.core import inputs, vectors


def update_centers(
    centers: Float[ArrayLike, "classes features"],
    embeddings: Shaped[ArrayLike, "*units features"],
    labels: Integer[ArrayLike, "*units"],
    *,
    alpha: Float[ArrayLike, ""] | int = 0.5,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """The centers of `center_loss` and `island_loss` after a step towards their embeddings.

        c ← c - alpha·Σ (c - x) / (1 + n)      over the n embeddings x of the class

    The 1 keeps a center with few embeddings in place, and one with none still. No gradient flows
    from the new centers to the embeddings.

    Args:
        centers: `[classes, features]`, floating.
        embeddings: `[*units, features]`.
        labels: `[*units]`, integers in [0, classes); others make all centers NaN.
        alpha: The length of the step; in [0, 1], may be traced.
        where: Which units there are; the shape of the units or of their leading axes.

    Returns:
        `[classes, features]`.

    Raises:
        ValueError: The shapes do not fit, or `alpha` is outside [0, 1].
        TypeError: The embeddings are not floating, or the labels are not integers.

    Example:
        >>> centers, embeddings = jnp.zeros((2, 1)), jnp.array([[3.0], [6.0]])
        >>> print(jaxloss.update_centers(centers, embeddings, jnp.array([1, 1])))
        [[0. ]
         [1.5]]

    Reference:
        Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", 2016.
    """
    embeddings, centers, labels = inputs.headed(
        where, class_axis=0, embeddings=embeddings, centers=centers, labels=labels
    )
    alpha = inputs.option("alpha", alpha, centers, must_be="in [0, 1]")
    units = labels.shape
    kept = inputs.spread("where", True if where is None else where, units)
    own = jax.nn.one_hot(jnp.where(kept, labels, -1), centers.shape[0], dtype=centers.dtype)
    apart = jax.lax.stop_gradient(embeddings) - vectors.rows_at(centers, labels)
    over_units = list(range(len(units)))
    moves = jax.lax.dot_general(
        own, apart, ((over_units, over_units), ((), ())), precision="highest"
    )
    return centers + alpha * moves / (1 + jnp.sum(own, axis=over_units))[:, None]
