"""Sequences: the unit is a sequence and its parts are steps."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, Num

from jaxloss.core import alignment, checks, inputs, over_classes
from jaxloss.core.reductions import R, Reduction, reduce


def ctc_loss(
    logits: Float[ArrayLike, "*units steps classes"],
    labels: Integer[ArrayLike, "*units length"],
    *,
    label_where: Bool[ArrayLike, "*units length"] | None = None,
    blank_id: int = 0,
    zero_infinity: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Connectionist temporal classification: -log of the probability of spelling the labels.

        p = softmax(logits)
        ℓ = -log Σ Πₜ p[t, path[t]]      over the paths that spell the labels

    A path names a class or the blank at every step, and spells what is left of it once equal
    neighbours are merged and blanks are dropped. So nothing has to say which step belongs to
    which label. The gradient is p less the posterior mass of each class. A sequence that no path
    spells, such as one with more labels than steps, is +∞ with gradient 0: no logits would help.

    Args:
        logits: `[*units, steps, classes]`, floating; -inf is an absent class.
        labels: `[*units, length]`, class indices other than the blank.
        label_where: `[*units, length]`, which of the labels there are; True for all.
        blank_id: Index of the class that stands for no label.
        zero_infinity: Whether a sequence that no path spells is 0 instead of +∞.
        where: `[*units]` or `[*units, steps]`; deletes steps, wherever they are.
        weights: `[*units]`.
        reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per sequence.

    Raises:
        ValueError: The shapes differ, or `blank_id` is not a class.
        TypeError: The logits are not floating, the labels not integers, a mask not boolean.

    Also known as:
        CTC, forward-backward loss.
        `optax.losses.ctc_loss(x, jnp.zeros(x.shape[:-1]), y, jnp.zeros(y.shape)).mean()`:
            `ctc_loss(x, y)`, its paddings are 1 - `where` and 1 - `label_where`, and a sequence
            that no path spells costs about 1e5
        `torch.nn.functional.ctc_loss(x.log_softmax(-1).transpose(0, 1), y, [x.shape[1]] * len(x),
            [y.shape[1]] * len(y), reduction="none").mean()`: `ctc_loss(x, y)`, its "mean" divides
            each loss by the number of labels
        `keras.losses.ctc(y, x).mean()`: `ctc_loss(x, y)`, a label of 0 is padding there

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
        >>> print(f"{jaxloss.ctc_loss(logits, jnp.array([1])):.4f}")  # 3 of 4 paths: -log 0.75
        0.2877

    Reference:
        Graves, Fernández, Gomez and Schmidhuber, "Connectionist Temporal Classification:
        Labelling Unsegmented Sequence Data with Recurrent Neural Networks", 2006.
    """
    logits, spelled, sound, sequences = _sequences(logits, labels, label_where, blank_id, where)
    values = sound * alignment.ctc(logits, *spelled)
    values = jnp.where(jnp.isposinf(values) & zero_infinity, 0, values)
    return reduce(values, where=sequences, weights=weights, reduction=reduction)


