import numpy as np

import jaxloss
from cases import case
from cases.binary import logits, softplus
from cases.multiclass import distributions, minus_log_p


def sigmoid_focal(logits, labels, alpha=None, gamma=2.0):
    loss = labels * softplus(-logits) + (1 - labels) * softplus(logits)
    miss = labels / (1 + np.exp(logits)) + (1 - labels) / (1 + np.exp(-logits))
    share = 1 if alpha is None else alpha * labels + (1 - alpha) * (1 - labels)
    return share * miss**gamma * loss


def softmax_focal(logits, labels, alpha=1.0, gamma=2.0):
    losses = minus_log_p(logits)
    return (alpha * labels * (-np.expm1(-losses)) ** gamma * losses).sum(-1)


SIGMOID = {"loss": jaxloss.sigmoid_focal_loss, "inputs": logits, "truth": sigmoid_focal}
SOFTMAX = {"loss": jaxloss.softmax_focal_loss, "inputs": distributions, "truth": softmax_focal}
ALIVE = np.exp(-62.5)  # at a logit of 50, where a probability of 1 - 1e-7 is the largest to clip
case(**SIGMOID, domains=("real", "probability"))
case(**SIGMOID, domains=("real", "bit"), options={"alpha": 0.25, "gamma": 1.5})
case(
    **SIGMOID,
    domains=("real", "bit"),
    options={"gamma": 0.25},
    corners=(
        ((50.0, 1.0), ALIVE, -1.25 * ALIVE),
        ((-50.0, 0.0), ALIVE, 1.25 * ALIVE),
        ((-50.0, 1.0), 50.0, -1.0),
        ((50.0, 0.0), 50.0, 1.0),
        ((np.inf, 1.0), 0.0, 0.0),
        ((-np.inf, 1.0), np.inf, -1.0),
        ((np.inf, 0.0), np.inf, 1.0),
    ),
)
case(
    **SIGMOID, domains=("real", "bit"), options={"gamma": 0.0}, corners=(((np.inf, 1.0), 0.0, 0.0),)
)
case(**SOFTMAX, domains=("real", "none"), corners=((([5.0], [1.0]), 0.0, [0.0]),))
case(
    **SOFTMAX,
    domains=("real", "none"),
    options={"alpha": np.array([1.0, 0.5, 2.0, 0.25, 1.5], np.float32), "gamma": 1.5},
)
case(
    **SOFTMAX,
    domains=("real", "none"),
    options={"gamma": 0.25},
    corners=(
        (([50.0, 0.0], [1.0, 0.0]), ALIVE, [-1.25 * ALIVE, 1.25 * ALIVE]),
        (([50.0, 0.0], [0.0, 1.0]), 50.0, [1.0, -1.0]),
        (([0.0, -np.inf], [1.0, 0.0]), 0.0, [0.0, 0.0]),
        (([0.0, -np.inf], [0.0, 1.0]), np.inf, [1.0, -1.0]),
        (([np.inf, 0.0], [1.0, 0.0]), 0.0, [0.0, 0.0]),
        (([-np.inf, -np.inf], [1.0, 0.0]), np.nan),
        (([], []), np.nan),
    ),
)
