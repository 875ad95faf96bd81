import numpy as np

import jaxloss
from cases import case


def labels_of(rng, units):
    """Half of them 0 or 1, half probabilities."""
    hard = rng.random(units) < 0.5
    return np.where(hard, rng.random(units) < 0.5, rng.random(units))


def logits(rng, units):
    return 10 ** rng.uniform(-3, 1.5, units) * rng.normal(size=units), labels_of(rng, units)


def probabilities(rng, units):
    """Near 0 and near 1 too, where a float32 that is not 1 is at most 1 - 6e-8."""
    p = 10 ** rng.uniform(-6, 0, units) / 2
    return np.where(rng.random(units) < 0.5, p, 1 - p), labels_of(rng, units)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def times(share, x):
    return np.where(share == 0, 0, share * x)


def of_logits(logits, labels, pos_weight=1.0, label_smoothing=0.0):
    y = (1 - label_smoothing) * labels + label_smoothing / 2
    return times(pos_weight * y, softplus(-logits)) + times(1 - y, softplus(logits))


def of_probabilities(probabilities, labels):
    p, y = probabilities, labels
    yes = np.log(np.where((y == 0) & (p == 0), 1, p))
    return -y * yes - (1 - y) * np.log1p(-np.where((y == 1) & (p == 1), 0, p))


CORNERS = (
    ((40.0, 1.0), np.exp(-40.0), -np.exp(-40.0)),
    ((1e4, 0.0), 1e4, 1.0),
    ((np.inf, 1.0), 0.0, 0.0),
    ((-np.inf, 0.0), 0.0, 0.0),
    ((np.inf, 0.0), np.inf, 1.0),
    ((-np.inf, 1.0), np.inf, -1.0),
)
bits = {"loss": jaxloss.sigmoid_binary_cross_entropy, "inputs": logits, "truth": of_logits}
case(**bits, domains=("real", "probability"), corners=CORNERS)
case(**bits, domains=("real", "bit"), options={"label_smoothing": 0.1})
case(**bits, domains=("real", "bit"), options={"pos_weight": 3.0}, corners=CORNERS[2:4])
case(
    **bits,
    domains=("real", "probability"),
    options={"pos_weight": 0.25, "label_smoothing": 0.2},
    corners=(((0.0, 1.0), np.log(2) * 0.325),),
)
case(
    loss=jaxloss.binary_cross_entropy,
    inputs=probabilities,
    truth=of_probabilities,
    domains=("probability", "probability"),
    corners=(
        ((0.0, 1.0), np.inf),
        ((1.0, 0.0), np.inf),
        ((0.0, 0.0), 0.0, 1.0),
        ((1.0, 1.0), 0.0, -1.0),
        ((0.25, 1.0), np.log(4), -4.0),
    ),
)


def hard(rng, units):
    return 10 ** rng.uniform(-3, 2, units) * rng.normal(size=units), rng.choice([0.0, 1.0], units)


def sparse(logits, labels):
    x = (1 - 2 * labels) * logits
    return np.where(x <= -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x))


case(
    loss=jaxloss.sparsemax_loss,
    inputs=hard,
    truth=sparse,
    scale=lambda logits, labels: np.maximum(1, abs(logits)),
    domains=("real", "bit"),
    corners=(
        ((np.inf, 1.0), 0.0, 0.0),
        ((-np.inf, 1.0), np.inf, -1.0),
        ((0.0, 0.0), 0.25, 0.5),
        ((1.0, 0.0), 1.0, 1.0),
        ((-1.0, 0.0), 0.0, 0.0),
    ),
)
