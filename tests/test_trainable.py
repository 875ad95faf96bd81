"""A part of the parameters is trained, and averages of them are kept."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Mean


def parameters():
    rng = np.random.default_rng(0)
    body = {"w": rng.normal(size=(3, 4)), "b": np.zeros(4)}
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32),
        {"body": body, "head": rng.normal(size=(4, 2)), "scale": np.ones(())},
    )


def loss_fn(params, x):
    hidden = jnp.tanh(x @ params["body"]["w"] + params["body"]["b"][None])
    return Mean.of((params["scale"] * 1e3 * (hidden @ params["head"])) ** 2)


X = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
HEAD: list[Any] = [
    {"body": False, "head": True, "scale": False},
    {"body": {"w": False, "b": False}, "head": True, "scale": False},
    lambda path: path == "head",
    lambda path: not (path.startswith("body/") or path == "scale"),
]


@pytest.mark.parametrize("trainable", HEAD)
@pytest.mark.parametrize("n", [1, 4])
def test_only_the_trained_part_has_gradient_clipping_and_a_state(trainable, n):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5))
    step = jaxloss.make_train_step(
        loss_fn, tx, trainable=trainable, microbatches=n, nonfinite="skip"
    )
    params = parameters()
    state = step.init(params)
    head: Any = params["head"]
    opt_state = tx.init(head)
    assert len(jax.tree.leaves(state.opt_state)) == len(jax.tree.leaves(opt_state))
    for _ in range(3):
        state, metrics = step(state, X)
        grad = jax.grad(lambda head: loss_fn({**params, "head": head}, X).value())(head)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grad, opt_state, head)
            norm, head = optax.tree.norm(grad), optax.apply_updates(head, updates)
        np.testing.assert_allclose(metrics["grad_norm"].value(), norm, rtol=1e-5)
    np.testing.assert_allclose(state.params["head"], head, rtol=2e-6)
    for kept in ("body", "scale"):
        same = jax.tree.map(np.array_equal, state.params[kept], params[kept])
        assert jax.tree.all(same)
    assert step.leaf_names == ("loss", "params['head']")


def test_a_frozen_part_costs_no_derivative():
    def products(trainable):
        step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), trainable=trainable)
        state = step.init(parameters())
        return str(jax.make_jaxpr(step.raw)(state, X)).count("dot_general")

    assert products(lambda path: path != "head") == products(True) - 1
    assert products(HEAD[0]) == 3


def test_optimizers_that_evaluate_the_loss_move_the_trained_part():
    params = parameters()
    step = jaxloss.make_train_step(loss_fn, optax.lbfgs(), trainable=HEAD[0], microbatches=2)
    state = step.init(params)
    losses = []
    for _ in range(5):
        state, metrics = step(state, X)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < 0.1 * losses[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params["body"], params["body"]))


def test_frozen_leaves_may_be_integers_and_something_must_be_trained():
    def table_loss(params, x):
        return Mean.of((params["w"][params["index"]] - x) ** 2)

    params = {"w": jnp.zeros(3), "index": jnp.array([0, 2]), "none": None}
    step = jaxloss.make_train_step(table_loss, optax.sgd(0.5), trainable=lambda path: path == "w")
    state, _ = step(step.init(params), jnp.ones(2))
    assert state.params["w"].tolist() == [0.5, 0, 0.5] and state.params["none"] is None
    for nothing in (False, lambda path: path == "W"):
        step = jaxloss.make_train_step(table_loss, optax.sgd(0.5), trainable=nothing)
        with pytest.raises(ValueError, match="selects none of the parameters index, w"):
            step.init(params)


# -------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("trainable", [True, HEAD[0]])
def test_averages_are_those_of_a_plain_loop(trainable):
    step = jaxloss.make_train_step(loss_fn, optax.sgd(1e-8), ema=0.75, trainable=trainable)
    params = parameters()
    state, expected = step.init(params), params
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)
    for _ in range(4):
        state, _ = step(state, X)
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    average = state.eval_params
    assert jax.tree.structure(average) == jax.tree.structure(params)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), average, expected)
    assert not np.array_equal(average["head"], state.params["head"])
    leaves = len(jax.tree.leaves(params))
    assert len(jax.tree.leaves(state.ema)) == (leaves if trainable is True else 1)


def test_averages_of_bfloat16_parameters_are_kept_in_float32():
    step = jaxloss.make_train_step(lambda w, x: Mean.of(w * x), optax.sgd(1.0), ema=0.999)
    state = step.init(jnp.full((), 4.0, jnp.bfloat16))
    state, _ = step(state, jnp.ones(2, jnp.bfloat16))
    assert state.ema.dtype == jnp.float32 and state.eval_params.dtype == jnp.bfloat16
    np.testing.assert_allclose(state.ema, 3.999)


def test_evaluation_is_at_the_averages_or_where_one_says():
    def loss_fn(w, x):
        return Mean.of(w * x)

    step = jaxloss.make_train_step(loss_fn, optax.sgd(1.0), ema=0.5)
    state, _ = step(step.init(jnp.array(2.0)), jnp.ones(2))
    assert jaxloss.make_eval_step(loss_fn)(state, jnp.ones(2))["loss"].value() == 1.5
    evaluate = jaxloss.make_eval_step(loss_fn, eval_params=lambda state: state.params)
    assert evaluate(state, jnp.ones(2))["loss"].value() == 1.0
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match="ema must be at least 0 and less than 1"):
            jaxloss.make_train_step(loss_fn, optax.sgd(1.0), ema=wrong)