def ctc_loss_with_forward_probs(
    logits: Float[ArrayLike, "*units steps classes"],
    labels: Integer[ArrayLike, "*units length"],
    *,
    label_where: Bool[ArrayLike, "*units length"] | None = None,
    blank_id: int = 0,
    where: Bool[ArrayLike, "..."] | None = None,
) -> tuple[Array, Array, Array]:
    """The CTC loss of every sequence, and how probable each prefix of its labels is.

        ℓ = ctc_loss(logits, labels, reduction=None)
        blank[t, n] = log Σ p of the paths that spell n labels in the first t + 1 steps and
            end in a blank;  label[t, n]: that spell n + 1 labels and end in the last of them

    Args:
        logits, labels, label_where, blank_id, where: Of `ctc_loss`.

    Returns:
        The loss of every sequence, 0 where it is deleted; `blank`, `[steps, *units, length + 1]`;
        and `label`, `[steps, *units, length]`. -∞ is what cannot be; a deleted step repeats the
        one before it; after the last step `blank` also has the paths that end in a label.

    Raises:
        ValueError: The shapes differ, or `blank_id` is not a class.
        TypeError: The logits are not floating, the labels not integers, a mask not boolean.

    Also known as:
        Alphas, forward variables.
        `optax.losses.ctc_loss_with_forward_probs(x, jnp.zeros(x.shape[:-1]), y,
            jnp.zeros(y.shape))[0]`: `ctc_loss_with_forward_probs(x, y)[0]`, about -1e5 is its -∞

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
        >>> loss, blank, label = jaxloss.ctc_loss_with_forward_probs(logits, jnp.array([1]))
        >>> print(jnp.exp(blank), jnp.exp(label).T)
        [[0.5  0.  ]
         [0.25 0.75]] [[0.5 0.5]]

    Reference:
        Graves, Fernández, Gomez and Schmidhuber, "Connectionist Temporal Classification:
        Labelling Unsegmented Sequence Data with Recurrent Neural Networks", 2006.
    """
    logits, spelled, sound, sequences = _sequences(logits, labels, label_where, blank_id, where)
    values = reduce(
        sound * alignment.ctc(logits, *spelled), where=sequences, weights=None, reduction=None
    )
    blank, label = alignment.forward_log_probs(logits, *spelled)
    sound = sound[None, ..., None]
    return values, sound * blank, sound * label


def _sequences(
    logits: ArrayLike,
    labels: ArrayLike,
    label_where: ArrayLike | None,
    blank_id: int,
    where: ArrayLike | None,
) -> tuple[Array, tuple[Array, Array, Array | None], Array, Array | None]:
    """Logits; the blank and the labels, their number, the steps kept; 1 or NaN; what is kept."""
    (logits,) = inputs.paired(where, features=1, logits=logits)
    labels, units, size = inputs.integers(labels), logits.shape[:-2], logits.shape[-1]
    if logits.ndim < 2 or labels.ndim < 1 or labels.shape[:-1] != units:
        raise ValueError(
            f"labels must have the leading axes of logits, got {labels.shape} and {logits.shape}."
        )
    if not 0 <= blank_id < size:
        raise ValueError(f"blank_id must be in [0, {size}), the classes of logits, got {blank_id}.")
    kept = None if where is None else inputs.spread("where", where, logits.shape[:-1])
    sequences = inputs.units_kept(where, logits.shape[:-1], units=len(units))
    present = _present(label_where, sequences, labels)
    known = (labels >= 0) & (labels < size) & (labels != blank_id)
    why = f"a class index is in [0, {size}) and not the blank, {blank_id}"
    checks.require(lambda _: known | ~present, "labels", labels, why)
    sound = jnp.all(known | ~present, axis=-1) & ~jnp.any(jnp.isnan(logits), axis=(-2, -1))
    labels = jnp.where(known, labels, 0)
    if label_where is not None:
        labels = _first(labels, present)
    front = [(0, 0)] * len(units) + [(1, 0)]
    classes = jnp.pad(labels, front, constant_values=blank_id)
    lengths = jnp.sum(present, axis=-1, dtype=classes.dtype)
    sound = jnp.where(sound, 1, jnp.nan).astype(logits.dtype)  # to exp of XLA NaN is any number
    return logits, (classes, lengths, kept), sound, sequences


def _present(label_where: ArrayLike | None, sequences: Array | None, labels: Array) -> Array:
    """Which labels count: what `label_where` keeps, of the sequences that are kept."""
    present = jnp.asarray(True if label_where is None else label_where)
    if present.dtype != bool:
        raise TypeError(f"label_where must be boolean, got {present.dtype}.")
    if label_where is not None and present.shape != labels.shape:
        raise ValueError(
            "label_where must have the shape of labels, whose leading axes are those of logits, "
            f"got {present.shape} and {labels.shape}."
        )
    there = True if sequences is None else sequences[..., None]
    return jnp.broadcast_to(present & there, labels.shape)


def _first(labels: Array, present: Array) -> Array:
    """The labels that are present, moved to the front; what comes after them is 0."""
    place = jnp.where(present, jnp.cumsum(present, axis=-1) - 1, -1)
    each = jnp.broadcast_to(labels[..., None], (*labels.shape, labels.shape[-1]))
    return jnp.sum(jnp.where(over_classes.hit(each, place), each, 0), axis=-2)
