"""What a step compiles to: its memory, and how often."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss
from jaxloss import Aux


def loss_fn(params, batch, *, model_state):
    p = jnp.tanh(batch["x"] @ params["w"]) @ params["w"].T
    error = jaxloss.squared_error(p, batch["x"], reduction=jaxloss.stats)
    return error, Aux(model_state + 1)


def make(rows=8, **options):
    step = jaxloss.make_train_step(loss_fn, optax.adam(1e-3), **options)
    params = {"w": jnp.ones((64, 16)), "none": None}
    state = step.init(params, model_state=jnp.zeros(()), rng=jax.random.key(0))
    return step, state, {"x": np.ones((rows, 64), np.float32)}


def test_memory_is_reported_and_the_state_is_reused():
    step, state, batch = make(ema=0.9, nonfinite="skip")
    report = step.memory_report(state, batch)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert report.state == report.aliased == size > 4 * 4 * 64 * 16
    wide = step.memory_report(state, {"x": np.ones((1024, 64), np.float32)})
    assert wide.temporaries > report.temporaries + 1024 * 64 and wide.state == size
    assert not state.params["w"].is_deleted()
    step, state, batch = make(donate=False)
    assert step.memory_report(state, batch).aliased == 0


def test_what_skips_holds_the_gradient_and_the_new_moments():
    """In units of the parameters; more is a copy that nobody needs."""
    params = {f"{i}": jnp.ones((64, 64)) for i in range(8)}
    x = np.ones((16, 64), np.float32)

    def deep(params, x):
        p = functools.reduce(lambda h, w: jnp.tanh(h @ w), params.values(), x)
        return jaxloss.squared_error(p, x, reduction=jaxloss.stats)

    def temporaries(tx, nonfinite):
        step = jaxloss.make_train_step(deep, tx, nonfinite=nonfinite)
        return step.memory_report(step.init(params), x).temporaries / (8 * 64 * 64 * 4)

    for tx, most in ((optax.sgd(0.1), 1.0), (optax.adam(0.1), 2.5)):
        assert temporaries(tx, "skip") <= temporaries(tx, "apply") + most


def test_memory_is_that_of_one_device():
    step, state, batch = make(rows=16)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    spread = jax.tree.map(
        lambda leaf: jax.device_put(leaf, rows if leaf.ndim == 2 else everywhere), state
    )
    report = step.memory_report(spread, jax.device_put(batch, rows))
    assert report.state == report.aliased == size - 3 * 3 * 64 * 16


def test_memory_that_is_not_reused_is_an_error_that_names_it():
    step, state, batch = make()
    state = dataclasses.replace(state, model_state=np.float16(0) + jnp.zeros((), jnp.float16))

    def wider(params, batch, *, model_state):
        loss, _ = loss_fn(params, batch, model_state=model_state)
        return loss, Aux(jnp.broadcast_to(model_state, 3))

    step = jaxloss.make_train_step(wider, optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"the memory of state\.model_state is not reused"):
        step.memory_report(state, batch)


CHANGES: Any = [
    (lambda s, b: (s, {"x": b["x"][:7]}), "batch['x'] was float32[8, 64] and is float32[7, 64]"),
    (lambda s, b: (s, {"x": b["x"].astype(np.float16)}), "and is float16[8, 64]"),
    (lambda s, b: (s, {**b, "y": 1}), "batch['y'] was not there and is int32[] (weakly typed)"),
    (
        lambda s, b: (dataclasses.replace(s, model_state=0.0), b),
        "state.model_state was float32[] and is float32[] (weakly typed)",
    ),
    (lambda s, b: (dataclasses.replace(s, rng=None), b), "and is gone"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_made_a_step_compile_again_is_named(change, words):
    step, state, batch = make(max_traces=1)
    for _ in range(3):
        state, _ = step(state, batch)
    step.memory_report(state, batch)
    assert step.traces == 1
    with pytest.raises(RuntimeError, match=f"max_traces=1: .*{re.escape(words)}"):
        step(*change(state, batch))


def test_a_setting_of_jax_that_compiles_again_is_told_apart():
    step, state, batch = make(max_traces=1)
    state, _ = step(state, batch)
    with jax.default_matmul_precision("highest"):
        with pytest.raises(RuntimeError, match="no leaf changed"):
            step(state, batch)


def test_by_default_a_step_compiles_as_often_as_it_must():
    step, state, batch = make()
    for rows in (8, 4, 8, 4):
        state, _ = step(state, {"x": batch["x"][:rows]})
    assert step.traces == 2


def test_a_hyper_parameter_changes_without_compiling_again():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    step = jaxloss.make_train_step(lambda w, x: jnp.sum(w * x), tx, max_traces=1)
    state, ends = step.init(jnp.zeros(())), []
    for rate in (0.5, 0.25, 0.0):
        opt_state: Any = state.opt_state
        changed = {**opt_state.hyperparams, "learning_rate": jnp.asarray(rate, jnp.float32)}
        state = dataclasses.replace(state, opt_state=opt_state._replace(hyperparams=changed))
        state, _ = step(state, jnp.ones(()))
        ends.append(float(state.params))
    assert ends == [-0.5, -0.75, -0.75]
