"""Who is whose positive and negative in a batch, and which of them to learn from, as masks.

All masks are boolean and have the shape of the batch, so nothing is recompiled when the labels
change. A deleted row is in no pair.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from jaxloss.core import inputs, over_classes


def positive_pairs(
    labels: Integer[ArrayLike, "units"], *, where: Bool[ArrayLike, "..."] | None = None
) -> Array:
    """Which pairs share a label; no row is its own positive.

    Args:
        labels: `[units]`, any integers: rows with the same one belong together.
        where: `[units]`, which rows there are.

    Returns:
        `[units, units]`, boolean: of each row (anchor) its positives.

    Raises:
        ValueError: `where` has another shape.
        TypeError: The labels are not integers.

    Example:
        >>> print(jaxloss.positive_pairs(jnp.array([7, 7, 5])).astype(int))
        [[0 1 0]
         [1 0 0]
         [0 0 0]]
    """
    labels, kept = _kept(labels, where)
    return _same(labels) & kept & ~jnp.eye(labels.size, dtype=bool)


def negative_pairs(
    labels: Integer[ArrayLike, "units"], *, where: Bool[ArrayLike, "..."] | None = None
) -> Array:
    """Which pairs have different labels.

    Args:
        labels: `[units]`, any integers: rows with the same one belong together.
        where: `[units]`, which rows there are.

    Returns:
        `[units, units]`, boolean: of each row (anchor) its negatives.

    Raises:
        ValueError: `where` has another shape.
        TypeError: The labels are not integers.

    Example:
        >>> print(jaxloss.negative_pairs(jnp.array([7, 7, 5])).astype(int))
        [[0 0 1]
         [0 0 1]
         [1 1 0]]
    """
    labels, kept = _kept(labels, where)
    return ~_same(labels) & kept


def hard_negatives(
    distances: Float[ArrayLike, "units units"],
    labels: Integer[ArrayLike, "units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """The nearest negative of each anchor: the one most easily mistaken for a positive.

    Args:
        distances: `[units, units]`, as of `pairwise_distances`; of similarities, pass `-s`.
        labels: `[units]`, any integers: rows with the same one belong together.
        where: `[units]`, which rows there are.

    Returns:
        `[units, units]`, boolean: one negative of each anchor that has any, the first of equals.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The distances are not floating, or the labels are not integers.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [3.0], [9.0]])
        >>> d = jaxloss.pairwise_distances(x, x)
        >>> print(jaxloss.hard_negatives(d, jnp.array([0, 0, 1, 1])).astype(int))
        [[0 0 1 0]
         [0 0 1 0]
         [0 1 0 0]
         [0 1 0 0]]

    Reference:
        Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
        2017, arXiv:1703.07737.
    """
    return _nearest(_square(distances, labels), negative_pairs(labels, where=where))


def easy_positives(
    distances: Float[ArrayLike, "units units"],
    labels: Integer[ArrayLike, "units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """The nearest positive of each anchor: the one already most like it.

    Args:
        distances: `[units, units]`, as of `pairwise_distances`; of similarities, pass `-s`.
        labels: `[units]`, any integers: rows with the same one belong together.
        where: `[units]`, which rows there are.

    Returns:
        `[units, units]`, boolean: one positive of each anchor that has any, the first of equals.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The distances are not floating, or the labels are not integers.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> d = jaxloss.pairwise_distances(x, x)
        >>> print(jaxloss.easy_positives(d, jnp.array([4, 4, 4])).astype(int))
        [[0 1 0]
         [1 0 0]
         [0 1 0]]

    Reference:
        Xuan, Stylianou and Pless, "Improved Embeddings with Easy Positive Triplet Mining", 2020,
        arXiv:1904.04370.
    """
    return _nearest(_square(distances, labels), positive_pairs(labels, where=where))


def semi_hard_negatives(
    distances: Float[ArrayLike, "units units"],
    labels: Integer[ArrayLike, "units"],
    *,
    margin: Float[ArrayLike, ""] | int = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """The negatives that are farther away than a positive, but by less than the margin.

    They are those a triplet loss learns from without the collapse that the hardest ones may cause.

    Args:
        distances: `[units, units]`, as of `pairwise_distances`.
        labels: `[units]`, any integers: rows with the same one belong together.
        margin: How much farther than the positive a negative is to be; positive, may be traced.
        where: `[units]`, which rows there are.

    Returns:
        `[units, units, units]`, boolean: of each anchor and each of its positives the negatives.

    Raises:
        ValueError: The shapes do not fit, or `margin` is not positive.
        TypeError: The distances are not floating, or the labels are not integers.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [1.5], [9.0]])
        >>> d = jaxloss.pairwise_distances(x, x)
        >>> print(jaxloss.semi_hard_negatives(d, jnp.array([0, 0, 1, 1]))[0, 1].astype(int))
        [0 0 1 0]

    Reference:
        Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, arXiv:1503.03832.
    """
    distances = _square(distances, labels)
    margin = inputs.option("margin", margin, distances, must_be="positive")
    positive, negative = positive_pairs(labels, where=where), negative_pairs(labels, where=where)
    of_positive, of_negative = distances[:, :, None], distances[:, None]
    between = (of_positive < of_negative) & (of_negative < of_positive + margin)
    return positive[:, :, None] & negative[:, None] & between


def _kept(labels: ArrayLike, where: ArrayLike | None) -> tuple[Array, Array]:
    """The labels, and which pairs have both their rows."""
    labels = inputs.integers(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must be [units] integers, got shape {labels.shape}.")
    kept = inputs.spread("where", True if where is None else where, labels.shape)
    return labels, kept[:, None] & kept[None]


def _same(labels: Array) -> Array:
    return labels[:, None] == labels[None]


def _square(distances: ArrayLike, labels: ArrayLike) -> Array:
    (distances,) = inputs.floats(distances=distances)
    if distances.shape != jnp.shape(labels) * 2:
        raise ValueError(
            f"distances must be [units, units] for labels [units], got {distances.shape} and "
            f"{jnp.shape(labels)}."
        )
    return distances


def _nearest(distances: Array, pairs: Array) -> Array:
    away = jnp.where(pairs, distances, jnp.inf)
    return pairs & over_classes.hit(away, over_classes.largest(-away))
