"""Peers as oracles: each loss that a peer has, at 200 random points, value and gradient in float64.

A row says how the peer is called on our arguments. Optax, SciPy and scikit-learn come with the
`test` extra, torch and Keras with `peers`; a peer that is not installed has no tests here, and the
count of rows per peer is printed by `test_every_peer_is_counted`. Where a peer is known to be wrong
the row keeps to the region where it is right and says so.
"""

import functools
import importlib.util
import inspect
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import sklearn.metrics
from harness import CASES, arrays_of, is_float

import jaxloss

LOSSES = {case.loss.__name__ for case in CASES}
os.environ["KERAS_BACKEND"] = "jax"
ROWS = []


def peer(name, loss, call, inputs=None, **options):
    """`call(*arrays)` of the peer stands for `loss(*arrays, **options, reduction=None)`."""
    ROWS.append(pytest.param(name, loss, call, inputs, options, id=f"{name}-{loss}-{len(ROWS)}"))


def calm(loss):
    """The row's own inputs, where a peer's formula does not cancel or overflow."""

    def inputs(rng):
        arrays = arrays_of(
            next(c for c in CASES if c.loss.__name__ == loss), rng, (200,), np.float64
        )
        return tuple(np.clip(a, -30, 30) if is_float(a) else a for a in arrays)

    return inputs


def distributions(rng, features=4):
    return rng.dirichlet(np.ones(features), 200)


def logits_and_distributions(rng):
    return 3 * rng.normal(size=(200, 4)), distributions(rng)


def logits_and_labels(rng):
    return 3 * rng.normal(size=(200, 4)), rng.integers(0, 4, 200)


def log_probs_and_distributions(rng):
    return np.log(distributions(rng)), distributions(rng)


def scores_and_signs(rng):
    return 2 * rng.normal(size=200), rng.choice([-1.0, 1.0], 200)


def bits(rng):
    return 4 * rng.normal(size=200), rng.integers(0, 2, 200).astype(float)


def probabilities_and_bits(rng):
    return rng.uniform(0.01, 0.99, 200), rng.integers(0, 2, 200).astype(float)


def images(rng):
    return 2 * rng.normal(size=(200, 4, 3)), np.eye(3)[rng.integers(0, 3, (200, 4))]


def masks(rng):
    return 2 * rng.normal(size=(200, 6)), rng.integers(0, 2, (200, 6)).astype(float)


def positive(rng):
    return rng.uniform(0.5, 5, 200), rng.uniform(0.5, 5, 200)


def moments(rng):
    return rng.normal(size=200), rng.uniform(0.1, 3, 200), rng.normal(size=200)


def counts(rng):
    return rng.normal(size=200), rng.poisson(3.0, 200).astype(float)


C = np.array([0.5, 1.0, 2.0, 1.5])
ox = optax.losses
for name in ("squared_error", "l2_loss", "log_cosh", "cosine_distance", "cosine_similarity"):
    peer("optax", name, getattr(ox, name))
for delta in (1.0, 0.3):
    peer("optax", "huber_loss", functools.partial(ox.huber_loss, delta=delta), delta=delta)
peer("optax", "sigmoid_binary_cross_entropy", ox.sigmoid_binary_cross_entropy, bits)
peer("optax", "softmax_cross_entropy", ox.softmax_cross_entropy, logits_and_distributions)
peer(
    "optax",
    "softmax_cross_entropy",
    lambda x, y: ox.softmax_cross_entropy(x, ox.smooth_labels(y, 0.2)),
    logits_and_distributions,
    label_smoothing=0.2,
)
integer = "softmax_cross_entropy_with_integer_labels"
peer("optax", integer, getattr(ox, integer), logits_and_labels)
peer("optax", "poly_loss_cross_entropy", ox.poly_loss_cross_entropy, logits_and_distributions)
peer(
    "optax",
    "poly_loss_cross_entropy",
    functools.partial(ox.poly_loss_cross_entropy, epsilon=-0.5),
    logits_and_distributions,
    epsilon=-0.5,
)
for alpha, gamma in ((None, 2.0), (0.25, 1.5)):
    focal = functools.partial(ox.sigmoid_focal_loss, alpha=alpha, gamma=gamma)
    peer("optax", "sigmoid_focal_loss", focal, bits, alpha=alpha, gamma=gamma)
for name in ("hinge_loss", "perceptron_loss"):
    peer("optax", name, getattr(ox, name), scores_and_signs)
for name in ("multiclass_hinge_loss", "multiclass_perceptron_loss"):
    peer("optax", name, getattr(ox, name), logits_and_labels)
for name in ("kl_divergence", "generalized_kl_divergence"):
    peer("optax", name, getattr(ox, name), log_probs_and_distributions)
