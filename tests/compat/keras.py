"""Keras on the JAX backend: rows for `jaxloss.compat.keras`, and where Keras is wrong."""

import os
import unittest.mock
import warnings

import jax
import numpy as np
from mpmath import mp

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
    title="Keras",
    losses="keras.losses",
    is_loss=lambda name, function: name not in {"deserialize", "get", "serialize"},
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
    return np.resize(np.arange(4), UNITS), rng.uniform(0.1, 2, (UNITS, 4))


def classes_of_distributions(rng, size):
    return rng.integers(4, size=UNITS), distributions(rng)


def square(rng, size):
    """As many classes, on the first axis, as units."""
    return rng.integers(UNITS, size=UNITS), rng.normal(size=(UNITS, UNITS))


def counts(rng, size):
    return rng.poisson(2.0, (UNITS, 4)).astype(float), rng.uniform(0.0, 3, (UNITS, 4))


def masks(rng, size):
    return rng.choice([0.0, 1.0], (UNITS, 6)), rng.uniform(0.0, 1.0, (UNITS, 6))


def spoken(rng, size):
    """Labels of different lengths; 0 is padding."""
    labels = rng.integers(1, 5, (UNITS, 3)) * (np.arange(3) < np.resize([3, 2, 1], (UNITS, 1)))
    return labels, rng.normal(size=(UNITS, 7, 5))


def unit_vectors(rng, size):
    vectors = rng.normal(size=(UNITS, 3))
    return rng.integers(3, size=UNITS), vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


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
row("sparse_categorical_crossentropy", square, from_logits=True, axis=0)
row("categorical_generalized_cross_entropy", classes_of_distributions, q=0.75)
row("categorical_generalized_cross_entropy", classes_of_distributions, q=0.25)
row("dice", masks)
row("dice", masks, axis=1)
row("tversky", masks)
row("tversky", masks, alpha=0.25, beta=0.75, axis=(1,))
row("ctc", spoken)
row("circle", unit_vectors, by=())
row("circle", unit_vectors, by=(), gamma=8.0, margin=0.25)


def a(*values):
    return np.array(values[0] if len(values) == 1 else values, float)


for name in ("mean_absolute_error", "mean_absolute_percentage_error"):
    entry(
        name,
        "prediction equal to truth, slope",
        args=(a([1]), a([1])),
        slope=1,
        theirs="-1" if name == "mean_absolute_error" else "-100",
        truth=lambda: 0,
        reason="the absolute value has the slope 1 at 0 in JAX",
    )
