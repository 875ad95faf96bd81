"""What is particular to core: statistics, reductions, `checked`, and the types that callers see."""

import dataclasses
from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array
from jax.sharding import AxisType, PartitionSpec

import jaxloss

X, Y = jnp.array([1.0, 4.0, 2.0]), jnp.array([0.0, 1.0, 2.0])


def root(mean):
    return jnp.sqrt(mean.value())


@dataclasses.dataclass(frozen=True)
class Power:
    exponent: float | Array

    def __call__(self, total):
        return total**self.exponent


def test_types_of_the_reductions():
    assert_type(jaxloss.squared_error(X, Y), Array)
    assert_type(jaxloss.squared_error(X, Y, reduction="sum"), Array)
    assert_type(jaxloss.squared_error(X, Y, reduction=None), Array)
    assert_type(jaxloss.squared_error(X, Y, reduction=jaxloss.stats), jaxloss.Statistic)
    assert_type(jaxloss.squared_error(X, Y, reduction=jaxloss.unit_stats), jaxloss.Mean)
    assert_type(jaxloss.root_mean_squared_error(X, Y), Array)


def test_a_reduction_of_ones_own_gets_values_where_and_weights():
    def largest(values, where, weights):
        assert weights is None
        return jnp.max(values, where=where, initial=0)

    where = jnp.array([True, False, True])
    assert jaxloss.squared_error(X, Y, where=where, reduction=largest) == 1


def test_signed_weights_divide_by_the_number_of_units():
    weights = jnp.array([1.0, -1.0, 1.0])
    assert jaxloss.squared_error(X, Y, weights=weights, reduction=jaxloss.unit_mean) == -8 / 3


MEAN_OF = jax.jit(jaxloss.Mean.of)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), max_size=5), min_size=1, max_size=6))
def test_mean_of_any_partition(parts):
    means = [MEAN_OF(np.array(part, np.float32)) for part in parts]
    flat = np.array([x for part in parts for x in part], np.float64)
    want = flat.mean() if flat.size else 0.0
    np.testing.assert_allclose(jaxloss.merge(means).value(), want, rtol=1e-6, atol=1e-4)


