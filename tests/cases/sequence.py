import itertools

import numpy as np

import jaxloss
from cases import case

CLASSES = 3


def huge():
    """Beyond it is what stands for infinity."""
    return np.longdouble("1e1000")


def spelled(path, blank):
    """The labels of a path: equal neighbours merge, then blanks go."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def log_sum(terms, axis):
    top = np.maximum(terms.max(axis, keepdims=True), -huge())
    return np.log(np.exp(terms - top).sum(axis)) + np.squeeze(top, axis)


def log_p(x):
    """log softmax, exact where one class takes nearly everything."""
    others = [[j for j in range(x.shape[-1]) if j != k] for k in range(x.shape[-1])]
    odds = [log_sum(x[..., o] - x[..., [k]], -1) for k, o in enumerate(others)]
    return -np.stack([np.maximum(o, 0) + np.log1p(np.exp(-np.abs(o))) for o in odds], -1)


def costs(x, labels, present, blank):
    """-log p of every path, and which of them spell the labels, both `[units, paths]`."""
    *units, steps, classes = x.shape
    paths = np.array(list(itertools.product(range(classes), repeat=steps))).reshape(-1, steps)
    cost = -log_p(x)[..., np.arange(steps), paths].sum(-1).reshape(-1, len(paths))
    texts = [spelled(path, blank) for path in paths.tolist()]
    rows = zip(
        labels.reshape(-1, labels.shape[-1]), present.reshape(cost.shape[0], -1), strict=True
    )
    targets = [tuple(row[kept].tolist()) for row, kept in rows]
    return cost, np.array([[text == target for text in texts] for target in targets]), units


def truth(x, labels, present=None, blank_id=0, zero_infinity=False):
    present = labels >= 0 if present is None else present
    cost, spells, units = costs(x, labels, present, blank_id)
    right = -log_sum(np.where(spells, -cost, -np.inf), -1)
    wrong = np.exp(log_sum(np.where(spells, -np.inf, -cost), -1))
    loss = np.where(right < 0.5, -np.log1p(-wrong), right)
    return np.where(zero_infinity & (loss > huge()), 0, loss).reshape(units)


def dearest(x, labels, present=None, blank_id=0, zero_infinity=False):
    """What the likeliest path costs: the others are added to it, so the loss is less."""
    present = labels >= 0 if present is None else present
    cost, spells, units = costs(x, labels, present, blank_id)
    likeliest = np.where(spells, cost, np.inf).min(-1)
    return np.where(np.isfinite(likeliest), likeliest, 0).reshape(units)


def speech(steps, length, blank):
    """Steps from unsure to confident, right and wrong; the labels are any but the blank."""

    def inputs(rng, units):
        scale = 10 ** rng.uniform(-1, 1, (*units, steps, 1))
        labels = rng.integers(0, CLASSES - 1, (*units, length))
        return scale * rng.normal(size=(*units, steps, CLASSES)), labels + (labels >= blank)

    return inputs


def padded(rng, units):
    logits, labels = speech(steps=3, length=3, blank=1)(rng, units)
    present = rng.random(labels.shape) < 0.6
    present[..., 0] = True
    return logits, labels, present


case(
    loss=jaxloss.ctc_loss,
    inputs=speech(steps=2, length=1, blank=0),
    truth=truth,
    scale=dearest,
    slope_floor=2**-6,
    domains=("real", "none"),
    parts=(2,),
    whole=(1,),
)
case(
    loss=jaxloss.ctc_loss,
    inputs=padded,
    truth=truth,
    scale=dearest,
    slope_floor=2**-6,
    options={"blank_id": 1, "zero_infinity": True},
    data=("label_where",),
    domains=("real", "none", "none"),
    parts=(3,),
    whole=(1, 2),
)
