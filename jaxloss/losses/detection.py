"""Detection: the unit is a box."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Num

from jaxloss.core import inputs, numerics
from jaxloss.core.reductions import R, Reduction, reduce

#: The kind of target that each loss learns from: boxes in images, which no table holds.
LEARNS: dict[str, str] = {}


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
    (x, x_box, x_target, x_gap), (y, y_box, y_target, y_gap) = (
        _shares(boxes[..., k::2], targets[..., k::2]) for k in (0, 1)
    )
    of_box, of_target = x_box * (y + y_box) + x * y_box, x_target * (y + y_target) + x * y_target
    between = x_box * y_target + x_target * y_box + x_gap
    between = between + (x + x_box + x_target) * y_gap
    union = x * y + of_box + of_target
    values = numerics.fraction(of_box + of_target, x * y) + numerics.fraction(between, union)
    return reduce(values, where=where, weights=weights, reduction=reduction)


def _shares(box: Array, target: Array) -> tuple[Array, Array, Array, Array]:
    """What two intervals share of their hull, what either has alone, and what none has."""
    (low, high), (start, end) = _sorted(box), _sorted(target)
    hull = jnp.maximum(high, end) - jnp.minimum(low, start)
    parts = (
        _above_0(jnp.minimum(high, end) - jnp.maximum(low, start)),
        jnp.minimum(high - low, _above_0(start - low) + _above_0(high - end)),
        jnp.minimum(end - start, _above_0(low - start) + _above_0(end - high)),
        _above_0(jnp.maximum(low, start) - jnp.minimum(high, end)),
    )
    both, of_box, of_target, gap = (numerics.ratio(part, hull) for part in parts)
    return both, of_box, of_target, gap


def _sorted(ends: Array) -> tuple[Array, Array]:
    one, other = ends[..., 0], ends[..., 1]
    return jnp.minimum(one, other), jnp.maximum(one, other)


def _above_0(x: Array) -> Array:
    return jnp.maximum(x, 0)
