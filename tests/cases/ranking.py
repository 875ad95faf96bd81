import numpy as np

import jaxloss
from cases import case

ITEMS = (4,)


def lists(rng, units):
    """Scores from close to far apart, and grades of relevance without ties."""
    scores = 10 ** rng.uniform(-2, 1, (*units, 1)) * rng.normal(size=(*units, *ITEMS))
    return scores, rng.exponential(size=(*units, *ITEMS))


def pairs(rng, units):
    x1, x2 = 10 ** rng.uniform(-2, 1, (2, *units)) * rng.normal(size=(2, *units))
    return x1, x2, rng.choice([-1.0, 1.0], units)


def softmax(scores, relevance):
    """Item by item: what the others have, against what it has itself."""
    n = range(scores.shape[-1])
    x = [scores[..., i] for i in n]
    costs = [np.log1p(sum(np.exp(x[j] - x[i]) for j in n if j != i)) for i in n]
    huge = [np.isinf(c) for c in costs]
    top = scores.max(-1)
    costs = [np.where(h, top - x[i], c) for i, (h, c) in enumerate(zip(huge, costs, strict=True))]
    return sum(relevance[..., i] * costs[i] for i in n)


def pairwise(scores, relevance):
    total, number = np.zeros_like(scores[..., 0]), np.zeros_like(scores[..., 0])
    for i in range(scores.shape[-1]):
        for j in range(scores.shape[-1]):
            first = relevance[..., i] > relevance[..., j]
            x = scores[..., j] - scores[..., i]
            cost = np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))
            total, number = total + np.where(first, cost, 0), number + first
    return total / np.maximum(number, 1)


case(
    loss=jaxloss.ranking_softmax_loss,
    inputs=lists,
    truth=softmax,
    domains=("real", "none"),
    parts=ITEMS,
    corners=(
        (([0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 1.0]), 3 * np.log(4), [-1.25, 0.75, 0.75, -0.25]),
        (([20.0, 0.0], [1.0, 0.0]), np.exp(-20.0), [-np.exp(-20.0), np.exp(-20.0)]),
        (([0.0, 0.0, -np.inf], [1.0, 1.0, 0.0]), 2 * np.log(2), [0.0, 0.0, 0.0]),
        (([0.0, -np.inf], [0.0, 1.0]), np.inf),
        (([], []), 0.0),
    ),
)
case(
    loss=jaxloss.pairwise_logistic_loss,
    inputs=lists,
    truth=pairwise,
    domains=("real", "none"),
    parts=ITEMS,
    corners=(
        (([0.0, 2.0, 2.0], [1, 0, 1]), (np.log1p(np.exp(2)) + np.log(2)) / 2),
        (([0.0, 1.0], [3.0, 3.0]), 0.0, [0.0, 0.0]),
        (([np.inf, 1.0], [3.0, 2.0]), 0.0, [0.0, 0.0]),
        (([3.0], [2.0]), 0.0, [0.0]),
        (([], []), 0.0),
    ),
)
case(
    loss=jaxloss.margin_ranking_loss,
    inputs=pairs,
    truth=lambda x1, x2, labels, margin: np.maximum(0, margin - labels * (x1 - x2)),
    scale=lambda x1, x2, labels, margin: np.maximum(np.maximum(abs(x1), abs(x2)), margin),
    options={"margin": 0.25},
    domains=("real", "real", "sign"),
    corners=(
        ((np.inf, 0.0, 1.0), 0.0, 0.0),
        ((0.0, np.inf, 1.0), np.inf, -1.0),
        ((1.0, 2.0, 1.0), 1.25, -1.0),
        ((1.0, 2.0, -1.0), 0.0, 0.0),
    ),
)
