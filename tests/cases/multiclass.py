import numpy as np

import jaxloss
from cases import case


def labelled(rng, units):
    logits = 10 ** rng.uniform(-2, 1.2, (*units, 1)) * rng.normal(size=(*units, 5))
    return logits, rng.integers(5, size=units)


def distributions(rng, units):
    """Half the rows are one-hot: there the gradient of a confident row keeps its digits."""
    logits, labels = labelled(rng, units)
    hot = rng.random((*units, 1)) < 0.5
    return logits, np.where(hot, np.eye(5)[labels], rng.dirichlet(np.ones(5), size=units))


def probabilities(rng, units):
    logits, labels = distributions(rng, units)
    return np.exp(-minus_log_p(logits / 4)), labels


def log_probs(rng, units):
    logits, labels = labelled(rng, units)
    return -minus_log_p(logits), labels


def log_sum(x):
    """The largest entry, and the logarithm of the sum less it."""
    order = np.sort(x, -1)
    rest = np.exp(order[..., :-1] - order[..., -1:]).sum(-1, keepdims=True)
    return order[..., -1:], np.log1p(rest)


def minus_log_p(x):
    top, more = log_sum(x)
    return top - x + more


def one_hot(labels, like):
    return labels if labels.ndim == like.ndim else np.eye(like.shape[-1], dtype=like.dtype)[labels]


def softmax(logits, labels, label_smoothing=0, class_weights=1, z_loss=0, logit_softcap=None):
    absent = logits < np.longdouble("-1e1000")
    x, hot = logits, one_hot(labels, logits)
    if logit_softcap is not None:
        x = np.where(absent, logits, logit_softcap * np.tanh(logits / logit_softcap))
    q = (1 - label_smoothing) * hot + label_smoothing * ~absent / (~absent).sum(-1, keepdims=True)
    penalty = z_loss * np.sum(log_sum(x), axis=0)[..., 0] ** 2
    return (class_weights * q * minus_log_p(x)).sum(-1) + (class_weights * hot).sum(-1) * penalty


def entropy_of_probabilities(probabilities, labels):
    gone = (labels == 0) & (probabilities == 0)
    return -(labels * np.log(np.where(gone, 1, probabilities))).sum(-1)


def nll(log_probs, labels, class_weights=1):
    return -np.where(one_hot(labels, log_probs) == 1, class_weights * log_probs, 0).sum(-1)


def poly(logits, labels, epsilon=2.0):
    losses = minus_log_p(logits)
    return (labels * losses).sum(-1) + epsilon * (labels * -np.expm1(-losses)).sum(-1)


EVERYTHING = {
    "label_smoothing": 0.1,
    "class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5], np.float32),
    "z_loss": 0.01,
    "logit_softcap": 30.0,
}
WEIGHTED = {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5], np.float32)}
SMOOTHED = {"label_smoothing": 0.2, "logit_softcap": 50.0}
OF_INDICES = (
    (([1e4, -1e4], 1), 2e4, [1.0, -1.0]),
    (([20.0, 0.0], 0), np.exp(-20.0), [-np.exp(-20.0), np.exp(-20.0)]),
    (([1e4, 1e4 - 8], 0), np.log1p(np.exp(-8.0))),
    (([3e38, 0.0], 1), 3e38, [1.0, -1.0]),
    (([0.0, 0.0, -np.inf], 1), np.log(2), [0.5, -0.5, 0.0]),
    (([0.0, 0.0, -np.inf], 2), np.inf, [0.5, 0.5, -1.0]),
    (([np.inf, 0.0], 0), 0.0, [0.0, 0.0]),
    (([np.inf, 0.0], 1), np.inf, [1.0, -1.0]),
    (([5.0], 0), 0.0, [0.0]),
    (([-np.inf, -np.inf], 0), np.nan),
    (([], 0), np.nan),
)


def with_one_hot(corners):
    return tuple(
        ((x, np.eye(len(x))[label : label + 1].reshape(len(x))), *wanted)
        for (x, label), *wanted in corners
    )


