"""Distances and similarities between every row of one array and every row of another."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num, Shaped

from jaxloss.core import inputs, vectors


def pairwise_distances(
    x: Float[ArrayLike, "rows features"],
    y: Shaped[ArrayLike, "columns features"],
    *,
    squared: bool = False,
) -> Array:
    """Euclidean distance of every row of `x` from every row of `y`.

        dᵢⱼ = ‖xᵢ - yⱼ‖

    It is a sum of squared differences, so close points keep their digits; ‖x‖² + ‖y‖² - 2·x·y
    has none left where the distance is small. The gradient at distance 0 is 0.

    Args:
        x: `[rows, features]`, floating.
        y: `[columns, features]`.
        squared: Leave out the root.

    Returns:
        `[rows, columns]`.

    Raises:
        ValueError: The arrays do not have two axes, or not the same number of features.
        TypeError: `x` is not floating.

    Also known as:
        Distance matrix.
        `torch.cdist(x, y)`: `pairwise_distances(x, y)`
        `sklearn.metrics.pairwise.euclidean_distances(x, y)`: `pairwise_distances(x, y)`
        `scipy.spatial.distance.cdist(x, y)`: `pairwise_distances(x, y)`

    Example:
        >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> print(jaxloss.pairwise_distances(x, x))
        [[0. 5.]
         [5. 0.]]
    """
    x, y = _rows(x=x, y=y)
    apart = x[:, None] - y[None]
    return jnp.sum(apart**2, axis=-1) if squared else vectors.safe_norm(apart)


def pairwise_cosine_similarities(
    x: Float[ArrayLike, "rows features"], y: Shaped[ArrayLike, "columns features"]
) -> Array:
    """Cosine of the angle between every row of `x` and every row of `y`.

        sᵢⱼ = xᵢ·yⱼ / (‖xᵢ‖·‖yⱼ‖)

    A row of length 0 has no direction: its similarities are 0, with gradient 0.

    Args:
        x: `[rows, features]`, floating.
        y: `[columns, features]`.

    Returns:
        `[rows, columns]`.

    Raises:
        ValueError: The arrays do not have two axes, or not the same number of features.
        TypeError: `x` is not floating.

    Also known as:
        Similarity matrix.
        `sklearn.metrics.pairwise.cosine_similarity(x, y)`: `pairwise_cosine_similarities(x, y)`

    Example:
        >>> x = jnp.array([[2.0, 0.0], [0.0, 3.0]])
        >>> print(jaxloss.pairwise_cosine_similarities(x, x))
        [[1. 0.]
         [0. 1.]]
    """
    x, y = _rows(x=x, y=y)
    return jnp.matmul(vectors.normalized(x), vectors.normalized(y).T, precision="highest")


def distances(
    x: Array, y: Array, norm: Float[ArrayLike, ""] | Num[ArrayLike, ""] | int = 2
) -> Array:
    """Distance of each row of `x` from the same row of `y`, by the norm (Σ|x - y|ⁿ)^(1/n)."""
    if isinstance(norm, int | float) and norm == 2:
        return vectors.distance(x, y)
    return vectors.p_norm(x - y, inputs.option("norm", norm, x, must_be="1 or more"))


def _rows(**arrays: ArrayLike) -> list[Array]:
    x, y = inputs.floats(**arrays)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must be [rows, features] with the same features, got {x.shape} and {y.shape}."
        )
    return [x, y]
