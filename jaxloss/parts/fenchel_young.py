"""Losses from maxima: what a Fenchel-Young loss is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num, Shaped

from jaxloss.core import inputs, numerics
from jaxloss.core.reductions import R, Reduction, reduce


@runtime_checkable
class FenchelYoungLoss(Protocol):
    """A loss of scores and targets, both `[*units, features]`."""

    def __call__(
        self,
        scores: Float[ArrayLike, "*units features"],
        targets: Shaped[ArrayLike, "*units features"],
        *,
        where: Bool[ArrayLike, "..."] | None = None,
        weights: Num[ArrayLike, "..."] | None = None,
        reduction: Reduction[R] = "mean",
    ) -> R: ...


def make_fenchel_young_loss(max_fun: Callable[[Array], ArrayLike]) -> FenchelYoungLoss:
    """The loss whose gradient is what a maximum prefers, minus the target.

        ℓ = max_fun(scores) - Σ targets·scores

    `max_fun` is the value of a regularised choice, max over p of Σ p·scores - Ω(p), and its
    gradient is the choice. The log-sum-exp gives the cross entropy of a softmax, any convex
    function a loss with a convex shape. Scores of -inf count for nothing where the target is 0.

    Args:
        max_fun: From one vector to one number; it is mapped over the leading axes.

    Returns:
        A loss of `scores` and `targets`, both `[*units, features]`, with `where`, `weights` and
        `reduction`; its unit is a vector.

    Also known as:
        Fenchel-Young loss, perturbed optimizer loss.
        `optax.losses.make_fenchel_young_loss(max_fun)`: the same name, of losses that a user
            reduces

    Example:
        >>> loss = jaxloss.make_fenchel_young_loss(jax.nn.logsumexp)
        >>> print(f"{loss(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0]])):.3f}")
        0.127

    Reference:
        Blondel, Martins and Niculae, "Learning with Fenchel-Young Losses", 2020,
        arXiv:1901.02324.
    """
    largest = jnp.vectorize(max_fun, signature="(n)->()")

    def fenchel_young_loss(
        scores: Float[ArrayLike, "*units features"],
        targets: Shaped[ArrayLike, "*units features"],
        *,
        where: Bool[ArrayLike, "..."] | None = None,
        weights: Num[ArrayLike, "..."] | None = None,
        reduction: Reduction[R] = "mean",
    ) -> R:
        scores, targets = inputs.paired(where, features=1, scores=scores, targets=targets)
        values = largest(scores) - jnp.sum(numerics.xtimes(targets, scores), axis=-1)
        return reduce(values, where=where, weights=weights, reduction=reduction)

    return fenchel_young_loss
