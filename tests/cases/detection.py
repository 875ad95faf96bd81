import numpy as np

import jaxloss
from cases import case


def pairs(rng, units):
    """Boxes of all sizes that overlap, contain each other or are apart; corners in any order."""
    size, place = 10 ** rng.uniform(-1, 1, (2, *units, 2)), rng.normal(size=(2, *units, 2))
    boxes = np.stack([place - size, place + size], -2)
    boxes = np.where(rng.random((2, *units, 1, 2)) < 0.2, boxes[..., ::-1, :], boxes)
    return tuple(boxes.reshape(2, *units, 4))


def truth(box, target):
    low, high, start, end = (
        f(b[..., :2], b[..., 2:]) for b in (box, target) for f in (np.minimum, np.maximum)
    )
    shared = np.maximum(np.minimum(high, end) - np.maximum(low, start), 0).prod(-1)
    union = (high - low).prod(-1) + (end - start).prod(-1) - shared
    hull = (np.maximum(high, end) - np.minimum(low, start)).prod(-1)
    apart = np.where(union == 0, 0, (union - shared) / union)
    return apart + np.where(hull == 0, 0, (hull - union) / hull)


unit = [0.0, 0.0, 1.0, 1.0]
case(
    loss=jaxloss.giou_loss,
    inputs=pairs,
    truth=truth,
    domains=("moderate", "moderate"),
    corners=(
        ((unit, unit), 0.0),
        ((unit, [1.0, 0.0, 2.0, 1.0]), 1.0),  # touching
        ((unit, [0.5, 0.5, 0.5, 0.5]), 1.0),  # a point inside
        (([0.0] * 4, [0.0] * 4), 0.0, [0.0] * 4),
        (([0.0] * 4, [2.0] * 4), 1.0, [0.0] * 4),  # points, whose union has no area
        ((unit, [3.0, 0.0, 4.0, 1.0]), 1.5, [-0.125, 0.0, -0.125, 0.0]),
        (([1.0, 1.0, 0.0, 0.0], unit), 0.0),
    ),
)
