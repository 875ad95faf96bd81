"""SciPy and scikit-learn as oracles: losses at 200 random points in float64.

A row says how the peer is called on our arguments. Optax, torch and Keras are compared where we
have their names, in `test_compat.py`.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

import jaxloss

ROWS = []


def peer(name, loss, call, inputs, **options):
    """`call(*arrays)` of the peer stands for `loss(*arrays, **options, reduction=None)`."""
    ROWS.append(pytest.param(name, loss, call, inputs, options, id=f"{name}-{loss}"))


def distributions(rng, features=4):
    return rng.dirichlet(np.ones(features), 200)


def log_probs_and_distributions(rng):
    return np.log(distributions(rng)), distributions(rng)


def positive(rng):
    return rng.uniform(0.5, 5, 200), rng.uniform(0.5, 5, 200)


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


@pytest.mark.parametrize(("name", "loss", "call", "inputs", "options"), ROWS)
def test_peer_agrees(name, loss, call, inputs, options, rng):
    ours = functools.partial(getattr(jaxloss, loss), **options, reduction=None)
    with jax.enable_x64(True):
        arrays = inputs(rng)
        np.testing.assert_allclose(ours(*arrays), call(*arrays), rtol=1e-12, atol=1e-12)
