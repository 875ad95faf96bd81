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
    """The plane in 3 × 3 cells, whose sides are the sides of the boxes; which box has which."""
    every = np.stack([box, target], -2).reshape(*box.shape[:-1], 2, 2, 2)  # box, corner, axis
    sides = np.sort(every.reshape(*box.shape[:-1], 4, 2), -2)
    width, middle = np.diff(sides, axis=-2), (sides[..., 1:, :] + sides[..., :-1, :]) / 2
    low, high = every.min(-2)[..., None, :], every.max(-2)[..., None, :]
    within = (low < middle[..., None, :, :]) & (middle[..., None, :, :] < high)
    area = width[..., :, None, 0] * width[..., None, :, 1]
    covers = within[..., :, None, 0] & within[..., None, :, 1]
    one, other = covers[..., 0, :, :], covers[..., 1, :, :]
    both, alone, between = (
        (area * part).sum((-2, -1)) for part in (one & other, one ^ other, ~(one | other))
    )
    hull = both + alone + between
    apart = np.where(both + alone == 0, 0, alone / (both + alone))
    return apart + np.where(hull == 0, 0, between / hull)


unit = [0.0, 0.0, 1.0, 1.0]
case(
    loss=jaxloss.giou_loss,
    inputs=pairs,
    truth=truth,
    domains=("bit", "bit"),  # boxes that are equal, touch, or have no area
    corners=(
        ((unit, unit), 0.0),
        ((unit, [1.0, 0.0, 2.0, 1.0]), 1.0),  # touching
        ((unit, [0.5, 0.5, 0.5, 0.5]), 1.0),  # a point inside
        (([0.0, 0.0, 1e-30, 1e4], [0.0, 0.0, 1e4, 1e-30]), 2.0),
        (([0.0] * 4, [0.0] * 4), 0.0, [0.0] * 4),
        (([0.0] * 4, [2.0] * 4), 1.0, [0.0] * 4),  # points, whose union has no area
        ((unit, [3.0, 0.0, 4.0, 1.0]), 1.5, [0.125, 0.0, -0.25, 0.0]),
        (([1.0, 1.0, 0.0, 0.0], unit), 0.0),
        (([0.0, 0.0, 1e38, 1e38], [1e38, 0.0, 2e38, 1e38]), 1.0),  # areas beyond the dtype
    ),
)
