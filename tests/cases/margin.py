import numpy as np

import jaxloss
from cases import case


def signed(rng, units):
    scores = 10 ** rng.uniform(-3, 2, units) * rng.normal(size=units)
    return scores, rng.choice([-1.0, 1.0], units)


def labelled(rng, units):
    scores = 10 ** rng.uniform(-3, 2, (*units, 1)) * rng.normal(size=(*units, 5))
    return scores, rng.integers(5, size=units)


def hinge(scores, labels):
    return np.maximum(0, 1 - labels * scores)


def hinge_scale(scores, labels):
    return np.maximum(1, abs(scores))


def soft_margin(scores, labels):
    x = -labels * scores
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def lead(scores, labels):
    own = np.arange(scores.shape[-1]) == labels[..., None]
    others = np.where(own, np.longdouble("-1e3000"), scores).max(-1)
    return others - np.where(own, scores, 0).sum(-1)


def largest_score(scores, labels):
    return np.maximum(1, abs(scores).max(-1))


SIGNS = {"inputs": signed, "domains": ("real", "sign")}
CLASSES = {"inputs": labelled, "domains": ("real", "none")}
case(
    loss=jaxloss.hinge_loss,
    truth=hinge,
    scale=hinge_scale,
    corners=(((np.inf, 1.0), 0.0, 0.0), ((-np.inf, 1.0), np.inf, -1.0), ((0.5, -1.0), 1.5, 1.0)),
    **SIGNS,
)
case(
    loss=jaxloss.squared_hinge_loss,
    truth=lambda s, y: hinge(s, y) ** 2,
    scale=lambda s, y: hinge_scale(s, y) ** 2,
    corners=(((np.inf, 1.0), 0.0, 0.0), ((1.0, 1.0), 0.0, 0.0), ((-1.0, 1.0), 4.0, -4.0)),
    **SIGNS,
)
case(
    loss=jaxloss.perceptron_loss,
    truth=lambda s, y: np.maximum(0, -s * y),
    corners=(((np.inf, 1.0), 0.0, 0.0), ((-np.inf, 1.0), np.inf, -1.0)),
    **SIGNS,
)
case(
    loss=jaxloss.soft_margin_loss,
    truth=soft_margin,
    corners=(
        ((np.inf, 1.0), 0.0, 0.0),
        ((-np.inf, 1.0), np.inf, -1.0),
        ((40.0, 1.0), np.exp(-40.0), -np.exp(-40.0)),
    ),
    **SIGNS,
)
case(
    loss=jaxloss.multiclass_hinge_loss,
    truth=lambda s, y: np.maximum(0, 1 + lead(s, y)),
    scale=largest_score,
    corners=(
        (([5.0], 0), 0.0, [0.0]),
        (([0.0, -np.inf], 0), 0.0, [0.0, 0.0]),
        (([0.0, -np.inf], 1), np.inf, [1.0, -1.0]),
        (([np.inf, 0.0], 0), 0.0, [0.0, 0.0]),
        (([-5.0, -6.0, -7.0], 1), 2.0, [1.0, -1.0, 0.0]),
        (([-np.inf, -np.inf], 1), np.nan),
        (([], 0), np.nan),
    ),
    **CLASSES,
)
case(
    loss=jaxloss.multiclass_perceptron_loss,
    truth=lambda s, y: np.maximum(0, lead(s, y)),
    scale=largest_score,
    corners=(
        (([5.0], 0), 0.0, [0.0]),
        (([0.0, -np.inf], 0), 0.0, [0.0, 0.0]),
        (([2.0, 0.0], 1), 2.0, [1.0, -1.0]),
        (([], 0), np.nan),
    ),
    **CLASSES,
)
