"""Ranking: the unit is a list and its parts are items; of `margin_ranking_loss`, a pair."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import checks, inputs, margins, numerics, over_classes
from jaxloss.core.reductions import R, Reduction, reduce


def ranking_softmax_loss(
    scores: Float[ArrayLike, "*lists items"],
    relevance: Shaped[ArrayLike, "*lists items"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of a softmax over the items of a list, against their relevance.

        ℓ = -Σ relevance·log softmax(scores)

    The relevance is not normalised: a list counts by how much is relevant in it. A list without
    items is deleted, and an item with a score of -inf is absent.

    Args:
        scores: `[*lists, items]`, floating.
        relevance: `[*lists, items]`, 0 or more.
        where: `[*lists, items]` or leading axes of it; deletes items.
        weights: `[*lists]` or leading axes of it.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per list.

    Raises:
        ValueError: The shapes differ, or there is no item axis.
        TypeError: The scores are not floating.

    Also known as:
        Softmax loss, ListNet (top one), listwise cross entropy.
        `optax.losses.ranking_softmax_loss(x, y, where=w)`: `ranking_softmax_loss(x, y, where=w)`,
            its weights are those of items: multiply the relevance by them
        `rax.softmax_loss(x, y, where=w)`: `ranking_softmax_loss(x, y, where=w)`

    Example:
        >>> scores, relevance = jnp.array([[2.0, 1.0, 3.0]]), jnp.array([[1.0, 0.0, 0.0]])
        >>> print(f"{jaxloss.ranking_softmax_loss(scores, relevance):.3f}")
        1.408

    Reference:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007.
    """
    scores, relevance = inputs.paired(where, scores=scores, relevance=relevance)
    checks.require(inputs.RANGES["0 or more"], "relevance", relevance, "it must be 0 or more")
    kept, lists = _items(where, scores.shape)
    x = jnp.where(kept | ~lists[..., None], scores, -jnp.inf)
    values = over_classes.cross_entropy(inputs.with_a_class(x), inputs.with_a_class(relevance, 0))
    return reduce(values, where=lists, weights=weights, reduction=reduction)


def pairwise_logistic_loss(
    scores: Float[ArrayLike, "*lists items"],
    relevance: Shaped[ArrayLike, "*lists items"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Logistic loss of each pair of items, of which one is more relevant than the other.

        ℓ = mean over i, j with relevanceᵢ > relevanceⱼ of log(1 + exp(scoresⱼ - scoresᵢ))

    Only the order of the relevance matters. A list without such a pair is deleted. It looks at
    every pair of items, and so needs memory for their square.

    Args:
        scores: `[*lists, items]`, floating.
        relevance: `[*lists, items]`.
        where: `[*lists, items]` or leading axes of it; deletes items.
        weights: `[*lists]` or leading axes of it.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per list.

    Raises:
        ValueError: The shapes differ, or there is no item axis.
        TypeError: The scores are not floating.

    Also known as:
        RankNet, Bradley-Terry loss of a list.
        `rax.pairwise_logistic_loss(x, y, where=w)`: a mean over the pairs of all lists, so that a
            list counts by how many it has

    Example:
        >>> scores, relevance = jnp.array([[0.0, 2.0, 2.0]]), jnp.array([[1, 0, 1]])
        >>> print(f"{jaxloss.pairwise_logistic_loss(scores, relevance):.3f}")
        1.410

    Reference:
        Burges et al., "Learning to Rank using Gradient Descent", 2005.
    """
    scores, relevance = inputs.paired(where, scores=scores, relevance=relevance)
    kept, _ = _items(where, scores.shape)
    scores = jnp.where(jnp.isnan(relevance), relevance, scores)
    pairs = ~(relevance[..., None] <= relevance[..., None, :])  # with NaN: it is to be seen
    pairs = pairs & kept[..., None] & kept[..., None, :]
    number = jnp.sum(pairs, axis=(-2, -1), dtype=scores.dtype)
    values = numerics.ratio(margins.logistic_of_pairs(scores, pairs), number)
    return reduce(values, where=number > 0, weights=weights, reduction=reduction)


def margin_ranking_loss(
    x1: Float[ArrayLike, "*units"],
    x2: Shaped[ArrayLike, "*units"],
    labels: Shaped[ArrayLike, "*units"],
    *,
    margin: Float[ArrayLike, ""] | int = 0.0,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Hinge loss of pairs: what one score lacks of a lead over the other.

        ℓ = max(0, margin - labels·(x1 - x2))

    Args:
        x1, x2: `[*units]`, floating, the scores of two items.
        labels: `[*units]`, 1 where the first ranks higher and -1 where the second does.
        margin: The lead that is enough; may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per pair.

    Raises:
        ValueError: The shapes differ, or the margin is not a number.
        TypeError: `x1` is not floating, or the labels are boolean or unsigned.

    Also known as:
        Pairwise hinge loss, ranking support vector machine loss.
        `torch.nn.functional.margin_ranking_loss(a, b, y, margin=m)`:
            `margin_ranking_loss(a, b, y, margin=m)`

    Example:
        >>> x1, x2 = jnp.array([3.0, 0.5]), jnp.array([1.0, 0.75])
        >>> print(jaxloss.margin_ranking_loss(x1, x2, jnp.array([1, 1]), reduction=None))
        [0. 0.25]

    Reference:
        Herbrich, Graepel and Obermayer, "Large Margin Rank Boundaries for Ordinal Regression",
        2000.
    """
    x1, x2, signs = inputs.paired(where, fill={"labels": 1}, x1=x1, x2=x2, labels=labels)
    checks.require_signs(signs, labels)
    margin = inputs.option("margin", margin, x1, must_be="a number")
    values = numerics.positive_part(margin - numerics.signed(x1 - x2, signs))
    return reduce(values, where=where, weights=weights, reduction=reduction)


def _items(where: ArrayLike | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Which items are kept, and which lists have one."""
    if not shape:
        raise ValueError("scores must be [*lists, items], got one number, of shape ().")
    kept = inputs.spread("where", True if where is None else where, shape)
    return kept, jnp.any(kept, axis=-1)
