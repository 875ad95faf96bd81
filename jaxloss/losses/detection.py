"""Detection: the unit is a box."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num

from jaxloss.core import inputs, numerics
from jaxloss.core.reductions import R, Reduction, reduce

#: Of two intervals: the length of both, of either alone, and of what is between them.
Pieces: TypeAlias = tuple[Array, Array, Array, Array]


def giou_loss(
    boxes: Float[ArrayLike, "*units 4"],
    targets: Num[ArrayLike, "*units 4"],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction[R] = "mean",
) -> R:
    """Generalized IoU loss: what two boxes do not share, and what lies between them.

        ℓ = 1 - |boxes ∩ targets| / |boxes ∪ targets| + (|hull| - |boxes ∪ targets|) / |hull|

    The hull is the smallest box around both, so that boxes which do not touch are drawn to each
    other; the loss is from 0, of equal boxes, to 2. A size changes nothing: nothing is added to
    an area, and a quotient of two areas that are 0 is left out, as between boxes without area.
    The corners of a box may come in any order.

    Args:
        boxes: `[*units, 4]`, floating: x_min, y_min, x_max, y_max.
        targets: `[*units, 4]`, in the same order.
        where, weights, reduction: See `jaxloss.core.reductions`.

    Returns:
        The reduced loss; with `reduction=None` one value per box.

    Raises:
        ValueError: The shapes differ, or the last axis is not of length 4.
        TypeError: The boxes are not floating.

    Also known as:
        Generalized intersection over union, 1 - GIoU.
        `torchvision.ops.generalized_box_iou_loss(x, t, reduction="mean")`: `giou_loss(x, t)`,
            it adds 1e-7 to the areas that divide

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 3.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> targets = jnp.array([[1.0, 0.0, 4.0, 2.0], [3.0, 0.0, 4.0, 1.0]])
        >>> print(jaxloss.giou_loss(boxes, targets, reduction=None))
        [0.5 1.5]

    Reference:
        Rezatofighi, Tsoi, Gwak, Sadeghian, Reid and Savarese, "Generalized Intersection over
        Union: A Metric and a Loss for Bounding Box Regression", 2019, arXiv:1902.09630.
    """
    boxes, targets = inputs.paired(where, features=1, boxes=boxes, targets=targets)
    if boxes.shape[-1] != 4:
        raise ValueError(f"boxes must have a last axis of 4 coordinates, got {boxes.shape}.")
    pieces = [_pieces(_along(k, boxes), _along(k, targets)) for k in (0, 1)]
    shared, alone, _ = _areas(*map(_of_longer, pieces))
    of_hull, rest_of_hull, between = _areas(*map(_of_hull, pieces))
    values = numerics.fraction(alone, shared)
    values = values + numerics.fraction(between, of_hull + rest_of_hull)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def _along(axis: int, box: Array) -> Array:
    """Both ends, by a slice: JAX 0.9 makes a gather of an index with a stride."""
    return jax.lax.slice_in_dim(box, axis, 4, 2, axis=box.ndim - 1)


def _pieces(box: Array, target: Array) -> Pieces:
    (low, high), (start, end) = _sorted(box), _sorted(target)
    return (
        _above_0(jnp.minimum(high, end) - jnp.maximum(low, start)),
        jnp.minimum(high - low, _above_0(start - low) + _above_0(high - end)),
        jnp.minimum(end - start, _above_0(low - start) + _above_0(end - high)),
        _above_0(jnp.maximum(low, start) - jnp.minimum(high, end)),
    )


def _sorted(ends: Array) -> tuple[Array, Array]:
    one, other = ends[..., 0], ends[..., 1]
    return jnp.minimum(one, other), jnp.maximum(one, other)


def _above_0(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _of_longer(pieces: Pieces) -> Pieces:
    """As shares of the longer interval: areas of them neither overflow nor vanish."""
    both, of_box, of_target, _ = pieces
    return _shares(pieces, both + jnp.maximum(of_box, of_target))


def _of_hull(pieces: Pieces) -> Pieces:
    both, of_box, of_target, gap = pieces
    return _shares(pieces, both + of_box + of_target + gap)


def _shares(pieces: Pieces, whole: Array) -> Pieces:
    """A quotient of areas is the same in any unit, so that the unit has no gradient."""
    both, of_box, of_target, gap = (
        numerics.ratio(piece, jax.lax.stop_gradient(whole)) for piece in pieces
    )
    return both, of_box, of_target, gap


def _areas(x: Pieces, y: Pieces) -> tuple[Array, Array, Array]:
    """What both boxes cover, what one of them does, and what neither; nothing is subtracted."""
    (x_both, x_box, x_target, x_gap), (y_both, y_box, y_target, y_gap) = x, y
    of_box = x_box * (y_both + y_box) + x_both * y_box
    of_target = x_target * (y_both + y_target) + x_both * y_target
    covered, hull = x_both + x_box + x_target, y_both + y_box + y_target + y_gap
    between = x_box * y_target + x_target * y_box + x_gap * hull + covered * y_gap
    return x_both * y_both, of_box + of_target, between
