"""Keras on the JAX backend: rows for `jaxloss.compat.keras`, and where Keras is wrong."""

import os
import unittest.mock
import warnings

import jax
import numpy as np

import jaxloss.compat.keras
from compat import UNITS, Peer, of_jax

os.environ["KERAS_BACKEND"] = "jax"


def oracle(function, row, by):
    """The peer, which otherwise rounds to float32 in the middle of float64."""
    import keras.src.backend.common.dtypes as dtypes

    call = of_jax(function, row, by)

    def promoting(*arrays):
        with (
            unittest.mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64="float64"),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            warnings.catch_warnings(action="ignore"),
        ):
            return call(*arrays)

    return promoting


PEER = Peer(
    name="keras",
    losses="keras.losses",
    others=frozenset({"deserialize", "get", "serialize"}),
    ours=jaxloss.compat.keras,
    oracle=oracle,
)
row, entry, refuse = PEER.row, PEER.entry, PEER.refuse


def reals(rng, size):
    """The first unit agrees with its target."""
    y_true, y_pred = size * rng.normal(size=(2, UNITS, 4))
    y_true[0] = y_pred[0]
    return y_true, y_pred


def column(rng, size):
    """A last axis of length 1 is missing from the truth."""
    return size[:, 0] * rng.normal(size=UNITS), size * rng.normal(size=(UNITS, 1))


def positive(rng, size):
    return tuple(rng.uniform(0.1, 5, (2, UNITS, 4)))


def any_sign(rng, size):
    """Some are at 0 or below."""
    y_true, y_pred = positive(rng, size)
    return y_true * rng.choice([0.0, 1.0], (UNITS, 4)), y_pred - 1


def logits(rng, size):
    return 3 * np.minimum(size, 2) * rng.normal(size=(UNITS, 4))


def bits(rng, size):
    return rng.choice([0.0, 1.0, 0.25], (UNITS, 4)), logits(rng, size)


def probabilities(rng, size):
    return rng.choice([0.0, 1.0, 0.25], (UNITS, 4)), rng.uniform(0.01, 0.99, (UNITS, 4))


def signs(rng, size):
    return rng.choice([-1.0, 1.0], (UNITS, 4)), size * rng.normal(size=(UNITS, 4))


def zeros_and_ones(rng, size):
    return rng.choice([0.0, 1.0], (UNITS, 4)), size * rng.normal(size=(UNITS, 4))


def distributions(rng):
    return rng.dirichlet(np.ones(4), UNITS)


def soft(rng, size):
    return distributions(rng), logits(rng, size)


def two_distributions(rng, size):
    return distributions(rng), distributions(rng)


def shares(rng, size):
    """Rows that do not sum to 1."""
    return distributions(rng), rng.uniform(0.1, 2, (UNITS, 4))


def one_hot(rng, size):
    return np.eye(4)[rng.integers(4, size=UNITS)], size * rng.normal(size=(UNITS, 4))


def classes(rng, size):
    return rng.integers(4, size=UNITS), logits(rng, size)


def classes_in_a_column(rng, size):
    return rng.integers(4, size=(UNITS, 1)), logits(rng, size)


def classes_of_shares(rng, size):
    return rng.integers(4, size=UNITS), rng.uniform(0.1, 2, (UNITS, 4))


def classes_of_distributions(rng, size):
    return rng.integers(4, size=UNITS), distributions(rng)


def counts(rng, size):
    return rng.poisson(2.0, (UNITS, 4)).astype(float), rng.uniform(0.0, 3, (UNITS, 4))


def masks(rng, size):
    return rng.choice([0.0, 1.0], (UNITS, 6)), rng.uniform(0.0, 1.0, (UNITS, 6))


def spoken(rng, size):
    """Labels of different lengths; 0 is padding."""
    labels = rng.integers(1, 5, (UNITS, 3)) * (np.arange(3) < np.resize([3, 2, 1], (UNITS, 1)))
    return labels, rng.normal(size=(UNITS, 7, 5))


for name in ("mean_squared_error", "huber", "log_cosh"):
    row(name, reals)
row("mean_absolute_error", positive)
row("mean_squared_error", column)
row("huber", reals, delta=0.25)
for name in ("mean_absolute_percentage_error", "mean_squared_logarithmic_error"):
    row(name, positive)
    row(name, any_sign)
row("cosine_similarity", reals, scale=1.0)
row("cosine_similarity", reals, scale=1.0, axis=0)
for name in ("hinge", "squared_hinge"):
    row(name, signs, by=(1,))
    row(name, zeros_and_ones, by=(1,))
row("categorical_hinge", one_hot, by=(1,))
row("poisson", counts)
row("kl_divergence", two_distributions)
row("binary_crossentropy", bits, from_logits=True, label_smoothing=0.25)
row("binary_crossentropy", probabilities)
row("binary_crossentropy", probabilities, label_smoothing=0.25, axis=0)
row("binary_focal_crossentropy", bits, from_logits=True, gamma=1.5, label_smoothing=0.25)
row("binary_focal_crossentropy", probabilities)
row("binary_focal_crossentropy", probabilities, apply_class_balancing=True, alpha=0.75, axis=0)
row("categorical_crossentropy", soft, from_logits=True, label_smoothing=0.25)
row("categorical_crossentropy", shares)
row("categorical_crossentropy", shares, label_smoothing=0.25)
row("categorical_crossentropy", soft, from_logits=True, axis=0)
row("categorical_focal_crossentropy", soft, from_logits=True, gamma=1.5, label_smoothing=0.25)
row("categorical_focal_crossentropy", shares)
row("categorical_focal_crossentropy", shares, alpha=0.75, axis=0)
row("sparse_categorical_crossentropy", classes, from_logits=True, ignore_class=2)
row("sparse_categorical_crossentropy", classes_in_a_column, from_logits=True)
row("sparse_categorical_crossentropy", classes_of_shares)
row("sparse_categorical_crossentropy", classes_of_shares, ignore_class=2)
row("categorical_generalized_cross_entropy", classes_of_distributions, q=0.75)
row("categorical_generalized_cross_entropy", classes_of_distributions, q=0.25)
row("dice", masks)
row("dice", masks, axis=1)
row("tversky", masks)
row("tversky", masks, alpha=0.25, beta=0.75, axis=(1,))
row("ctc", spoken)
