"""Combinators: numbers in, a number out; statistics in, terms that keep their denominators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.core.statistics import value

LOG_VARIANCES = {"near": jnp.float32(0.3), "far": jnp.float32(-1.2)}


def kendall(losses, log_variances):
    return sum(np.exp(-s) * losses[k] / 2 + s / 2 for k, s in log_variances.items())


def test_weighted_sum_of_numbers(rng):
    a, b = rng.random(2)
    weights = {"b": 0.5, "a": np.float64(2)}
    total = jaxloss.weighted_sum_loss({"a": jnp.float32(a), "b": jnp.bfloat16(b)}, weights=weights)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, 2 * a + 0.5 * float(jnp.bfloat16(b)), rtol=1e-6)


def test_uncertainty_of_numbers(rng):
    losses = {"far": jnp.float32(rng.random()), "near": jnp.float32(rng.random())}
    loss, slopes = jax.jit(jax.value_and_grad(jaxloss.uncertainty_weighted_loss, argnums=(0, 1)))(
        losses, LOG_VARIANCES
    )
    np.testing.assert_allclose(loss, kendall(losses, LOG_VARIANCES), rtol=1e-6)
    for task, s in LOG_VARIANCES.items():
        np.testing.assert_allclose(slopes[0][task], np.exp(-s) / 2, rtol=1e-6)
        np.testing.assert_allclose(slopes[1][task], (1 - np.exp(-s) * losses[task]) / 2, rtol=1e-5)


def test_each_variance_settles_at_its_loss():
    losses = {"mm": jnp.float32(1e4), "m": jnp.float32(1e-2)}
    settled = {task: jnp.log(loss) for task, loss in losses.items()}
    slopes = jax.grad(jaxloss.uncertainty_weighted_loss, argnums=1)(losses, settled)
    np.testing.assert_allclose(list(slopes.values()), 0, atol=1e-6)


def tasks(parameters, part):
    """Two tasks of one model: one is seen in every row, the other in few; and a root of a mean."""
    x, y, seen = part
    predictions = parameters["slope"] * x
    few = jaxloss.absolute_error(predictions, y, where=seen, reduction=jaxloss.stats)
    every = jaxloss.root_mean_squared_error(predictions, y, reduction=jaxloss.stats)
    return {"near": few, "far": every}


@pytest.mark.parametrize("combined", ["weighted", "uncertain"])
def test_terms_of_parts_merge_to_those_of_the_whole(rng, combined):
    x, y = rng.normal(size=(2, 12)).astype(np.float32)
    seen = np.arange(12) % 5 == 0
    parameters = {"slope": jnp.float32(0.7), "s": LOG_VARIANCES}

    def terms(parameters, part):
        losses = tasks(parameters, part)
        if combined == "weighted":
            return jaxloss.weighted_sum_loss(losses, weights={"near": 2.0, "far": 0.25})
        return jaxloss.uncertainty_weighted_loss(losses, parameters["s"])

    def split(parameters, cuts):
        parts = zip(*(np.split(a, cuts) for a in (x, y, seen)), strict=True)
        return value(jaxloss.merge([terms(parameters, part) for part in parts]))

    def plainly(parameters):
        losses = {k: v.value() for k, v in tasks(parameters, (x, y, seen)).items()}
        if combined == "weighted":
            return 2 * losses["near"] + losses["far"] / 4
        return jaxloss.uncertainty_weighted_loss(losses, parameters["s"])

    want, want_slopes = jax.jit(jax.value_and_grad(plainly))(parameters)
    for cuts in ((), (1,), (3, 4, 9)):
        got, slopes = jax.jit(jax.value_and_grad(split), static_argnums=1)(parameters, cuts)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        for slope, want_slope in zip(*map(jax.tree.leaves, (slopes, want_slopes)), strict=True):
            np.testing.assert_allclose(slope, want_slope, rtol=1e-5)


def test_terms_keep_their_names_and_denominators():
    two, three, five, six = map(jnp.float32, (2, 3, 5, 6))
    losses = {"a": jaxloss.Mean(six, three), "b": jaxloss.Sum(five)}
    terms = jaxloss.weighted_sum_loss(losses, weights={"a": 0.5, "b": two})
    assert terms == {"a": jaxloss.Mean(three, three), "b": jaxloss.Sum(2 * five)}
    terms = jaxloss.uncertainty_weighted_loss(losses, {"a": 0.0, "b": 0.0})
    assert list(terms) == ["a", "b", "log_variances"]
    assert terms["a"] == jaxloss.Mean(three, three)


def test_mistakes_get_a_sentence():
    losses = {"a": jnp.float32(1), "b": jnp.float32(2)}
    with pytest.raises(ValueError, match=r"weights must have the names of losses.*\['a'\].*'b'"):
        jaxloss.weighted_sum_loss(losses, weights={"a": 1.0})
    with pytest.raises(ValueError, match="log_variances must have the names of losses"):
        jaxloss.uncertainty_weighted_loss(losses, {**LOG_VARIANCES})
    with pytest.raises(ValueError, match="at least one"):
        jaxloss.weighted_sum_loss({}, weights={})
    with pytest.raises(ValueError, match="name a task 'log_variances'"):
        jaxloss.uncertainty_weighted_loss({"log_variances": 1.0}, {"log_variances": 0.0})
    with pytest.raises(TypeError, match="losses must be floating"):
        jaxloss.weighted_sum_loss({"a": 1}, weights={"a": 1.0})
