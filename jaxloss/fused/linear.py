"""Heads that belong to their loss: the unit is a label, and the model stops at the last layer."""

from __future__ import annotations

from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

from jaxloss.core.reductions import R, Reduction, adds_up
from jaxloss.fused import heads, schedules
from jaxloss.fused.schedules import Name, Plan

#: The kind of label that each loss learns from: none in a table, which holds no head.
LEARNS: dict[str, str] = {}


def linear_softmax_cross_entropy(
    hidden: Float[ArrayLike, "*units features"],
    head: Float[ArrayLike, "features classes"],
    labels: Integer[ArrayLike, "*units"],
    *,
    bias: Float[ArrayLike, "..."] | None = None,
    label_smoothing: Float[ArrayLike, ""] | int = 0.0,
    z_loss: Float[ArrayLike, ""] | int = 0.0,
    logit_softcap: Float[ArrayLike, ""] | int | None = None,
    class_weights: Num[ArrayLike, "..."] | None = None,
    temperature: Float[ArrayLike, ""] | int = 1.0,
    schedule: Name | Plan | None = None,
    memory_budget: int | None = None,
    implementation: str | None = None,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Cross entropy of the softmax of a linear layer against class indices.

        logits = hidden·head + bias
        x = logit_softcap·tanh(logits / logit_softcap) / temperature
        q = (1 - label_smoothing)·[class = labels] + label_smoothing / classes
        ℓ = -Σ class_weights·q·log softmax(x) + class_weights[labels]·z_loss·(log Σ exp x)²

    It is `softmax_cross_entropy_with_integer_labels` of the logits. Operands of one dtype, such
    as bfloat16, are multiplied as they are and summed in float32; float32 is multiplied as
    `jax.default_matmul_precision` says. A class with a bias of -inf is absent.

    Args:
        hidden: `[*units, features]`, floating.
        head: `[features, classes]`, which all units share.
        labels: `[*units]`, integers in [0, classes). Out of range is NaN, in value and gradient.
        bias: `[classes]`; may be traced.
        label_smoothing: The share of a label that is spread evenly over the classes; in [0, 1],
            may be traced.
        z_loss: The weight of a penalty that keeps the normaliser near 1; 0 or more, may be
            traced.
        logit_softcap: The bound that logits approach smoothly; positive, may be traced.
        class_weights: `[classes]`, 0 or more, how often a label of each class counts. May be
            traced.
        temperature: Divides the logits; positive, may be traced.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per label.

    Raises:
        ValueError: The shapes do not fit, or an option is outside its range.
        TypeError: Hidden is not floating, or the labels are not integers.

    Also known as:
        Fused linear cross entropy, cut cross entropy, language-model head loss.
        `torch.nn.functional.linear_cross_entropy(h, w.T, y, linear_bias=b)`:
            `linear_softmax_cross_entropy(h, w, y, bias=b)`

    Example:
        >>> hidden, head = jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print(f"{jaxloss.linear_softmax_cross_entropy(hidden, head, jnp.array([0])):.3f}")
        0.127

    Reference:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024,
        arXiv:2411.09009.
    """
    h, w, labels = heads.headed(where, hidden, head, labels)
    options = heads.options(
        w,
        bias=bias,
        logit_softcap=logit_softcap,
        temperature=temperature,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )
    how = schedules.plan(
        h,
        w,
        schedule=schedule,
        memory_budget=memory_budget,
        implementation=implementation,
        per_token=not adds_up(reduction),
    )
    return heads.cross_entropy(how, h, w, labels, options, where, weights, reduction)
