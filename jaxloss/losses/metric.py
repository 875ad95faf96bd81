"""Metric learning: the unit is an embedding, or a triplet of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import inputs, numerics, over_classes, vectors
from jaxloss.core.reductions import R, Reduction, reduce, reduce_rows
from jaxloss.parts import angular, distances, pairs


def triplet_margin_loss(
    anchors: Float[ArrayLike, "*units features"],
    positives: Shaped[ArrayLike, "*units features"],
    negatives: Shaped[ArrayLike, "*units features"],
    *,
    norm: Float[ArrayLike, ""] | int = 2,
    margin: Float[ArrayLike, ""] | int = 1.0,
    swap: bool = False,
    distance: Callable[[Array, Array], Array] | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Triplet loss: a negative is to be farther from the anchor than a positive, by a margin.

        d(x, y) = (Σ |x - y|ⁿ)^(1/n)      n = norm
        ℓ = max(0, d(anchors, positives) - d(anchors, negatives) + margin)

    With `swap` the negative is compared with the nearer of anchor and positive. FaceNet takes
    squared distances of normalised embeddings and a margin of 0.2: that is a `distance` of yours.
    A distance of 0 has gradient 0.

    Args:
        anchors: `[*units, features]`, floating.
        positives: `[*units, features]`.
        negatives: `[*units, features]`.
        norm: 1 or more, infinity for the largest difference; may be traced.
        margin: How much farther a negative is to be; 0 or more, may be traced.
        swap: Measure the negative from the anchor or the positive, whichever is nearer.
        distance: A function of two arrays of embeddings that takes the place of the norm; one
            number per unit. It is given 0 where a unit is deleted, and is to be finite there.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per triplet.

    Raises:
        ValueError: The shapes differ, `norm` is less than 1 or given beside a `distance`, which
            must take the last axis away, or `margin` is negative.
        TypeError: The anchors are not floating.

    Also known as:
        Large-margin nearest neighbours, FaceNet loss.
        `optax.losses.triplet_margin_loss(a, p, n, margin=m, eps=0.0).mean()`:
            `triplet_margin_loss(a, p, n, margin=m)`, its eps of 1e-6 is added to d²;
            its odd norms have no absolute value
        `torch.nn.functional.triplet_margin_loss(a, p, n, margin=m, p=d, eps=0.0, swap=True)`:
            `triplet_margin_loss(a, p, n, margin=m, norm=d, swap=True)`,
            its eps of 1e-6 is added to each difference
        `torch.nn.functional.triplet_margin_with_distance_loss(
            a, p, n, distance_function=lambda x, y: ((x - y) ** 2).sum(-1))`:
            `triplet_margin_loss(a, p, n, distance=lambda x, y: ((x - y) ** 2).sum(-1))`
        `sentence_transformers.losses.TripletLoss`: its margin is 5
        `pytorch_metric_learning.losses.TripletMarginLoss`: its margin is 0.05, of normalised
            embeddings, and its mean leaves out what is 0

    Example:
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[0.6, 0.8]]), jnp.array([[1.5, 0.0]])
        >>> print(jaxloss.triplet_margin_loss(a, p, n))
        0.5

    Reference:
        Balntas et al., "Learning Local Feature Descriptors with Triplets and Shallow
        Convolutional Neural Networks", 2016.
    """
    anchors, positives, negatives = inputs.paired(
        where, features=1, anchors=anchors, positives=positives, negatives=negatives
    )
    margin = inputs.option("margin", margin, anchors, must_be="0 or more")
    if distance is not None and not (isinstance(norm, int) and norm == 2):
        raise ValueError(f"norm must be left at 2 where a distance is given, got norm={norm}.")

    def d(x: Array, y: Array) -> Array:
        return distances.distances(x, y, norm) if distance is None else distance(x, y)

    apart = d(anchors, negatives)
    if apart.shape != anchors.shape[:-1]:
        raise ValueError(
            f"distance must take the last axis away: of {anchors.shape} it made {apart.shape}."
        )
    if swap:
        apart = jnp.minimum(apart, d(positives, negatives))
    values = numerics.positive_part(d(anchors, positives) - apart + margin)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def center_loss(
    embeddings: Float[ArrayLike, "*units features"],
    centers: Shaped[ArrayLike, "classes features"],
    labels: Integer[ArrayLike, "*units"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Half the squared distance of each embedding from the center of its class.

        ℓ = ‖embeddings - centers[labels]‖² / 2

    It goes along with a classification loss, which keeps the centers apart. They are learnt by
    `update_centers`, as in the paper, or as parameters, by the gradient of this loss.

    Args:
        embeddings: `[*units, features]`, floating.
        centers: `[classes, features]`.
        labels: `[*units]`, integers in [0, classes); others are NaN, in value and gradient.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per embedding.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        Centre loss. The paper has the sum over the batch; some ports leave out the half.

    Example:
        >>> embeddings, centers = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> print(jaxloss.center_loss(embeddings, centers, jnp.array([1])))
        2.0

    Reference:
        Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", 2016.
    """
    values, _ = _from_centers(where, embeddings, centers, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def island_loss(
    embeddings: Float[ArrayLike, "*units features"],
    centers: Shaped[ArrayLike, "classes features"],
    labels: Integer[ArrayLike, "*units"],
    *,
    pair_weight: Float[ArrayLike, ""] | int = 10.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Center loss that also turns the centers away from each other.

        ℓ = ‖embeddings - centers[labels]‖² / 2 + pair_weight·Σⱼ Σ_{k≠j} (cos(cⱼ, cₖ) + 1)

    The sum over the centers c counts each pair twice, as the paper does. Every unit's value
    carries it, so that the mean holds it once; a sum over units holds it once per unit. A center
    of length 0 has no direction: its cosines are 0.

    Args:
        embeddings: `[*units, features]`, floating.
        centers: `[classes, features]`.
        labels: `[*units]`, integers in [0, classes); others are NaN, in value and gradient.
        pair_weight: λ₁ of the paper, the share of the pairs of centers; 0 or more, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per embedding.

    Raises:
        ValueError: The shapes do not fit, or `pair_weight` is negative.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        IL, the loss of IL-CNN.

    Example:
        >>> embeddings, centers = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> print(jaxloss.island_loss(embeddings, centers, jnp.array([1])))
        22.0

    Reference:
        Cai et al., "Island Loss for Learning Discriminative Features in Facial Expression
        Recognition", 2018, arXiv:1710.03144.
    """
    values, centers = _from_centers(where, embeddings, centers, labels)
    pair_weight = inputs.option("pair_weight", pair_weight, centers, must_be="0 or more")
    cosines = distances.pairwise_cosine_similarities(centers, centers)
    other = ~jnp.eye(cosines.shape[0], dtype=bool)
    values = values + pair_weight * jnp.sum(jnp.where(other, cosines + 1, 0))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def sphereface_loss(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: int = 4,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """SphereFace: cross entropy of angles, where that of the label counts several times.

        x = sphereface_logits(embeddings, head, labels, margin)
        ℓ = log Σ exp(x) - x[labels]

    The paper begins with a larger share of plain cosines; that annealing is left to the caller.

    Args:
        embeddings: `[*units, features]`, floating.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others are NaN, in value and gradient.
        margin: How many times the angle of the label counts; an integer of 1 or more.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per embedding.

    Raises:
        ValueError: The shapes do not fit, or `margin` is not an integer of 1 or more.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        A-Softmax, angular softmax.
        `pytorch_metric_learning.losses.SphereFaceLoss(c, d, margin=m)(e, k)`:
            `sphereface_loss(e, h, k, margin=m)`

    Example:
        >>> embeddings, head = jnp.array([[3.0, 4.0]]), jnp.eye(2)
        >>> print(f"{jaxloss.sphereface_loss(embeddings, head, jnp.array([1])):.4f}")
        7.2167

    Reference:
        Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017,
        arXiv:1704.08063.
    """
    embeddings, head, labels = inputs.headed(where, embeddings=embeddings, head=head, labels=labels)
    logits = angular.sphereface_logits(embeddings, head, labels, margin=margin)
    values = over_classes.cross_entropy_at(logits, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def cosface_loss(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.35,
    scale: Float[ArrayLike, ""] | int = 64.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """CosFace: cross entropy of cosines, where that of the label lacks a margin.

        x = scale·(cos θ - margin·[class = labels])      cos θ of embeddings to columns of head
        ℓ = log Σ exp(x) - x[labels]

    `cosface_logits` is the x of the formula.

    Args:
        embeddings: `[*units, features]`, floating; their lengths do not count.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others are NaN, in value and gradient.
        margin: What the label's cosine lacks; 0 or more, may be traced.
        scale: Multiplies the cosines; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per embedding.

    Raises:
        ValueError: The shapes do not fit, `margin` is negative or `scale` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        AM-Softmax, additive margin softmax, large-margin cosine loss.
        `pytorch_metric_learning.losses.CosFaceLoss(c, d, margin=m, scale=s)(e, k)`:
            `cosface_loss(e, h, k, margin=m, scale=s)`

    Example:
        >>> embeddings, head = jnp.array([[3.0, 4.0]]), jnp.eye(2)
        >>> print(f"{jaxloss.cosface_loss(embeddings, head, jnp.array([1])):.4f}")
        9.6001

    Reference:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018,
        arXiv:1801.09414.
    """
    embeddings, head, labels = inputs.headed(where, embeddings=embeddings, head=head, labels=labels)
    logits = angular.cosface_logits(embeddings, head, labels, margin=margin, scale=scale)
    values = over_classes.cross_entropy_at(logits, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def arcface_loss(
    embeddings: Float[ArrayLike, "*units features"],
    head: Shaped[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.5,
    scale: Float[ArrayLike, ""] | int = 64.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """ArcFace: cross entropy of cosines, where the angle to the label is larger by a margin.

        x = scale·cos(θ + margin·[class = labels])      θ of embeddings to columns of head
        ℓ = log Σ exp(x) - x[labels]

    `arcface_logits` is the x of the formula, and says what it is beyond θ = π - margin, where the
    cosine would rise again.

    Args:
        embeddings: `[*units, features]`, floating; their lengths do not count.
        head: `[features, classes]`; the lengths of its columns do not count.
        labels: `[*units]`, integers in [0, classes); others are NaN, in value and gradient.
        margin: What is added to the label's angle, in radians; in [0, π], may be traced.
        scale: Multiplies the cosines; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per embedding.

    Raises:
        ValueError: The shapes do not fit, `margin` is not in [0, π] or `scale` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        Additive angular margin loss.
        `pytorch_metric_learning.losses.ArcFaceLoss(c, d, margin=m, scale=s)(e, k)`:
            `arcface_loss(e, h, k, margin=jnp.deg2rad(m), scale=s)`, its margin is in degrees

    Example:
        >>> embeddings, head = jnp.array([[3.0, 4.0]]), jnp.eye(2)
        >>> print(f"{jaxloss.arcface_loss(embeddings, head, jnp.array([1])):.4f}")
        11.8777

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019,
        arXiv:1801.07698.
    """
    embeddings, head, labels = inputs.headed(where, embeddings=embeddings, head=head, labels=labels)
    logits = angular.arcface_logits(embeddings, head, labels, margin=margin, scale=scale)
    values = over_classes.cross_entropy_at(logits, labels)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def circle_loss(
    embeddings: Float[ArrayLike, "units features"],
    labels: Integer[ArrayLike, "units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.4,
    gamma: Float[ArrayLike, ""] | int = 80.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Circle loss: pairs pull and push the harder, the farther they are from where they should be.

        s  = cosines of embeddings
        aₚ = max(0, 1 + margin - sₚ),  aₙ = max(0, margin + sₙ)
        ℓᵢ = log(1 + Σₙ exp(gamma·aₙ·(sₙ - margin)) · Σₚ exp(-gamma·aₚ·(sₚ - (1 - margin))))

    The sums run over the positives p and the negatives n of the anchor i; a is a constant of the
    derivative, as in the paper. An anchor without a positive or without a negative counts for
    nothing; a deleted row is in nobody's pair; a weight repeats the anchor's own term.

    Args:
        embeddings: `[units, features]`, floating; their lengths do not count.
        labels: `[units]`, any integers: rows with the same one belong together.
        margin: In cosines; 0.25 in the paper's work on faces. May be traced.
        gamma: The scale of the logits; positive, 256 in the paper's work on faces. May be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per anchor.

    Raises:
        ValueError: The shapes do not fit, or `gamma` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        Unified pair similarity loss.
        `keras.losses.circle(k, e / jnp.linalg.norm(e, axis=-1)[:, None], gamma=g, margin=m)`:
            `circle_loss(e, k, gamma=g, margin=m, reduction=None)`,
            it normalises nothing, and its gradient is also that of the weights a
        `pytorch_metric_learning.losses.CircleLoss(m=m, gamma=g)(e, k)`:
            `circle_loss(e, k, margin=m, gamma=g)`, its mean leaves out what is 0

    Example:
        >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> loss = jaxloss.circle_loss(embeddings, jnp.array([0, 1, 0, 1]), margin=0.4, gamma=1.0)
        >>> print(f"{loss:.4f}")
        2.1210

    Reference:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", 2020,
        arXiv:2002.10857.
    """
    embeddings, labels = inputs.grouped(where, embeddings=embeddings, labels=labels)
    margin = inputs.option("margin", margin, embeddings, must_be="a number")
    gamma = inputs.option("gamma", gamma, embeddings, must_be="positive")
    return reduce_rows(
        _circle,
        (embeddings, labels),
        margin,
        gamma,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _circle(
    embeddings: Array, labels: Array, margin: Array, gamma: Array, where: Array
) -> tuple[Array, Array]:
    s = distances.pairwise_cosine_similarities(embeddings, embeddings)
    constant = jax.lax.stop_gradient((s, margin))
    a_p = numerics.positive_part(1 + constant[1] - constant[0])
    a_n = numerics.positive_part(constant[1] + constant[0])
    positive = pairs.positive_pairs(labels, where=where)
    negative = pairs.negative_pairs(labels, where=where)
    pull = jnp.where(positive, -gamma * a_p * (s - (1 - margin)), -jnp.inf)
    push = jnp.where(negative, gamma * a_n * (s - margin), -jnp.inf)
    push, pull = over_classes.logsumexp(push), over_classes.logsumexp(pull)
    return numerics.softplus(push + pull), ~(jnp.isneginf(push) | jnp.isneginf(pull))


def _from_centers(
    where: ArrayLike | None, embeddings: ArrayLike, centers: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array]:
    embeddings, centers, labels = inputs.headed(
        where, class_axis=0, embeddings=embeddings, centers=centers, labels=labels
    )
    apart = embeddings - vectors.rows_at(centers, labels)
    return jnp.sum(apart / 2 * apart, axis=-1), centers