peer(
    "optax",
    "kl_divergence_with_log_targets",
    ox.kl_divergence_with_log_targets,
    lambda rng: (np.log(distributions(rng)), np.log(distributions(rng))),
)
dice = functools.partial(ox.dice_loss, reduction="none")
peer("optax", "dice_loss", lambda x, y: jnp.mean(dice(x, y), axis=-1), images)
peer("optax", "binary_dice_loss", ox.binary_dice_loss, masks)

peer(
    "sklearn",
    "quantile_loss",
    lambda p, t: np.array(
        [sklearn.metrics.mean_pinball_loss([b], [a], alpha=0.8) for a, b in zip(p, t, strict=True)]
    ),
    positive,
    quantile=0.8,
)
peer(
    "sklearn",
    "squared_logarithmic_error",
    lambda p, t: np.array(
        [sklearn.metrics.mean_squared_log_error([b], [a]) for a, b in zip(p, t, strict=True)]
    ),
    positive,
)
peer("scipy", "huber_loss", lambda p, t: scipy.special.huber(0.7, p - t), positive, delta=0.7)
peer(
    "scipy",
    "kl_divergence",
    lambda x, q: scipy.special.rel_entr(q, np.exp(x)).sum(-1),
    log_probs_and_distributions,
)
peer(
    "scipy",
    "js_divergence",
    lambda x, y: (
        (
            scipy.special.rel_entr(np.exp(y), (np.exp(x) + np.exp(y)) / 2)
            + scipy.special.rel_entr(np.exp(x), (np.exp(x) + np.exp(y)) / 2)
        ).sum(-1)
        / 2
    ),
    lambda rng: (np.log(distributions(rng)), np.log(distributions(rng))),
)

if importlib.util.find_spec("torch"):
    import torch
    import torch.nn.functional as F

    def tensors(call):
        """A call on tensors as one on arrays."""
        return lambda *arrays: call(*(torch.tensor(a) for a in arrays)).numpy()

    def torch_peer(loss, function, inputs=None, *, theirs=None, swap=False, **options):
        given = {**(theirs or {}), "reduction": "none"}

        def call(*arrays):
            arrays = (arrays[0], arrays[2], arrays[1]) if swap else arrays
            return function(*arrays, **given)

        peer("torch", loss, tensors(call), inputs, **options)

    for name, function in {
        "squared_error": F.mse_loss,
        "absolute_error": F.l1_loss,
        "huber_loss": F.huber_loss,
        "smooth_l1_loss": F.smooth_l1_loss,
    }.items():
        torch_peer(name, function)
    torch_peer("huber_loss", F.huber_loss, theirs={"delta": 0.3}, delta=0.3)
    torch_peer("smooth_l1_loss", F.smooth_l1_loss, theirs={"beta": 0.25}, beta=0.25)
    torch_peer("sigmoid_binary_cross_entropy", F.binary_cross_entropy_with_logits, bits)
    torch_peer(
        "sigmoid_binary_cross_entropy",
        F.binary_cross_entropy_with_logits,
        bits,
        theirs={"pos_weight": torch.tensor(3.0)},
        pos_weight=3.0,
    )
    torch_peer("binary_cross_entropy", F.binary_cross_entropy, probabilities_and_bits)
    for smoothing in (0.0, 0.1):
        given: dict[str, Any] = {"label_smoothing": smoothing}
        torch_peer(integer, F.cross_entropy, logits_and_labels, theirs=given, **given)
        torch_peer(
            "softmax_cross_entropy",
            F.cross_entropy,
            logits_and_distributions,
            theirs=given,
            **given,
        )
        weighted = {**given, "weight": torch.tensor(C)}
        torch_peer(
            integer, F.cross_entropy, logits_and_labels, theirs=weighted, class_weights=C, **given
        )
    torch_peer(
        "nll_loss",
        F.nll_loss,
        lambda rng: (np.log(distributions(rng)), rng.integers(0, 4, 200)),
        theirs={"weight": torch.tensor(C)},
        class_weights=C,
    )
    torch_peer("soft_margin_loss", F.soft_margin_loss, scores_and_signs)
    for full in (False, True):
        torch_peer(
            "gaussian_nll_loss",
            F.gaussian_nll_loss,
            moments,
            theirs={"full": full},
            swap=True,
            full=full,
        )
    for log_input in (True, False):
        given = {"log_input": log_input}
        # torch adds eps=1e-8 to a rate: at rates of 0.5 or more that is below the tolerance
        theirs = {**given, "eps": 0.0}
        inputs = counts if log_input else lambda rng: (positive(rng)[0], counts(rng)[1])
        torch_peer("poisson_nll_loss", F.poisson_nll_loss, inputs, theirs=theirs, **given)
    peer(
        "torch",
        "kl_divergence",
        tensors(lambda x, q: F.kl_div(x, q, reduction="none").sum(-1)),
        log_probs_and_distributions,
    )
    peer(
        "torch",
        "cosine_similarity",
        tensors(lambda a, b: F.cosine_similarity(a, b, dim=-1)),
    )

