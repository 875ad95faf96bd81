"""What is particular to heads that belong to their loss."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.fused import Plan

OPTIONS = {
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "class_weights": jnp.array([1.0, 0.5, 2.0, 0.25, 1.5]),
}


def operands(rng, dtype=np.float32):
    hidden, head = rng.normal(size=(2, 4, 3)), rng.normal(size=(3, 5))
    return hidden.astype(dtype), head.astype(dtype), rng.integers(5, size=(2, 4))


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_it_is_the_cross_entropy_of_the_logits(reduction, rng):
    """Cap first, temperature then; in value and in the gradients of hidden, head and bias."""
    *arrays, labels = operands(rng)
    bias, where = rng.normal(size=5).astype(np.float32), rng.random((2, 4)) < 0.7

    def fused(hidden, head, bias):
        loss = functools.partial(
            jaxloss.linear_softmax_cross_entropy, logit_softcap=3.0, temperature=0.5
        )
        return loss(hidden, head, labels, bias=bias, where=where, reduction=reduction, **OPTIONS)

    def dense(hidden, head, bias):
        logits = 3 * jnp.tanh((hidden @ head + bias[None, None]) / 3) / 0.5
        loss = jaxloss.softmax_cross_entropy_with_integer_labels
        return loss(logits, labels, where=where, reduction=reduction, **OPTIONS)

    def everything(f):
        return jax.jit(lambda *given: (f(*given), jax.jacrev(f, (0, 1, 2))(*given)))(*arrays, bias)

    for got, want in zip(*(jax.tree.leaves(everything(f)) for f in (fused, dense)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def product(hidden, head, labels):
    jaxpr = jax.make_jaxpr(jaxloss.linear_softmax_cross_entropy)(hidden, head, labels)
    (equation,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    dtypes = {v.aval.dtype.name for v in equation.invars}
    return dtypes, equation.outvars[0].aval.dtype.name, equation.params["precision"]


def test_operands_keep_their_dtype_and_sum_in_float32(rng):
    hidden, head, labels = operands(rng)
    half = jnp.bfloat16
    assert product(hidden, head, labels) == ({"float32"}, "float32", None)
    assert product(hidden.astype(half), head.astype(half), labels)[:2] == ({"bfloat16"}, "float32")
    assert product(hidden.astype(half), head, labels)[:2] == ({"float32"}, "float32")
    with jax.default_matmul_precision("highest"):
        precision = product(hidden, head, labels)[2]
    assert set(precision) == {jax.lax.Precision.HIGHEST}


def test_a_class_with_a_bias_of_minus_infinity_is_absent(rng):
    """As the rows are that a vocabulary is padded with."""
    hidden, head, labels = operands(rng)
    labels = labels % 4
    bias = jnp.array([0.5, -1.0, 0.0, 2.0, -jnp.inf])

    def loss(head, bias):
        f = functools.partial(jaxloss.linear_softmax_cross_entropy, label_smoothing=0.1)
        return f(hidden, head, labels, bias=bias, temperature=2.0, logit_softcap=5.0)

    got, grads = jax.value_and_grad(loss, (0, 1))(head, bias)
    want, wanted = jax.value_and_grad(loss, (0, 1))(head[:, :4], bias[:4])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for grad, each in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(grad[..., :4], each, rtol=1e-5, atol=1e-7)
        assert not np.asarray(grad[..., 4]).any()


@pytest.mark.parametrize("bias", [[-np.inf, 0, 0], [0, -np.inf, -np.inf], [0, 0, -np.inf]])
@pytest.mark.parametrize("schedule", ["tokens", "classes", "tiles"])
def test_the_entropy_where_the_label_or_all_others_are_absent(schedule, bias):
    hidden, head, labels = jnp.ones((1, 1)), jnp.array([[0.0, 0.3, 1.0]]), jnp.array([0])

    def entropy(head, schedule):
        f = functools.partial(jaxloss.linear_token_log_probs, entropy=True, schedule=schedule)
        return jnp.sum(f(hidden, head, labels, bias=jnp.array(bias))[1])

    got, want = (jax.value_and_grad(entropy)(head, each) for each in (schedule, "plain"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), got, want)


@pytest.mark.parametrize("schedule", ["plain", "tokens", "classes", "tiles"])
def test_no_features_are_equal_scores(schedule):
    hidden, head, labels = jnp.zeros((2, 0)), jnp.zeros((0, 4)), jnp.array([0, 1])
    loss = jaxloss.linear_softmax_cross_entropy(hidden, head, labels, schedule=schedule)
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)


@pytest.mark.parametrize("plan", [Plan("classes", 8, 4), Plan("tiles", 3, 4), Plan("tiles", 8, 3)])
def test_one_weight_for_all_classes_where_blocks_overlap(plan, rng):
    given = operands(rng)

    def loss(c, plan):
        f = functools.partial(jaxloss.linear_softmax_cross_entropy, *given, schedule=plan)
        return f(class_weights=c, label_smoothing=0.1, reduction="sum")

    got, want = (jax.grad(loss)(jnp.float32(2), each) for each in (plan, "plain"))
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_a_cap_at_infinity_is_none(rng):
    hidden, head, labels = operands(rng)
    f = jaxloss.linear_softmax_cross_entropy
    assert f(hidden, head, labels, logit_softcap=np.inf) == f(hidden, head, labels)
    f, logits = jaxloss.softmax_cross_entropy_with_integer_labels, hidden @ head
    assert f(logits, labels, logit_softcap=np.inf) == f(logits, labels)


@pytest.mark.parametrize("name", ["temperature", "logit_softcap"])
def test_an_option_of_zero_is_refused_and_not_taken_for_none(name, rng):
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        jaxloss.linear_softmax_cross_entropy(*operands(rng), **options)


@pytest.mark.parametrize("schedule", ["plain", "tokens", "classes"])
def test_a_negative_weight_is_named_as_it_was_given(schedule, rng):
    """One for each example, whose labels are the units; of a deleted one it does not matter."""
    hidden, head, labels = operands(rng)
    weights, bits = jnp.array([1.0, -1.0]), jnp.zeros((2, 4, 5), bool)
    binary = functools.partial(jaxloss.linear_binary_cross_entropy, hidden, head, bits)
    token = functools.partial(jaxloss.linear_softmax_cross_entropy, hidden, head, labels)
    for loss in (token, binary) if schedule != "classes" else (token,):
        f = functools.partial(loss, weights=weights, schedule=schedule)
        check = jaxloss.checked(jax.jit(lambda where, f=f: f(where=where)))
        with pytest.raises(Exception, match=r"weights\[1\] is -1\.0: a weight of a mean is 0 or"):
            check(jnp.array([True, True]))
        assert np.isfinite(check(jnp.array([True, False])))
