"""Logits that are made of angles, with a margin for the class of the label."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Shaped

from jaxloss.core import inputs, over_classes, vectors


def sphereface_logits(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: int = 4,
) -> Array:
    """Logits of A-Softmax: the angle to the class of the label counts several times.

        xⱼ = ‖embedding‖·cos θⱼ,  and of the label  ‖embedding‖·((-1)ᵏ·cos(margin·θ) - 2·k)
        k  = ⌊margin·θ / π⌋, so that the label's logit falls all the way from θ = 0 to π

    cos(margin·θ) is a polynomial in cos θ, so that no derivative is infinite.

    Args:
        embeddings: `[*units, features]`, floating.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others make their unit NaN.
        margin: How many times the angle counts; an integer of 1 or more.

    Returns:
        `[*units, classes]`.

    Raises:
        ValueError: The shapes do not fit, or `margin` is not an integer of 1 or more.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Example:
        >>> embeddings, head = jnp.array([[0.0, 2.0]]), jnp.eye(2)
        >>> print(jaxloss.sphereface_logits(embeddings, head, jnp.array([0]), margin=2))
        [[-2. 2.]]

    Reference:
        Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017,
        arXiv:1704.08063.
    """
    if margin != int(margin) or margin < 1:
        raise ValueError(f"margin must be an integer of 1 or more, got {margin}.")
    embeddings, head, labels = inputs.headed(None, embeddings=embeddings, head=head, labels=labels)
    directions = vectors.normalized(head.T)
    logits = jnp.matmul(embeddings, directions.T, precision="highest")
    own = vectors.rows_at(directions, labels)
    cosine = jnp.sum(vectors.normalized(embeddings) * own, axis=-1)
    before, now = jnp.ones_like(cosine), cosine
    for _ in range(int(margin) - 1):
        before, now = now, 2 * cosine * now - before  # cos((n + 1)·θ), Chebyshev
    turns = [math.cos(j * math.pi / margin) for j in range(1, int(margin))]
    k = sum(((cosine < turn).astype(cosine.dtype) for turn in turns), jnp.zeros_like(cosine))
    less = cosine - ((1 - 2 * (k % 2)) * now - 2 * k)  # than without a margin: 0 at length 0
    less = vectors.safe_norm(embeddings) * less
    return logits - jnp.where(over_classes.hit(logits, labels), less[..., None], 0)


def cosface_logits(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.35,
    scale: Float[ArrayLike, ""] | int = 64.0,
) -> Array:
    """Logits that are cosines, that of the label less a margin.

        xⱼ = scale·cos θⱼ,  and of the label  scale·(cos θ - margin)

    Args:
        embeddings: `[*units, features]`, floating; their lengths do not count.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others make their unit NaN.
        margin: What the label's cosine lacks; 0 or more, may be traced.
        scale: Multiplies the cosines; positive, may be traced.

    Returns:
        `[*units, classes]`. An embedding of length 0 has no direction: its cosines are 0.

    Raises:
        ValueError: The shapes do not fit, `margin` is negative or `scale` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Example:
        >>> embeddings, head = jnp.array([[0.0, 2.0]]), jnp.eye(2)
        >>> print(jaxloss.cosface_logits(embeddings, head, jnp.array([1]), margin=0.5, scale=8.0))
        [[0. 4.]]

    Reference:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018,
        arXiv:1801.09414.
    """
    embeddings, head, labels = inputs.headed(None, embeddings=embeddings, head=head, labels=labels)
    margin = inputs.option("margin", margin, embeddings, must_be="0 or more")
    scale = inputs.option("scale", scale, embeddings, must_be="positive")
    cosines, _, _ = _angles(embeddings, head, labels)
    return scale * jnp.where(over_classes.hit(cosines, labels), cosines - margin, cosines)


def arcface_logits(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.5,
    scale: Float[ArrayLike, ""] | int = 64.0,
) -> Array:
    """Logits that are cosines, where the angle to the class of the label is larger by a margin.

        xⱼ = scale·cos θⱼ,  and of the label  scale·cos(θ + margin)  for θ < π - margin,
                                              scale·(cos θ - margin·sin margin)  beyond

    Beyond π - margin the cosine would rise again and push an embedding away from its class; there
    the authors' code subtracts a constant instead. sin θ is the length of what is left of one
    direction without the other, so that no derivative is infinite at cos θ = ±1.

    Args:
        embeddings: `[*units, features]`, floating; their lengths do not count.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others make their unit NaN.
        margin: What is added to the label's angle, in radians; in [0, π], may be traced.
        scale: Multiplies the cosines; positive, may be traced.

    Returns:
        `[*units, classes]`. An embedding of length 0 has no direction: its cosines are 0.

    Raises:
        ValueError: The shapes do not fit, `margin` is not in [0, π] or `scale` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Example:
        >>> embeddings, head = jnp.array([[0.0, 2.0]]), jnp.eye(2)
        >>> print(jaxloss.arcface_logits(embeddings, head, jnp.array([1]), scale=1.0).round(3))
        [[0. 0.878]]

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019,
        arXiv:1801.07698.
    """
    embeddings, head, labels = inputs.headed(None, embeddings=embeddings, head=head, labels=labels)
    margin = inputs.option("margin", margin, embeddings, must_be="in [0, π]")
    scale = inputs.option("scale", scale, embeddings, must_be="positive")
    cosines, directions, own = _angles(embeddings, head, labels)
    cosine = jnp.sum(directions * own, axis=-1)
    aside = vectors.safe_norm(directions - cosine[..., None] * own)
    sine = jnp.where(jnp.any(directions != 0, axis=-1), aside, 1)
    wider = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    target = jnp.where(cosine > -jnp.cos(margin), wider, cosine - margin * jnp.sin(margin))
    return scale * jnp.where(over_classes.hit(cosines, labels), target[..., None], cosines)


def _angles(embeddings: Array, head: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Cosines to every class, the directions of the embeddings, and those of their own classes."""
    directions, of_classes = vectors.normalized(embeddings), vectors.normalized(head.T)
    cosines = jnp.matmul(directions, of_classes.T, precision="highest")
    return cosines, directions, vectors.rows_at(of_classes, labels)