if importlib.util.find_spec("keras"):
    import keras

    keras.config.set_floatx("float64")
    kl = keras.losses

    def keras_peer(
        loss, function, inputs=None, *, last_axis=False, scale=1.0, theirs=None, **options
    ):
        """Keras takes the truth first and means over the last axis: elements get their own."""

        def call(first, second):
            given = (first, second) if last_axis else (first[:, None], second[:, None])
            return scale * np.asarray(function(given[1], given[0], **(theirs or {})))

        peer("keras", loss, call, inputs, **options)

    keras_peer("squared_error", kl.mean_squared_error)
    keras_peer("absolute_error", kl.mean_absolute_error)
    keras_peer("huber_loss", kl.huber, theirs={"delta": 0.5}, delta=0.5)
    keras_peer("log_cosh", kl.log_cosh, positive)
    keras_peer("squared_logarithmic_error", kl.mean_squared_logarithmic_error, positive)
    keras_peer("absolute_percentage_error", kl.mean_absolute_percentage_error, positive, scale=0.01)
    keras_peer(
        "cosine_similarity",
        kl.cosine_similarity,
        calm("cosine_similarity"),
        last_axis=True,
        scale=-1.0,
    )
    keras_peer("hinge_loss", kl.hinge, scores_and_signs)
    keras_peer("squared_hinge_loss", kl.squared_hinge, scores_and_signs)
    keras_peer(
        "sigmoid_binary_cross_entropy", kl.binary_crossentropy, bits, theirs={"from_logits": True}
    )
    keras_peer("binary_cross_entropy", kl.binary_crossentropy, probabilities_and_bits)
    keras_peer(
        "sigmoid_binary_cross_entropy",
        kl.binary_crossentropy,
        bits,
        theirs={"from_logits": True, "label_smoothing": 0.2},
        label_smoothing=0.2,
    )
    logits = {"from_logits": True}
    keras_peer(
        "softmax_cross_entropy",
        kl.categorical_crossentropy,
        logits_and_distributions,
        last_axis=True,
        theirs=logits,
    )
    keras_peer(
        integer,
        kl.sparse_categorical_crossentropy,
        logits_and_labels,
        last_axis=True,
        theirs=logits,
    )
    keras_peer(
        "categorical_cross_entropy",
        kl.categorical_crossentropy,
        lambda rng: (distributions(rng), distributions(rng)),
        last_axis=True,
    )
    keras_peer(
        "kl_divergence",
        lambda y, x: kl.kl_divergence(y, np.exp(x)),
        log_probs_and_distributions,
        last_axis=True,
    )
    keras_peer(
        "poisson_nll_loss",
        lambda y, x: kl.poisson(y, np.exp(x)),
        counts,
    )
    keras_peer(
        "sigmoid_focal_loss",
        kl.binary_focal_crossentropy,
        lambda rng: tuple(np.clip(a, -12, 12) for a in bits(rng)),  # it clips probabilities at 1e-7
        theirs={"from_logits": True, "gamma": 1.5},
        gamma=1.5,
    )


@pytest.mark.parametrize(("name", "loss", "call", "inputs", "options"), ROWS)
def test_peer_agrees(name, loss, call, inputs, options, rng):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        arrays = (inputs or calm(loss))(rng)
        assert len(arrays[0]) >= 200
        ours = functools.partial(getattr(jaxloss, loss), **options, reduction=None)
        # keras adds 1e-7 to logarithms and norms; poly_loss clips; nobody else adds anything
        tolerance = 1e-5 if name == "keras" else 1e-9
        np.testing.assert_allclose(ours(*arrays), call(*arrays), rtol=tolerance, atol=tolerance)
        if name == "optax":
            got, want = (jax.grad(lambda *a, f=f: jnp.sum(f(*a)))(*arrays) for f in (ours, call))
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_every_peer_is_counted(capsys):
    names = [row.values[0] for row in ROWS]
    counted = {name: names.count(name) for name in sorted(set(names))}
    with capsys.disabled():
        print("\npeer rows:", counted)
    assert {"optax", "scipy", "sklearn"} <= set(counted)
    assert os.environ.get("CI") is None or {"torch", "keras"} <= set(counted)


def test_every_optax_loss_that_we_have_is_compared():
    public = {n for n, f in inspect.getmembers(ox, inspect.isfunction)} & set(LOSSES)
    assert public <= {row.values[1] for row in ROWS if row.values[0] == "optax"}
