"""Optax: rows for `jaxloss.compat.optax`, and where Optax is wrong."""

import warnings

import jax
import numpy as np

import jaxloss.compat.optax
from compat import UNITS, Peer, of_jax


def oracle(function, row, by):
    call = of_jax(function, row, by)

    def promoting(*arrays):
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            warnings.catch_warnings(action="ignore"),
        ):
            return call(*arrays)

    return promoting


PEER = Peer(name="optax", losses="optax.losses", ours=jaxloss.compat.optax, oracle=oracle)
row, entry, refuse = PEER.row, PEER.entry, PEER.refuse


PRESENT = np.array([1, 1, 0, 1, 1], bool)
SOME = np.arange(UNITS * 5).reshape(UNITS, 5) % 4 != 1
UNITS_KEPT = np.arange(UNITS) != 2


def reals(rng, size):
    """The first unit agrees with its target."""
    predictions, targets = size * rng.normal(size=(2, UNITS, 5))
    targets[0] = predictions[0]
    return predictions, targets


def errors(rng, size):
    return reals(rng, size)[:1]


def column(rng, size):
    """Targets that are broadcast."""
    return size * rng.normal(size=(UNITS, 5)), size * rng.normal(size=(UNITS, 1))


def logits(rng, size):
    return 3 * size * rng.normal(size=(UNITS, 5))


def bits(rng, size):
    return logits(rng, size), rng.choice([0.0, 1.0, 0.25], (UNITS, 5))


def shares(rng, size):
    return logits(rng, size), rng.uniform(0.1, 0.9, (UNITS, 5))


def signs(rng, size):
    scores = size * rng.normal(size=(UNITS, 5))
    return scores, rng.choice([-1.0, 1.0], (UNITS, 5))


def distributions(rng):
    return rng.dirichlet(np.ones(5), UNITS)


def soft(rng, size):
    """Half the rows are one-hot."""
    hot = np.eye(5)[rng.integers(5, size=UNITS)]
    return logits(rng, size), np.where(np.arange(UNITS)[:, None] % 2, distributions(rng), hot)


def classes(rng, size):
    return logits(rng, size), rng.integers(5, size=UNITS)


def first_class(rng, size):
    """The classes are the first axis."""
    return logits(rng, size), rng.integers(UNITS, size=5)


def one_class(rng, size):
    """The classes are all axes."""
    return logits(rng, size), np.array(7)


def present_classes(rng, size):
    return logits(rng, size), np.argmax(SOME, axis=-1)


def log_and_probabilities(rng, size):
    return np.log(distributions(rng)), distributions(rng)


def two_logs(rng, size):
    return np.log(distributions(rng)), np.log(distributions(rng))


def images(rng, size):
    return 2 * rng.normal(size=(UNITS, 4, 3)), np.eye(3)[rng.integers(0, 3, (UNITS, 4))]


def masks(rng, size):
    return 2 * rng.normal(size=(UNITS, 6)), rng.choice([0.0, 1.0], (UNITS, 6))


def masks_of_one_class(rng, size):
    return tuple(array[..., None] for array in masks(rng, size))


def labels_and_share(rng, size):
    return distributions(rng), np.array(0.25)


for name in ("squared_error", "l2_loss", "huber_loss", "log_cosh"):
    row(name, reals)
    row(name, errors)
for name in ("huber_loss", "log_cosh", "sigmoid_binary_cross_entropy", "hinge_loss"):
    row(name, column)
row("huber_loss", reals, delta=0.25)
for name in ("cosine_distance", "cosine_similarity"):
    for options in (
        {},
        {"axis": 0},
        {"axis": (1, 0), "where": SOME},
        {"axis": None, "where": PRESENT},
        {"epsilon": 4.0},
    ):
        row(name, reals, scale=1.0, **options)
row("sigmoid_binary_cross_entropy", bits)
row("sigmoid_focal_loss", bits, by=(0,))
row("sigmoid_focal_loss", shares, alpha=0.25, gamma=1.5)
row("hinge_loss", signs)
row("perceptron_loss", signs)
row("multiclass_hinge_loss", classes)
row("multiclass_perceptron_loss", classes)
for name in ("softmax_cross_entropy", "poly_loss_cross_entropy"):
    row(name, soft)
    row(name, soft, axis=0)
    row(name, soft, axis=(1, 0), where=SOME, by=(0,))
    row(name, soft, axis=None)
    row(name, soft, where=SOME, by=(0,))
row("softmax_cross_entropy", soft, where=UNITS_KEPT, by=(0,))
row("poly_loss_cross_entropy", soft, epsilon=-0.5)
row("safe_softmax_cross_entropy", soft)
integer = "softmax_cross_entropy_with_integer_labels"
row(integer, classes)
row(integer, first_class, axis=0)
row(integer, one_class, axis=(1, 0))
row(integer, present_classes, where=SOME)
row(integer, classes, where=UNITS_KEPT)
for name in ("kl_divergence", "generalized_kl_divergence", "convex_kl_divergence"):
    for options in ({}, {"axis": 0}, {"axis": None, "where": PRESENT}, {"where": SOME}):
        row(name, log_and_probabilities, **options)
for options in ({}, {"axis": 0}, {"axis": None, "where": PRESENT}, {"where": SOME}):
    row("kl_divergence_with_log_targets", two_logs, **options)
C = np.array([0.5, 1.0, 2.0])
row("dice_loss", images)
row("dice_loss", images, class_weights=C, smooth=0.5, alpha=0.25, beta=0.75)
row("dice_loss", images, reduction="sum", ignore_background=True)
row("dice_loss", images, reduction="none", class_weights=C, axis=0)
row("dice_loss", images, axis=(0, 1))
row("dice_loss", masks)
row("multiclass_generalized_dice_loss", images, by=(0,))
row("multiclass_generalized_dice_loss", images, smooth=0.25, ignore_background=True)
row("binary_dice_loss", masks)
row("binary_dice_loss", masks, smooth=0.25)
row("binary_dice_loss", masks_of_one_class)
for axis in (-1, 0, None):
    row("smooth_labels", labels_and_share, axis=axis)