entry(
    "cosine_similarity",
    "a vector of zeros, slope",
    args=(a([1, 2]), a([0, 0])),
    slope=1,
    theirs="nan",
    truth=lambda: -1e7 / mp.sqrt(5),
    reason="0 · inf in the slope of a square root",
)
entry(
    "binary_crossentropy",
    "a logit of ±inf",
    inside=lambda y, x, from_logits=False, **o: from_logits & np.isinf(x).any(-1),
    args=(a([1]), a([np.inf])),
    options={"from_logits": True},
    theirs="nan",
    truth=lambda: 0,
    reason="0 · inf; certain and right",
)
entry(
    "categorical_crossentropy",
    "a logit of -inf, label 0",
    inside=lambda y, x, **o: np.any(np.isneginf(x) & (y == 0), axis=-1),
    args=(a([1, 0, 0]), a([1, 0, -np.inf])),
    options={"from_logits": True},
    theirs="nan",
    truth=lambda: mp.log1p(mp.exp(-1)),
    reason="0 · inf; the class is absent",
)
entry(
    "categorical_crossentropy",
    "label_smoothing and an axis but the last",
    args=(a([[1, 1, 1], [0, 0, 0]]), a([[1, 1, 1], [0, 0, 0]])),
    options={"from_logits": True, "label_smoothing": 0.5, "axis": 0},
    theirs="0.42772",
    truth=lambda: mp.log1p(mp.exp(-1)) + mp.mpf(1) / 4,
    reason="it divides by the length of the last axis",
)
entry(
    "sparse_categorical_crossentropy",
    "a label out of range",
    inside=lambda y, x, **o: np.any((y < 0) | (y >= x.shape[-1])),
    args=(np.array([3]), a([[0.25, 0.25, 0.5]])),
    theirs="-0",
    truth=lambda: mp.nan,
    reason="it is no class; there it costs nothing",
)
entry(
    "categorical_generalized_cross_entropy",
    "a label out of range",
    inside=lambda y, x, **o: np.any((y < 0) | (y >= x.shape[-1])),
    args=(np.array([3]), a([[0.25, 0.25, 0.5]])),
    options={"q": 0.5},
    theirs="2",
    truth=lambda: mp.nan,
    reason="it is no class; there it has probability 0",
)
entry(
    "binary_focal_crossentropy",
    "from_logits, a logit beyond ±16",
    inside=lambda y, x, from_logits=False, **o: from_logits & (np.abs(x) > 16).any(-1),
    args=(a([1]), a([-40])),
    options={"from_logits": True},
    theirs="16.118",
    truth=lambda: mp.log1p(mp.exp(40)) / (1 + mp.exp(-40)) ** 2,
    reason="the probability is cut off at 1e-7, the slope at 0",
)
entry(
    "categorical_focal_crossentropy",
    "from_logits, a logit 16 below the largest",
    inside=lambda y, x, from_logits=False, **o: from_logits & (np.ptp(x, axis=-1) > 16),
    args=(a([0, 1]), a([40, 0])),
    options={"from_logits": True},
    theirs="4.0295",
    truth=lambda: mp.log1p(mp.exp(40)) / (1 + mp.exp(-40)) ** 2 / 4,
    reason="the probability is cut off at 1e-7, the slope at 0",
)
entry(
    "categorical_hinge",
    "a truth that is not one-hot",
    inside=lambda y, x: ~np.all(np.sort(y, axis=-1) == np.eye(y.shape[-1])[-1], axis=-1),
    args=(a([0.25, 0.75]), a([2, 1])),
    theirs="1.25",
    truth=lambda: 2,
    reason="the label is one class, the largest",
)


def circle(x=0.6):
    """Of the first anchor (x, 0.8): cosines of (0.8, 0.6) and (1, 0), whose weights stay."""
    length, gamma, m = mp.hypot(x, 0.8), 80, mp.mpf("0.4")
    p, n = (x * 0.8 + 0.8 * 0.6) / length, x / length
    pull, push = -gamma * (1 + m - 0.96) * (p - (1 - m)), gamma * (m + 0.6) * (n - m)
    return mp.log1p(mp.exp(pull + push))


def of_the_first(function, *args, **options):
    return function(*args, **options)[0]


entry(
    "circle",
    "vectors that are not of length 1",
    inside=lambda y, x, **o: np.any(np.abs((x**2).sum(-1) - 1) > 1e-5),
    args=(np.array([0, 0, 1]), a([[3, 4], [4, 3], [5, 0]])),
    theirs="54.4",
    truth=circle,
    reason="cosines are of directions; there it is products",
)
entry(
    "circle",
    "slope",
    args=(np.array([0, 0, 1]), a([[0.6, 0.8], [0.8, 0.6], [1, 0]])),
    slope=1,
    theirs="87.733",
    truth=lambda: mp.diff(circle, 0.6),
    reason="weights of pairs and lengths are no variables of the paper",
    through=of_the_first,
)
entry(
    "ctc",
    "more labels than steps",
    inside=lambda y, x: (y != 0).sum(-1) > x.shape[1],
    args=(np.array([[1, 2]]), np.zeros((1, 1, 3))),
    theirs="99999",
    truth=lambda: mp.inf,
    reason="no path spells the labels; -1e5 stands for log 0",
)
vectors = (np.array([0, 0, 1]), np.eye(3))
references = "`ref_labels`, `ref_embeddings` or `remove_diagonal=False`"
for option in (
    {"ref_labels": vectors[0]},
    {"ref_embeddings": vectors[1]},
    {"remove_diagonal": False},
):
    refuse("circle", references, *vectors, **option, says="compares the rows of y_pred")
