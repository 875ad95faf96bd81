"""Contrastive: the unit is an anchor, and the anchors of a batch see each other's positives."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num, Shaped

from jaxloss.core import checks, inputs, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce, reduce_rows
from jaxloss.fused import contrastive as fused
from jaxloss.fused.contrastive import Kernel
from jaxloss.fused.row_blocks import Pairs, PairSchedule, half
from jaxloss.parts.distances import distances, pairwise_cosine_similarities
from jaxloss.parts.pairs import negative_pairs, positive_pairs


def info_nce_loss(
    anchors: Float[ArrayLike, "units features"],
    positives: Shaped[ArrayLike, "units features"],
    *,
    negatives: Shaped[ArrayLike, "..."] | None = None,
    temperature: Float[ArrayLike, ""] | int = 0.1,
    schedule: PairSchedule | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """InfoNCE: each anchor picks its own positive among those of the whole batch.

        s  = anchors · positivesᵀ / temperature
        ℓᵢ = log Σⱼ exp(sᵢⱼ) - sᵢᵢ

    The positives of the others are the negatives, so a larger batch is a harder task and parts
    of a batch have to see each other: they merge by `jaxloss.stats`. A deleted row is nobody's
    negative; a weight repeats the anchor's own term. Where negatives are given, j runs over them
    and the anchor's own positive, and no anchor sees another. Normalise the embeddings to compare
    angles.

    Args:
        anchors: `[units, features]`, floating.
        positives: `[units, features]`, the match of each anchor.
        negatives: None, the positives of the others; `[units, negatives, features]`, those of each
            anchor; or `[negatives, features]`, the same for all, such as a queue. With negatives
            the units may have several axes.
        temperature: Divides the similarities; positive, may be traced.
        schedule: "plain" builds all pairs of an anchor and a negative, "blocks" takes some
            anchors at a time and has no forward mode or second derivatives. None is "blocks"
            where all would exceed the budget.
        memory_budget: How many bytes a block may take. None: 16 MiB, or half of what the
            embeddings take if that is more.
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
    pairs = Pairs(schedule, memory_budget, half(anchors, positives))
    if negatives is not None:
        values = _against(pairs, where, anchors, positives, negatives, temperature)
        return reduce(values, where=where, weights=weights, reduction=reduction)
    anchors, positives = inputs.rows(where, anchors=anchors, positives=positives)
    temperature = inputs.option("temperature", temperature, anchors, must_be="positive")
    return reduce_rows(
        Kernel(pairs, _info_nce, fused.info_nce),
        (anchors, positives),
        temperature,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _info_nce(
    anchors: Array, positives: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    return _own_among_all(_similarities(anchors, positives, where) / temperature, where), where


def _similarities(anchors: Array, positives: Array, where: Array) -> Array:
    # a shift of all positives changes no loss; without their mean the differences keep their digits
    apart = fused.from_mean(positives, where)
    return jnp.matmul(anchors, apart.T, precision="highest")


def _own_among_all(s: Array, where: Array) -> Array:
    s = jnp.where(where[None], s, -jnp.inf)
    return over_classes.cross_entropy_at(s, jnp.arange(s.shape[-1]))


def _against(
    pairs: Pairs,
    where: ArrayLike | None,
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    temperature: ArrayLike,
) -> Array:
    """What each anchor costs among its positive and given negatives."""
    anchors, positives = inputs.paired(where, features=1, anchors=anchors, positives=positives)
    temperature = inputs.option("temperature", temperature, anchors, must_be="positive")
    _, negatives = inputs.floats(anchors=anchors, negatives=negatives)
    shared = negatives.ndim == 2 and negatives.shape[-1] == anchors.shape[-1]
    if not shared and (*negatives.shape[:-2], *negatives.shape[-1:]) != anchors.shape:
        raise ValueError(
            "negatives must be [negatives, features], or one such array for each of the anchors, "
            f"got {negatives.shape} and anchors {anchors.shape}."
        )
    negatives = negatives if shared else inputs.blank(negatives, where, features=2)
    checks.require(inputs.RANGES["a number"], "negatives", negatives, "it must be a number")
    if not shared:
        rows, entries = (anchors, positives, negatives), math.prod(negatives.shape[-2:])
        return fused.by_units(pairs, entries, _against_own, rows, (temperature,))
    middle = fused.mean(negatives, jnp.ones(negatives.shape[:1], bool))
    rows = anchors, positives - jnp.broadcast_to(middle, positives.shape)
    everyone = negatives - middle[None], temperature
    return fused.by_units(pairs, negatives.shape[0], _against_all, rows, everyone)


def _against_own(anchors: Array, positives: Array, negatives: Array, temperature: Array) -> Array:
    apart = negatives - positives[..., None, :]
    s = jnp.sum(anchors[..., None, :] * apart, axis=-1) / temperature
    return numerics.softplus(over_classes.logsumexp(s))


def _against_all(anchors: Array, positives: Array, negatives: Array, temperature: Array) -> Array:
    own = jnp.sum(anchors * positives, axis=-1, keepdims=True)
    s = (jnp.matmul(anchors, negatives.T, precision="highest") - own) / temperature
    return numerics.softplus(over_classes.logsumexp(s))


def ntxent(
    embeddings: Float[ArrayLike, "units features"],
    labels: Integer[ArrayLike, "units"],
    *,
    temperature: Float[ArrayLike, ""] | int = 0.07,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """NT-Xent: each anchor picks each of its positives among its negatives, by cosine.

        s  = cosines of embeddings / temperature
        ℓᵢ = Σₚ log(1 + Σₙ exp(sᵢₙ - sᵢₚ))      over the positives p and the negatives n of i

    Rows with the label of the anchor are its positives, rows with another its negatives. The mean
    is over all pairs of an anchor and a positive, and an anchor without a positive counts for
    nothing. A deleted row is in nobody's pair; a weight repeats the anchor's own pairs.

    Args:
        embeddings: `[units, features]`, floating; their lengths do not count.
        labels: `[units]`, any integers: rows with the same one belong together.
        temperature: Divides the cosines; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per anchor, the sum over its positives.

    Raises:
        ValueError: The shapes do not fit, or `temperature` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        Normalised temperature-scaled cross entropy, SimCLR loss.
        `optax.losses.ntxent(e, k, t)`: `ntxent(e, k, temperature=t)`, NaN without any positive
        `pytorch_metric_learning.losses.NTXentLoss(temperature=t)(e, k)`:
            `ntxent(e, k, temperature=t)`

    Example:
        >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> print(f"{jaxloss.ntxent(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0):.4f}")
        0.5514

    Reference:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020,
        arXiv:2002.05709.
    """
    embeddings, labels = inputs.grouped(where, embeddings=embeddings, labels=labels)
    temperature = inputs.option("temperature", temperature, embeddings, must_be="positive")
    return reduce_rows(
        _ntxent,
        (embeddings, labels),
        temperature,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _ntxent(
    embeddings: Array, labels: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    s = pairwise_cosine_similarities(embeddings, embeddings) / temperature
    positive, negative = positive_pairs(labels, where=where), negative_pairs(labels, where=where)
    others = over_classes.logsumexp(jnp.where(negative, s, -jnp.inf))
    each = numerics.softplus(others[:, None] - s)
    return jnp.sum(jnp.where(positive, each, 0), axis=-1), jnp.sum(positive, axis=-1)


def supcon_loss(
    embeddings: Float[ArrayLike, "units features"],
    labels: Integer[ArrayLike, "units"],
    *,
    temperature: Float[ArrayLike, ""] | int = 0.1,
    schedule: PairSchedule | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Supervised contrastive loss: each anchor picks its positives among all others, by cosine.

        s  = cosines of embeddings / temperature
        ℓᵢ = mean over the positives p of i of  log Σⱼ exp(sᵢⱼ) - sᵢₚ      over all j but i

    It is L_out of the paper: the mean over the positives is outside of the logarithm. Another
    positive is in the denominator, as it is not in `ntxent`. An anchor without a positive counts
    for nothing; a deleted row is in nobody's pair; a weight repeats the anchor's own term.

    Args:
        embeddings: `[units, features]`, floating; their lengths do not count.
        labels: `[units]`, any integers: rows with the same one belong together.
        temperature: Divides the cosines; positive, may be traced.
        schedule, memory_budget: As in `info_nce_loss`.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per anchor.

    Raises:
        ValueError: The shapes do not fit, or `temperature` is not positive.
        TypeError: The embeddings are not floating, or the labels are not integers.

    Also known as:
        SupCon, L_out. The paper's own code multiplies it by temperature / 0.07.
        `pytorch_metric_learning.losses.SupConLoss(temperature=t)(e, k)`:
            `supcon_loss(e, k, temperature=t)`, its mean leaves out what is 0

    Example:
        >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> loss = jaxloss.supcon_loss(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0)
        >>> print(f"{loss:.4f}")
        0.5514

    Reference:
        Khosla et al., "Supervised Contrastive Learning", 2020, arXiv:2004.11362.
    """
    embeddings, labels = inputs.grouped(where, embeddings=embeddings, labels=labels)
    temperature = inputs.option("temperature", temperature, embeddings, must_be="positive")
    return reduce_rows(
        Kernel(Pairs(schedule, memory_budget), _supcon, fused.supcon),
        (embeddings, labels),
        temperature,
        where=where,
        weights=weights,
        reduction=reduction,
    )


def _supcon(
    embeddings: Array, labels: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    s = pairwise_cosine_similarities(embeddings, embeddings) / temperature
    positive, negative = positive_pairs(labels, where=where), negative_pairs(labels, where=where)
    counts = jnp.any(positive, axis=-1)
    present = positive | negative | ~counts[:, None]  # all of a row that does not count
    number = jnp.maximum(jnp.sum(positive, axis=-1, keepdims=True, dtype=s.dtype), 1)
    share = positive.astype(s.dtype) / number
    return over_classes.cross_entropy(jnp.where(present, s, -jnp.inf), share), counts


def clip_loss(
    image_embeddings: Float[ArrayLike, "units features"],
    text_embeddings: Shaped[ArrayLike, "units features"],
    *,
    logit_scale: Float[ArrayLike, ""] | int,
    schedule: PairSchedule | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """CLIP: each image picks its text among those of the batch, and each text its image.

        s  = logit_scale·image_embeddings · text_embeddingsᵀ
        ℓᵢ = (log Σⱼ exp(sᵢⱼ) + log Σⱼ exp(sⱼᵢ)) / 2 - sᵢᵢ

    It is `info_nce_loss` in both directions. Pass normalised embeddings, and the scale itself:
    CLIP learns its logarithm, from log(1 / 0.07), and keeps it below log 100. A deleted pair is
    nobody's negative; a weight repeats the pair's own term.

    Args:
        image_embeddings: `[units, features]`, floating.
        text_embeddings: `[units, features]`, the match of each image.
        logit_scale: Multiplies the similarities; positive, may be traced.
        schedule: "plain" builds all pairs, "blocks" takes some rows at a time and has no forward
            mode or second derivatives. None is "blocks" where all would exceed the budget.
        memory_budget: How many bytes a block may take. None: 16 MiB, or half of what one side's
            embeddings take if that is more.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair of an image and its text.

    Raises:
        ValueError: The shapes differ, or `logit_scale` is not positive.
        TypeError: The image embeddings are not floating.

    Also known as:
        Symmetric InfoNCE, multi-class N-pair loss in two directions.
        `open_clip.ClipLoss()(a, b, s)`: `clip_loss(a, b, logit_scale=s)`

    Example:
        >>> print(f"{jaxloss.clip_loss(jnp.eye(2), jnp.eye(2), logit_scale=1.0):.4f}")
        0.3133

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        2021, arXiv:2103.00020.
    """
    pairs = Pairs(schedule, memory_budget, half(image_embeddings, text_embeddings))
    images, texts = inputs.rows(
        where, image_embeddings=image_embeddings, text_embeddings=text_embeddings
    )
    scale = inputs.option("logit_scale", logit_scale, images, must_be="positive")
    kernel = Kernel(pairs, _clip, fused.clip)
    return reduce_rows(
        kernel, (images, texts), scale, where=where, weights=weights, reduction=reduction
    )


def _clip(images: Array, texts: Array, scale: Array, where: Array) -> tuple[Array, Array]:
    own, columns, lift = fused.clip_sides(False, images, texts, scale, where)
    s = scale * jnp.matmul(images, columns.T, precision="highest")
    match = jnp.eye(len(where), dtype=bool)
    to_texts = jnp.where(match | ~where[None], -jnp.inf, s)
    to_images = jnp.where(match | ~where[:, None], -jnp.inf, s + lift[:, None]).T
    logs = over_classes.logsumexp(to_texts), over_classes.logsumexp(to_images)
    return fused.clip_values(own, lift, logs), where


def siglip_loss(
    image_embeddings: Float[ArrayLike, "units features"],
    text_embeddings: Shaped[ArrayLike, "units features"],
    *,
    logit_scale: Float[ArrayLike, ""] | int,
    logit_bias: Float[ArrayLike, ""] | int,
    schedule: PairSchedule | None = None,
    memory_budget: int | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """SigLIP: whether an image and a text of the batch belong together, asked of every pair.

        s  = logit_scale·image_embeddings · text_embeddingsᵀ + logit_bias
        ℓᵢ = Σⱼ log(1 + exp(-zᵢⱼ·sᵢⱼ))      z = 1 for the image's own text, else -1

    There is no softmax over the batch. Pass normalised embeddings, and the scale itself; the
    paper learns its logarithm from log 10, and the bias from -10 as most pairs do not match. The
    mean is over images, not over pairs. A deleted pair is nobody's negative; a weight repeats the
    image's own row.

    Args:
        image_embeddings: `[units, features]`, floating.
        text_embeddings: `[units, features]`, the match of each image.
        logit_scale: Multiplies the similarities; positive, may be traced.
        logit_bias: Added to them; may be traced.
        schedule: "plain" builds all pairs, "blocks" takes some rows at a time and has no forward
            mode or second derivatives. None is "blocks" where all would exceed the budget.
        memory_budget: How many bytes a block may take. None: 16 MiB, or half of what one side's
            embeddings take if that is more.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per image, the sum over the texts.

    Raises:
        ValueError: The shapes differ, or `logit_scale` is not positive.
        TypeError: The image embeddings are not floating.

    Also known as:
        Sigmoid loss for language and image pre-training.
        `open_clip.SigLipLoss()(a, b, s, c)`: `siglip_loss(a, b, logit_scale=s, logit_bias=c)`

    Example:
        >>> eye = jnp.eye(2)
        >>> print(f"{jaxloss.siglip_loss(eye, eye, logit_scale=10.0, logit_bias=-10.0):.4f}")
        0.6932

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343.
    """
    pairs = Pairs(schedule, memory_budget, half(image_embeddings, text_embeddings))
    images, texts = inputs.rows(
        where, image_embeddings=image_embeddings, text_embeddings=text_embeddings
    )
    scale = inputs.option("logit_scale", logit_scale, images, must_be="positive")
    bias = inputs.option("logit_bias", logit_bias, images, must_be="a number")
    kernel = Kernel(pairs, _siglip, fused.siglip, fused.siglip_total)
    return reduce_rows(
        kernel, (images, texts), scale, bias, where=where, weights=weights, reduction=reduction
    )


def _siglip(
    images: Array, texts: Array, scale: Array, bias: Array, where: Array
) -> tuple[Array, Array]:
    s = scale * jnp.matmul(images, texts.T, precision="highest") + bias
    each = numerics.softplus(jnp.where(jnp.eye(s.shape[0], dtype=bool), -s, s))
    return jnp.sum(jnp.where(where[None], each, 0), axis=-1), where


def contrastive_loss(
    x1: Float[ArrayLike, "*units features"],
    x2: Shaped[ArrayLike, "*units features"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 1.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Contrastive loss of pairs: the similar are pulled together, the others pushed to a margin.

        D = ‖x1 - x2‖
        ℓ = (labels·D² + (1 - labels)·max(0, margin - D)²) / 2

    The gradient of two equal vectors is 0, whatever their label.

    Args:
        x1: `[*units, features]`, floating.
        x2: `[*units, features]`.
        labels: `[*units]`, 1 for a similar pair and 0 for another, or a share between; the paper
            has them the other way round.
        margin: The distance from which on a dissimilar pair costs nothing; 0 or more, may be
            traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair.

    Raises:
        ValueError: The shapes do not fit, or `margin` is negative.
        TypeError: `x1` is not floating.

    Also known as:
        Pairwise loss of a siamese network.
        `tensorflow_addons.losses.contrastive_loss(k, d, m)`:
            `2 * contrastive_loss(a, b, k, margin=m, reduction=None)`, for distances `d` of `a`, `b`
        `sentence_transformers.losses.ContrastiveLoss`: it is of cosine distances, its margin 0.5
        `pytorch_metric_learning.losses.ContrastiveLoss`: its terms are not squared

    Example:
        >>> x1, x2 = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.6, 0.0]])
        >>> print(jaxloss.contrastive_loss(x1, x2, jnp.array([1, 0]), reduction=None).round(4))
        [12.5 0.08]

    Reference:
        Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
        2006.
    """
    x1, x2 = inputs.paired(where, features=1, x1=x1, x2=x2)
    labels = inputs.one_per_unit(where, "labels", labels, "x1", x1)
    checks.require(inputs.RANGES["in [0, 1]"], "labels", labels, "a share is in [0, 1]")
    margin = inputs.option("margin", margin, x1, must_be="0 or more")
    D = numerics.finite(distances(x1, x2))
    near = numerics.positive_part(margin - D)
    values = labels * D * (D / 2) + numerics.xtimes(1 - labels, near**2) / 2
    return reduce(values, where=where, weights=weights, reduction=reduction)
