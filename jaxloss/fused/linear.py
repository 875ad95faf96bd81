"""Heads that belong to their loss: the unit is a label, and the model stops at the last layer."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

from jaxloss.core import class_options, inputs, over_classes
from jaxloss.core.reductions import R, Reduction, reduce

#: The kind of label that each loss learns from.
LEARNS = {"linear_softmax_cross_entropy": "token"}


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
    one_dtype = jnp.result_type(hidden) == jnp.result_type(head)
    h, w, labels = inputs.headed(where, labels=labels, hidden=hidden, head=head)
    dtype = jnp.result_type(hidden) if one_dtype else h.dtype
    logits = jnp.matmul(h.astype(dtype), w.astype(dtype), preferred_element_type=h.dtype)
    if bias is not None:
        bias = inputs.with_a_class(jnp.asarray(bias), 0)
        logits = logits + inputs.option("bias", bias, logits, must_be="a number", entries=True)
    temperature = inputs.option("temperature", temperature, logits, must_be="positive")
    x = over_classes.tempered(class_options.capped(logits, logit_softcap), temperature)
    values, counts = class_options.cost_of_labels(x, labels, class_weights, label_smoothing, z_loss)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