def test_means_of_counts_and_booleans_are_floats():
    right = jnp.array([True, False, True, False])
    assert jaxloss.Mean.of(right).value() == 0.5
    counts, weights = jnp.array([1, 0, 1]), jnp.array([0.5, 0.5, 2.0])
    np.testing.assert_allclose(jaxloss.Mean.of(counts, None, weights).value(), 2.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(jaxloss.unit_mean(counts, None, weights), 2.5 / 3, rtol=1e-6)
    assert jaxloss.Mean.of(jnp.ones(300, jnp.int8)).weight == 300
    assert jaxloss.Mean.of(jnp.ones(1001, jnp.bfloat16)).total == 1001
    assert (0.5 * jaxloss.Sum(jnp.array(3))).value() == 1.5


def test_statistics_scale_and_refuse_to_add():
    mean, total = jaxloss.Mean.of(X), jaxloss.Sum(jnp.array(2.0))
    deferred = jaxloss.Deferred(jaxloss.Mean.of(X**2), root)
    for statistic in (mean, total, deferred):
        for scaled in (
            3 * statistic,
            statistic * 3.0,
            np.float32(3) * statistic,
            jnp.array(3.0) * statistic,
        ):
            np.testing.assert_allclose(scaled.value(), 3 * statistic.value(), rtol=1e-6)
        merged = jaxloss.merge([3 * statistic, 3 * statistic]).value()
        np.testing.assert_allclose(merged, 3 * jaxloss.merge([statistic, statistic]).value())
        with pytest.raises(TypeError, match=r"merge.*dict"):
            _ = statistic + statistic
        with pytest.raises(TypeError, match=r"merge.*dict"):
            _ = 1.0 + statistic


def test_only_alike_statistics_merge():
    same = jaxloss.Deferred(jnp.ones(()), Power(2.0))
    assert same.merge(jaxloss.Deferred(jnp.ones(()), Power(2.0))).value() == 4
    with pytest.raises(ValueError, match="one loss with the same options"):
        same.merge(jaxloss.Deferred(jnp.ones(()), Power(3.0)))
    with pytest.raises(TypeError, match=r"exponent of Power must be a Python value.*Mean.constant"):
        jaxloss.Deferred(jnp.ones(()), Power(jnp.ones(())))
    with pytest.raises(TypeError, match="one statistic or more"):
        jaxloss.merge([])


def test_statistics_are_trees_that_cross_jit():
    deferred = jaxloss.Deferred(jaxloss.Concat((X, jnp.arange(3))), root)
    crossed = jax.jit(lambda statistic: statistic)(deferred)
    assert jax.tree.structure(crossed) == jax.tree.structure(deferred)


@pytest.mark.parametrize("mapped", ["vmap", "shard_map"])
def test_merge_over_a_mapped_axis(mapped):
    x, y = jnp.arange(16.0).reshape(8, 2), jnp.ones((8, 2))
    where = jnp.arange(16).reshape(8, 2) % 3 > 0

    def loss(x, y, where):
        mean = jaxloss.root_mean_squared_error(x, y, where=where, reduction=jaxloss.stats)
        pairs = x.reshape(-1, 2), y.reshape(-1, 2)
        rows = jaxloss.info_nce_loss(*pairs, reduction=jaxloss.stats)
        merged = jaxloss.merge({"mean": mean, "rows": rows}, axis_name="shards")
        return merged["mean"].value(), merged["rows"].value()

    if mapped == "vmap":
        over = jax.jit(jax.vmap(loss, axis_name="shards"))
        got = jax.tree.map(lambda a: a[0], over(x, y, where))
    else:
        mesh = jax.make_mesh((8,), ("shards",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("shards")
        over = jax.shard_map(
            loss, mesh=mesh, in_specs=(spec,) * 3, out_specs=PartitionSpec(), check_vma=False
        )
        got = jax.jit(over)(x, y, where)

    @jax.jit
    def whole(x, y, where):
        return jaxloss.root_mean_squared_error(x, y, where=where), jaxloss.info_nce_loss(x, y)

    np.testing.assert_allclose(got, whole(x, y, where), rtol=1e-6)


def test_checked_goes_outside():
    loss = jaxloss.softmax_cross_entropy_with_integer_labels
    logits, labels = jnp.array([[1.0, 2.0], [0.5, -3.0]]), jnp.array([0, 7])
    for inside in (jax.jit(jaxloss.checked(loss)), jax.grad(jaxloss.checked(loss))):
        with pytest.raises((RuntimeError, ValueError), match="check"):
            inside(logits, labels)
    with pytest.raises(RuntimeError, match="put it outside"):
        jax.vmap(jaxloss.checked(lambda x: x * loss(logits, labels)))(jnp.ones(2))
    with pytest.raises(Exception, match=r"labels\[1\] is 7: a class index is in \[0, 2\)"):
        jaxloss.checked(jax.jit(jax.value_and_grad(loss)))(logits, labels)
    assert "check" not in str(jax.make_jaxpr(loss)(logits, labels)), (
        "an unchecked trace pays nothing"
    )


def test_checked_warns_of_probabilities():
    loss = jaxloss.checked(jaxloss.softmax_cross_entropy_with_integer_labels)
    labels = jnp.array([0, 1])
    with pytest.warns(UserWarning, match="what goes into the softmax"):
        loss(jnp.array([[0.2, 0.8], [0.5, 0.5]]), labels)
    loss(jnp.array([[0.2, 0.8], [0.5, 0.9]]), labels)  # a warning would be an error
    loss(jnp.array([[0.2, 0.8], [3.0, 0.5]]), labels)


def test_probability_out_of_range_is_named():
    loss = jaxloss.checked(jaxloss.binary_cross_entropy)
    with pytest.raises(Exception, match=r"probabilities\[1\] is 1.5"):
        loss(jnp.array([0.5, 1.5]), jnp.array([0, 1]))
    with pytest.raises(Exception, match=r"labels\[0\] is 2.0"):
        loss(jnp.array([0.5, 0.5]), jnp.array([2, 1]))


@pytest.mark.parametrize("loss", [jaxloss.root_mean_squared_error, jaxloss.batch_dice_loss])
def test_a_negative_weight_of_a_formula_of_sums_is_named(loss):
    x = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    weights = jnp.array([1.0, -2.0])
    with pytest.raises(Exception, match=r"weights\[1\] is -2.0"):
        jaxloss.checked(loss)(x, jnp.eye(2), weights=weights)


def test_integers_that_jax_would_wrap_around():
    """They are 64 bits wide in NumPy, and 32 in JAX."""
    large = np.array([2**32, 2**32 + 1])
    with pytest.raises(ValueError, match=r"labels of int64 must fit int32, got up to 4294967297"):
        jaxloss.softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 2)), large)
    with pytest.raises(ValueError, match="number them anew"):
        jaxloss.positive_pairs(large)
    assert jaxloss.squared_error(jnp.array([1.0, 2.0]), jnp.zeros(2), weights=2**8 * large) == 2.5


def test_options_are_checked_where_they_are_known():
    with pytest.raises(ValueError, match="delta must be positive, got -1"):
        jaxloss.huber_loss(X, Y, delta=-1.0)
    loss, logits = jaxloss.softmax_cross_entropy_with_integer_labels, jnp.zeros((1, 2))
    with pytest.raises(ValueError, match=r"class_weights must be 0 or more, got -1.0"):
        loss(logits, jnp.zeros(1, int), class_weights=-1.0)
    with pytest.raises(Exception, match=r"predictions\[1\] is -2.0: it must be -1 or more"):
        jaxloss.checked(jaxloss.squared_logarithmic_error)(jnp.array([-1.0, -2.0]), jnp.zeros(2))
    with pytest.raises(Exception, match=r"delta is -1\.0: it must be positive"):
        jaxloss.checked(jaxloss.huber_loss)(X, Y, delta=jnp.array(-1.0))
    jaxloss.huber_loss(X, Y, delta=jnp.array(-1.0))  # an array is not looked at