INDICES = {
    "loss": jaxloss.softmax_cross_entropy_with_integer_labels,
    "inputs": labelled,
    "truth": softmax,
    "domains": ("real", "none"),
}
ROWS = {
    "loss": jaxloss.softmax_cross_entropy,
    "inputs": distributions,
    "truth": softmax,
    "domains": ("real", "none"),
}
# smoothing gives its mass to the classes that are there, and a cap leaves those that are not
OF_SMOOTHED = (
    (([0.0, 0.0, -np.inf], 1), np.log(2), [0.4, -0.4, 0.0]),
    (([0.0, 0.0, -np.inf], 2), np.inf, [0.4, 0.4, -0.8]),
    (([5.0, -np.inf], 0), 0.0, [0.0, 0.0]),
    (([-np.inf, -np.inf], 0), np.nan),
    (([], 0), np.nan),
)
case(**INDICES, corners=OF_INDICES)
case(**INDICES, options=EVERYTHING)
case(**INDICES, options=WEIGHTED)
case(**INDICES, options=SMOOTHED, corners=OF_SMOOTHED)
case(
    **ROWS,
    corners=(
        *with_one_hot(OF_INDICES),
        (([0.0, 0.0, -np.inf], [0.25, 0.75, 0.0]), np.log(2), [0.25, -0.25, 0.0]),
    ),
)
case(**ROWS, options=EVERYTHING)
case(**ROWS, options=WEIGHTED)
case(**ROWS, options=SMOOTHED, corners=with_one_hot(OF_SMOOTHED))
case(
    loss=jaxloss.categorical_cross_entropy,
    inputs=probabilities,
    truth=entropy_of_probabilities,
    domains=("probability", "none"),
    corners=(
        (([0.5, 0.5, 0.0], [0.5, 0.5, 0.0]), np.log(2), [-1.0, -1.0, 0.0]),
        (([1.0, 0.0], [1.0, 0.0]), 0.0, [-1.0, 0.0]),
        (([1.0, 0.0], [0.0, 1.0]), np.inf),
        (([], []), 0.0),
    ),
)
LOG_PROBS = {
    "loss": jaxloss.nll_loss,
    "inputs": log_probs,
    "truth": nll,
    "domains": ("log probability", "none"),
}
case(
    **LOG_PROBS,
    corners=(
        (([0.0, -np.inf], 0), 0.0, [-1.0, 0.0]),
        (([0.0, -np.inf], 1), np.inf, [0.0, -1.0]),
        (([], 0), np.inf),
    ),
)
case(**LOG_PROBS, options=WEIGHTED)
POLY = {
    "loss": jaxloss.poly_loss_cross_entropy,
    "inputs": distributions,
    "truth": poly,
    "domains": ("real", "none"),
}
case(
    **POLY,
    corners=(
        (([20.0, 0.0], [1.0, 0.0]), 3 * np.exp(-20.0), [-3 * np.exp(-20.0), 3 * np.exp(-20.0)]),
        (([0.0, -np.inf], [1.0, 0.0]), 0.0, [0.0, 0.0]),
        (([0.0, -np.inf], [0.0, 1.0]), np.inf, [1.0, -1.0]),
        (([np.inf, 0.0], [1.0, 0.0]), 0.0, [0.0, 0.0]),
        (([5.0], [1.0]), 0.0, [0.0]),
        (([], []), np.nan),
    ),
)
case(**POLY, options={"epsilon": -0.5}, scale=lambda logits, labels, epsilon: poly(logits, labels))


def generalized(probabilities, labels, q=0.7):
    p = np.take_along_axis(probabilities, labels[..., None], -1)[..., 0]
    return -np.log(p) if q == 0 else -np.expm1(q * np.log(p)) / q


def sparse(logits, labels):
    """What the distribution of most Σ p·x - p²/2 gets, and the label alone, which gets x - 1/2."""
    x = np.sort(logits, -1)[..., ::-1]
    own = np.take_along_axis(logits, labels[..., None], -1)
    k = np.arange(1, x.shape[-1] + 1)
    threshold = (((x - x[..., :1]).cumsum(-1) - 1) / k).max(-1, keepdims=True)
    p = np.maximum(logits - x[..., :1] - threshold, 0)
    return (p * (logits - own) - p**2 / 2).sum(-1) + np.longdouble(0.5)


def sparse_scale(logits, labels):
    return np.maximum(1, abs(logits).max(-1))


GENERALIZED = {
    "loss": jaxloss.generalized_cross_entropy,
    "inputs": lambda rng, units: (probabilities(rng, units)[0], rng.integers(5, size=units)),
    "truth": generalized,
    "domains": ("probability", "none"),
}
case(
    **GENERALIZED,
    corners=(
        (([1.0, 0.0], 0), 0.0, [-1.0, 0.0]),
        (([1.0, 0.0], 1), 1 / 0.7),
        (([], 0), 1 / 0.7),
    ),
)
case(**GENERALIZED, options={"q": 0.0}, corners=((([1.0, 0.0], 1), np.inf),))
case(
    loss=jaxloss.multiclass_sparsemax_loss,
    inputs=labelled,
    truth=sparse,
    scale=sparse_scale,
    domains=("real", "none"),
    corners=(
        (([0.5, 0.0, -1.0], 1), 0.5625, [0.75, -0.75, 0.0]),
        (([2.0, 0.0], 0), 0.0, [0.0, 0.0]),
        (([2.0, 0.0], 1), 2.0, [1.0, -1.0]),
        (([0.0, 0.0, -np.inf], 0), 0.25, [-0.5, 0.5, 0.0]),
        (([0.0, 0.0, -np.inf], 2), np.inf, [0.5, 0.5, -1.0]),
        (([np.inf, 0.0], 0), 0.0, [0.0, 0.0]),
        (([np.inf, 0.0], 1), np.inf, [1.0, -1.0]),
        (([-np.inf, -np.inf], 0), np.nan),
        (([], 0), np.nan),
    ),
)
