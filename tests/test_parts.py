"""What is particular to parts: distributions over classes, and how much a class counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.core.over_classes import uniform


def test_smoothed_rows_sum_to_one_with_absent_classes(rng):
    present = rng.random((50, 7)) < 0.6
    present[:, 3] = True
    labels = np.where(present, rng.dirichlet(np.ones(7), size=50), 0).astype(np.float32)
    labels /= labels.sum(-1, keepdims=True)
    smooth = jaxloss.smooth_labels(np.where(present, labels, np.nan), 0.3, where=present)
    np.testing.assert_allclose(np.sum(smooth, -1), 1, rtol=1e-6)
    assert not np.asarray(smooth)[~present].any()
    want = 0.7 * labels + 0.3 * present / present.sum(-1, keepdims=True)
    np.testing.assert_allclose(smooth, want, rtol=1e-6)


def test_a_row_without_classes_holds_nothing():
    rows = jaxloss.smooth_labels(jnp.ones((2, 3)), 0.5, where=jnp.array([True, False]))
    np.testing.assert_array_equal(rows[1], 0)
    np.testing.assert_allclose(rows[0], 0.5 + 0.5 / 3, rtol=1e-6)


def test_smoothing_by_labels_is_smoothing_by_the_option(rng):
    logits = rng.normal(size=(20, 5)).astype(np.float32)
    logits[:, 2] = -np.inf
    labels = rng.choice([0, 1, 3, 4], 20)
    soft = jaxloss.smooth_labels(np.eye(5, dtype=np.float32)[labels], 0.1, where=logits > -np.inf)
    want = jaxloss.softmax_cross_entropy(logits, soft)
    index = jaxloss.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(index(logits, labels, label_smoothing=0.1), want, rtol=1e-6)


def test_the_share_that_is_smoothed_is_checked_and_has_a_gradient():
    labels = jnp.array([[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 1.5"):
        jaxloss.smooth_labels(labels, 1.5)
    with pytest.raises(TypeError, match="labels must be floating, got int32"):
        jaxloss.smooth_labels(jnp.array([[1, 0]]), 0.5)
    slope = jax.jacobian(lambda alpha: jaxloss.smooth_labels(labels, alpha))(0.25)
    np.testing.assert_allclose(slope, [[-0.5, 0.5]])


def test_present_classes_share_alike():
    present = jnp.array([[True, True, False], [False, True, False], [False, False, False]])
    shares = uniform(present, jnp.zeros(3))
    np.testing.assert_array_equal(shares, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]])


def test_class_balanced_weights_are_one_over_the_effective_number():
    counts, beta = np.array([5000, 900, 30, 1]), 0.999
    share = (1 - np.longdouble(beta)) / (1 - np.longdouble(beta) ** counts)
    got = jaxloss.class_balanced_weights(counts, beta=beta)
    np.testing.assert_allclose(got, 4 * share / share.sum(), rtol=1e-6)
    np.testing.assert_array_equal(jaxloss.class_balanced_weights(counts, beta=0.0), 1)


def test_class_balanced_weights_at_their_edges():
    near = jaxloss.class_balanced_weights(np.array([10, 30]), beta=1 - 1e-12)
    np.testing.assert_allclose(near, [1.5, 0.5], rtol=1e-6)
    missing = jaxloss.class_balanced_weights(np.array([10, 0, 10]), beta=0.9)
    np.testing.assert_allclose(missing, [1, 0, 1], rtol=1e-6)
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1.0"):
        jaxloss.class_balanced_weights(np.array([1, 2]), beta=1.0)
