"""What a model learns from: distributions over classes, what a class counts, the next tokens."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

from jaxloss.core import class_options, inputs, numerics


def smooth_labels(
    labels: Float[ArrayLike, "*units classes"],
    alpha: Float[ArrayLike, ""] | int,
    *,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Array:
    """Distributions of which a share is spread evenly over the classes.

        q = (1 - alpha)·labels + alpha / classes

    A loss with `label_smoothing` does the same without an array of labels, and knows absent
    classes by their logits of -inf.

    Args:
        labels: `[*units, classes]`, floating; one-hot rows or distributions.
        alpha: The share that is spread; in [0, 1], may be traced.
        where: `[*units, classes]`, which classes are present. What is absent gets nothing, so
            rows still sum to 1.

    Returns:
        `[*units, classes]`.

    Raises:
        ValueError: `alpha` is outside [0, 1], or `where` has another shape.
        TypeError: The labels are not floating.

    Also known as:
        Label smoothing regularisation.
        `optax.losses.smooth_labels(q, s)`: `smooth_labels(q, s)`,
            with `where`, it leaves mass on absent classes

    Example:
        >>> labels = jnp.array([[1.0, 0.0, 0.0]])
        >>> print(jaxloss.smooth_labels(labels, 0.5))
        [[0.6666667 0.16666667 0.16666667]]
        >>> print(jaxloss.smooth_labels(labels, 0.5, where=jnp.array([[True, True, False]])))
        [[0.75 0.25 0. ]]

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture", 2015, arXiv:1512.00567.
    """
    (labels,) = inputs.paired(where, labels=labels)
    alpha = inputs.option("alpha", alpha, labels, must_be="in [0, 1]")
    present = inputs.spread("where", True if where is None else where, labels.shape)
    return (1 - alpha) * labels + alpha * class_options.uniform(present, labels)


def class_balanced_weights(counts: Num[ArrayLike, "classes"], *, beta: float = 0.9999) -> Array:
    """Class weights that count a class by its effective number of examples.

        c = (1 - beta) / (1 - beta ** counts),  scaled to a mean of 1

    An example adds less the more of its class are known: at `beta = 0` every class weighs the
    same, and as `beta` approaches 1 a class weighs one over its count. Pass the result as
    `class_weights`, or `result[labels]` as `weights`.

    Args:
        counts: `[classes]`, how many examples each class has. A class without any weighs 0 and
            is left out of the mean.
        beta: A Python number in [0, 1); (n - 1) / n for an effective number of at most n.

    Returns:
        `[classes]`, floating.

    Raises:
        ValueError: `beta` is outside [0, 1).

    Also known as:
        Class-balanced loss, inverse frequency weights, effective number of samples.

    Example:
        >>> print(jaxloss.class_balanced_weights(jnp.array([30, 10]), beta=0.0))
        [1. 1.]
        >>> print([f"{c:.2f}" for c in jaxloss.class_balanced_weights(jnp.array([30, 10]))])
        ['0.50', '1.50']

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019,
        arXiv:1901.05555.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}.")
    counts = jnp.asarray(counts, float)
    rate = math.log(beta) if beta else -math.inf
    effective = -jnp.expm1(numerics.xtimes(counts, jnp.asarray(rate, counts.dtype)))
    shares = numerics.ratio(jnp.ones_like(counts), effective)
    return numerics.ratio(shares, jnp.sum(shares)) * jnp.sum(counts > 0, dtype=counts.dtype)


def next_token_targets(
    tokens: Integer[ArrayLike, "*batch time"],
    segment_ids: Integer[ArrayLike, "*batch time"] | None = None,
    pad_id: Integer[ArrayLike, ""] | int | None = None,
) -> tuple[Array, Array]:
    """What a language model is to say at each of its inputs: the next token of the same text.

        where[t] = t + 1 < time ∧ segment_ids[t] = segment_ids[t + 1]
                   ∧ tokens[t] ≠ pad_id ∧ tokens[t + 1] ≠ pad_id
        labels[t] = tokens[t + 1] if where[t] else -1

    Both go to the loss of what the model puts out for `tokens`, as they are: nothing is to be cut
    off or shifted. A loss that is not given `where` is NaN, and never learns from a -1.

    Args:
        tokens: `[*batch, time]`, integers. A row is one text, or several one after the other.
        segment_ids: `[*batch, time]`, any integers: neighbours with the same one are of the same
            text. Padding that has one of its own, such as the 0 of grain, still needs `pad_id`.
        pad_id: The token of padding, which is no target and has none; may be traced. If texts
            end with that token too, they do not learn to.

    Returns:
        `labels` and `where`, `[*batch, time]`. To predict every token of a long text once, cut it
        into rows that overlap by one token.

    Raises:
        ValueError: The tokens have no axis of time, or the segments another shape.
        TypeError: The tokens, the segments or `pad_id` are not integers.

    Also known as:
        Shifted labels, causal language modelling targets, sequence packing, loss mask.

    Example:
        >>> tokens, segments = jnp.array([5, 6, 7, 8, 9, 0]), jnp.array([1, 1, 1, 2, 2, 0])
        >>> labels, where = jaxloss.next_token_targets(tokens, segments, pad_id=0)
        >>> print(labels, where.astype(int))
        [ 6  7 -1  9 -1 -1] [1 1 0 1 0 0]

    Reference:
        Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021,
        arXiv:2107.02027.
    """
    tokens = inputs.integers(tokens, "tokens")
    if tokens.ndim == 0:
        raise ValueError("tokens must have an axis of time, got a single token.")
    following = jnp.roll(tokens, -1, axis=-1)
    where = jnp.broadcast_to(jnp.arange(tokens.shape[-1]) < tokens.shape[-1] - 1, tokens.shape)
    if segment_ids is not None:
        segments = inputs.integers(segment_ids, "segment_ids")
        if segments.shape != tokens.shape:
            raise ValueError(
                f"segment_ids must have the shape of tokens, got {segments.shape} and "
                f"{tokens.shape}."
            )
        where &= segments == jnp.roll(segments, -1, axis=-1)
    if pad_id is not None:
        pad = inputs.integers(pad_id, "pad_id").astype(tokens.dtype)
        where &= (tokens != pad) & (following != pad)
    return jnp.where(where, following, -1), where
