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


def several(rng, units):
    scores, _ = labelled(rng, units)
    return scores, rng.choice([0.0, 1.0], scores.shape)


def lags(scores, own):
    """Of every other class, how far it is ahead of `own`; an absent one is ahead of nothing."""
    return np.where(scores < np.longdouble("-1e1000"), -np.inf, scores - own)


def present(scores):
    return (scores >= np.longdouble("-1e1000")).sum(-1)


def weston(scores, labels, p=1, margin=1.0, class_weights=None):
    own = np.take_along_axis(scores, labels[..., None], -1)
    others = np.arange(scores.shape[-1]) != labels[..., None]
    hinges = np.where(others, np.maximum(0, margin + lags(scores, own)) ** p, 0).sum(-1)
    counts = 1 if class_weights is None else class_weights[labels]
    return counts * hinges / present(scores)


def weston_scale(scores, labels, p=1, margin=1.0, class_weights=None):
    counts = 1 if class_weights is None else class_weights[labels]
    lag = abs(scores - np.take_along_axis(scores, labels[..., None], -1)).max(-1)
    return counts * np.maximum(margin, np.maximum(lag, largest_score(scores, labels))) ** p


def multilabel(scores, labels):
    """Label by label, against each of the other classes."""
    total = 0
    for i in range(scores.shape[-1]):
        ahead = np.maximum(0, 1 + lags(scores, scores[..., i : i + 1]))
        pairs = labels[..., i : i + 1] * (1 - labels)
        pairs[..., i] = 0
        total = total + np.where(pairs == 0, 0, pairs * ahead).sum(-1)
    return total / present(scores)


def soft_multilabel(logits, labels, class_weights=1.0):
    costs = [np.maximum(x, 0) + np.log1p(np.exp(-abs(x))) for x in (-logits, logits)]
    parts = [np.where(y == 0, 0, y * c) for y, c in zip((labels, 1 - labels), costs, strict=True)]
    return (class_weights * np.add(*parts)).sum(-1) / logits.shape[-1]


def distances(rng, units):
    return 10 ** rng.uniform(-3, 1, units), rng.choice([-1.0, 1.0], units)


def blend(labels, apart, together):
    share = (1 + labels) / 2
    return np.where(share == 1, 0, (1 - share) * apart) + np.where(share == 0, 0, share * together)


def vectors(rng, units):
    x1, x2 = rng.normal(size=(2, *units, 3))
    return x1, x2, rng.choice([-1.0, 1.0], units)


def cosine(x1, x2):
    """Of vectors of length 0, 0."""
    x1, x2 = (
        x / np.maximum(abs(x).max(-1, keepdims=True), np.longdouble("1e-4000")) for x in (x1, x2)
    )
    lengths = np.sqrt((x1**2).sum(-1) * (x2**2).sum(-1))
    return np.where(lengths == 0, 0, (x1 * x2).sum(-1) / np.where(lengths == 0, 1, lengths))


MULTI = {"loss": jaxloss.multi_margin_loss, "truth": weston, "scale": weston_scale, **CLASSES}
case(
    **MULTI,
    corners=(
        (([-5.0, -6.0, -7.0], 1), 2 / 3),
        (([-5.0, -6.0, -7.5], 1), 2 / 3, [1 / 3, -1 / 3, 0.0]),
        (([0.5, 0.0, -np.inf], 0), 0.25, [-0.5, 0.5, 0.0]),
        (([0.5, 0.0, -np.inf], 2), np.inf),
        (([np.inf, 0.0], 0), 0.0, [0.0, 0.0]),
        (([5.0], 0), 0.0, [0.0]),
        (([-np.inf, -np.inf], 0), np.nan),
        (([], 0), np.nan),
    ),
)
case(
    **MULTI,
    options={
        "p": 2,
        "margin": 0.5,
        "class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5], np.float32),
    },
)
case(
    loss=jaxloss.multilabel_margin_loss,
    inputs=several,
    truth=multilabel,
    scale=largest_score,
    domains=("real", "bit"),
    corners=(
        (([0.5, 0.0, -2.0, 1.5], [1.0, 0.0, 0.0, 1.0]), 0.125, [-0.25, 0.25, 0.0, 0.0]),
        (([0.5, 0.0, -np.inf], [1.0, 0.0, 0.0]), 0.25, [-0.5, 0.5, 0.0]),
        (([0.5, 0.0, -np.inf], [0.0, 0.0, 1.0]), np.inf),
        (([0.5, 0.0], [1.0, 1.0]), 0.0, [0.0, 0.0]),
        (([], []), np.nan),
    ),
)
SOFT = {"loss": jaxloss.multilabel_soft_margin_loss, "truth": soft_multilabel, "inputs": several}
case(
    **SOFT,
    options={"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5], np.float32)},
    domains=("real", "bit"),
)
case(
    loss=jaxloss.hinge_embedding_loss,
    inputs=distances,
    truth=lambda d, y, margin: blend(y, np.maximum(0, margin - d), d),
    scale=lambda d, y, margin: np.maximum(margin, abs(d)),
    options={"margin": 0.5},
    domains=("real", "sign"),
    corners=(
        ((np.inf, -1.0), 0.0, 0.0),
        ((np.inf, 1.0), np.inf, 1.0),
        ((-2.0, 1.0), -2.0, 1.0),
        ((0.25, -1.0), 0.25, -1.0),
    ),
)
case(
    loss=jaxloss.cosine_embedding_loss,
    inputs=vectors,
    truth=lambda a, b, y, margin: blend(y, np.maximum(0, cosine(a, b) - margin), 1 - cosine(a, b)),
    scale=lambda a, b, y, margin: np.ones_like(y),
    options={"margin": 0.25},
    domains=("real", "real", "sign"),
    corners=(
        (([0.0, 0.0], [1.0, 2.0], 1.0), 1.0, [0.0, 0.0]),
        (([3.0, 4.0], [1.0, 0.0], -1.0), 0.35),
        (([3.0, 4.0], [3.0, 4.0], 1.0), 0.0),
    ),
)
