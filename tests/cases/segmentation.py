import numpy as np

import jaxloss
from cases import case

PIXELS, CLASSES = (2, 2), 3


def masks(rng, units):
    """Pixels from unsure to confident, right and wrong, of hard and of soft masks."""
    logits = 10 ** rng.uniform(-1, 1, units) * rng.normal(size=units)
    return logits, rng.choice([0, 0, 1, 1, 0.25], units)


def classes(rng, units):
    logits = 10 ** rng.uniform(-1, 1, (*units, 1)) * rng.normal(size=(*units, CLASSES))
    hard, soft = np.eye(CLASSES)[rng.integers(0, CLASSES, units)], rng.random((*units, CLASSES))
    soft = soft / soft.sum(-1, keepdims=True)
    return logits, np.where(rng.random((*units, 1)) < 0.5, hard, soft)


def images_of(pixels):
    return lambda rng, units: pixels(rng, (*units, *PIXELS))


def one_logit(logits):
    """p and 1 - p of each class, neither by subtraction."""
    return 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits))


def several_logits(logits):
    if logits.shape[-1] == 1:
        return one_logit(logits)
    k = range(logits.shape[-1])
    odds = [sum(np.exp(logits[..., j] - logits[..., i]) for j in k if j != i) for i in k]
    odds = np.stack(odds, -1)
    return 1 / (1 + odds), np.where(odds == np.inf, 1, odds / (1 + odds))


def dice(p, other, y, smooth, alpha, beta, pixels):
    """Of each class, from the two sides of every pixel."""
    hit, false, missed = (s.sum(pixels) for s in (p * y, p * (1 - y), other * y))
    wrong, whole = alpha * false + beta * missed, hit + smooth
    return np.where(wrong + whole == 0, 0, wrong / (wrong + whole))


def multiclass(pixels):
    def truth(x, y, smooth=1.0, alpha=0.5, beta=0.5, class_weights=1.0):
        axes = tuple(range(x.ndim - 1))[pixels]
        losses = dice(*several_logits(x), y, smooth, alpha, beta, axes)
        return (class_weights * losses).sum(-1) / x.shape[-1]

    return truth


def two_classes(pixels):
    def truth(x, y, smooth=1.0, alpha=0.5, beta=0.5):
        axes = tuple(range(x.ndim))[pixels]
        return dice(*one_logit(x), y, smooth, alpha, beta, axes)

    return truth


def generalized(pixels):
    def truth(x, y, power=2.0):
        axes = tuple(range(x.ndim - 1))[pixels]
        p, other = several_logits(x)
        size = y.sum(axes)
        rarest = np.where(size > 0, size, np.inf).min(-1, keepdims=True)
        c = np.where(size > 0, size, rarest) ** -power
        c = np.where(np.isinf(rarest), 1, c)  # where nothing is labelled, all classes are alike
        hit, wrong = ((c * s.sum(axes)).sum(-1) for s in (p * y, p * (1 - y) + other * y))
        return np.where(wrong == 0, 0, wrong / (wrong + 2 * hit))

    return truth


OPTIONS = (
    {},
    {"smooth": 0.0},
    {"alpha": 0.3, "beta": 0.7},
    {"class_weights": np.array([0.5, 1.0, 2.5], np.float32)},
)
OF_IMAGE, OF_BATCH = slice(1, None), slice(None)

for options in OPTIONS:
    perfect = [[[30.0, 0.0]], [[0.0, 30.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]]
    case(
        loss=jaxloss.dice_loss,
        inputs=images_of(classes),
        truth=multiclass(OF_IMAGE),
        options=options,
        domains=("real", "probability"),
        parts=PIXELS,
        corners=()
        if options
        else (
            (([[0.0, -np.inf], [0.0, -np.inf]], [[1.0, 0.0], [1.0, 0.0]]), 0.0, np.zeros((2, 2))),
            (([[0.0, -np.inf]], [[0.0, 1.0]]), 1 / 3, [[0.0, 0.0]]),
            (([[0.0]], [[1.0]]), 1 / 7, [[-0.25 / 1.75**2]]),
            (perfect, np.exp(-30.0) / 2),
        ),
    )
    case(
        loss=jaxloss.batch_dice_loss,
        inputs=classes,
        truth=multiclass(OF_BATCH),
        options=options,
        domains=("real", "probability"),
        kind="deferred",
    )
for options in OPTIONS[:3]:
    case(
        loss=jaxloss.binary_dice_loss,
        inputs=images_of(masks),
        truth=two_classes(OF_IMAGE),
        options=options,
        domains=("real", "probability"),
        parts=PIXELS,
    )
    case(
        loss=jaxloss.batch_binary_dice_loss,
        inputs=masks,
        truth=two_classes(OF_BATCH),
        options=options,
        domains=("real", "probability"),
        kind="deferred",
    )

tversky = {
    "alpha": 0.3,
    "beta": 0.7,
    "smooth": 0.5,
    "class_weights": np.array([0.5, 1.0, 2.5], np.float32),
}
nowhere = [[[0.0, 0.0]], [[0.0, 0.0]]], [[[1.0, 0.0]], [[1.0, 0.0]]]
for loss, truth, options in (
    (jaxloss.tversky_loss, multiclass, tversky),
    (jaxloss.generalized_dice_loss, generalized, {}),
    (jaxloss.generalized_dice_loss, generalized, {"power": 1.0}),
):
    case(
        loss=loss,
        inputs=images_of(classes),
        truth=truth(OF_IMAGE),
        options=options,
        domains=("real", "probability"),
        parts=PIXELS,
        # a class that is absent weighs as much as the rarest: (1 + 1) / (1 + 1 + 2·1)
        corners=() if options else ((nowhere, 0.5),),
    )
for loss, truth, options in (
    (jaxloss.batch_tversky_loss, multiclass, tversky),
    (jaxloss.batch_generalized_dice_loss, generalized, {"power": 1.5}),
):
    case(
        loss=loss,
        inputs=classes,
        truth=truth(OF_BATCH),
        options=options,
        domains=("real", "probability"),
        kind="deferred",
    )
