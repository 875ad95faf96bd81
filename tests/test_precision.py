"""Few bits for the model, many for its parameters, and a scale that finds its height."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Mean, Precision

HALF = Precision(compute=jnp.float16, loss_scale="dynamic")


def scale_of(state):
    assert state.loss_scale is not None
    return state.loss_scale


def at_scale(state, **changes):
    """The state with another loss scale."""
    changes = {name: jnp.asarray(value) for name, value in changes.items()}
    return dataclasses.replace(state, loss_scale=dataclasses.replace(scale_of(state), **changes))


def scaled_steps(step, state, batches):
    scales = []
    for batch in batches:
        state, _ = step(state, batch)
        scales.append(float(scale_of(state).scale))
    return state, scales


def test_a_thousand_small_updates_of_bfloat16_parameters_arrive():
    def loss_fn(w, x):
        assert w.dtype == jnp.bfloat16
        return Mean.of(w * x)

    batch = jnp.ones((64, 4), jnp.bfloat16)
    for precision, end in ((Precision(), 3.0), (None, 4.0)):
        step = jaxloss.make_train_step(
            loss_fn, optax.sgd(1e-3), precision=precision, steps_per_call=1000
        )
        state = step.init(jnp.full((), 4.0, jnp.bfloat16))
        state, _ = step(state, jnp.broadcast_to(batch, (1000, *batch.shape)))
        assert state.params.dtype == (jnp.float32 if precision else jnp.bfloat16)
        np.testing.assert_allclose(state.params.astype(jnp.float32), end, rtol=1e-4)


def test_microbatches_are_added_in_float32():
    """In bfloat16, 256 + 1 is 256: of the loss, of its gradient and of a metric."""

    def loss_fn(w, x):
        loss = jaxloss.Sum(jnp.sum(w * x))
        assert loss.total.dtype == jnp.bfloat16
        return loss, jaxloss.Aux(metrics={"seen": Mean(jnp.sum(x), jnp.ones((), jnp.bfloat16))})

    x = jnp.concatenate([jnp.full(1, 256.0), jnp.full(63, 1.0)]).astype(jnp.bfloat16)
    step = jaxloss.make_train_step(loss_fn, optax.sgd(1.0), precision=Precision(), microbatches=64)
    state, metrics = step(step.init(jnp.array(1.0)), x)
    assert (state.params, metrics["loss"].value(), metrics["seen"].total) == (-318, 319, 319)


def test_what_is_frozen_or_no_number_keeps_its_dtype():
    def loss_fn(params, x):
        assert params["table"].dtype == jnp.float16 and params["index"].dtype == jnp.int32
        assert params["w"].dtype == jnp.bfloat16
        table = params["table"][params["index"]].astype(jnp.bfloat16)
        return Mean.of(params["w"] * table * x)

    params = {"w": jnp.ones(()), "table": jnp.ones(3, jnp.float16), "index": jnp.array(1)}
    step = jaxloss.make_train_step(
        loss_fn, optax.sgd(0.5), precision=Precision(), trainable=lambda path: path == "w"
    )
    state, _ = step(step.init(params), jnp.ones(4, jnp.bfloat16))
    assert jax.tree.map(lambda leaf: leaf.dtype.name, state.params) == {
        "w": "float32",
        "table": "float16",
        "index": "int32",
    }
    assert state.params["w"] == 0.5


def test_evaluation_computes_in_what_training_does():
    def loss_fn(params, x):
        assert params["table"].dtype == jnp.float32  # frozen
        return Mean.of(params["w"] * x.astype(params["w"].dtype))

    params = {"w": jnp.array(1 + 2.0**-10), "table": jnp.ones(3)}
    options = {"precision": Precision(), "trainable": {"w": True, "table": False}}
    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.0), **options, donate=False)
    state = step.init(params)
    _, metrics = step(state, jnp.ones(4))
    exact = jaxloss.make_eval_step(loss_fn)(state, jnp.ones(4))["loss"].value()
    found = jaxloss.make_eval_step(loss_fn, **options)(state, jnp.ones(4))["loss"].value()
    assert found == metrics["loss"].value() == 1.0 and exact == 1 + 2.0**-10


# ------------------------------------------------------------------------------- the loss scale


def small(w, x):
    """A slope of 2⁻²⁶, which is 0 in float16; of 2¹⁰ at an x of 2³⁶."""
    return Mean.of(w.astype(jnp.float32) * x * 2.0**-26)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("scale", "expected"), [(None, 0.0), (1024.0, 1.0), ("dynamic", 1.0)])
def test_a_scale_keeps_small_gradients(n, scale, expected):
    precision = Precision(compute=jnp.float16, loss_scale=scale)
    step = jaxloss.make_train_step(
        small, optax.sgd(2.0**26), precision=precision, microbatches=n, donate=False
    )
    state, metrics = step(step.init(jnp.array(3.0)), jnp.ones(4))
    assert state.params == 3 - expected
    assert metrics["grad_norm"].value() == expected * 2.0**-26  # unscaled, and so is the loss
    assert metrics["loss"].value() == 3 * 2.0**-26


def test_clipping_and_optimizers_that_evaluate_the_loss_see_it_without_the_scale():
    def loss_fn(w, x):
        return jaxloss.squared_error(w.astype(x.dtype) * x, x, reduction=jaxloss.stats)

    scales = (None, 512.0, "dynamic")
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.polyak_sgd(0.1))
    for tx in (clipped, optax.lbfgs()):
        ends = []
        for scale in scales:
            precision = Precision(compute=jnp.float32, loss_scale=scale)
            step = jaxloss.make_train_step(loss_fn, tx, precision=precision, microbatches=2)
            state = step.init(jnp.array(0.25))
            for _ in range(3):
                state, _ = step(state, jnp.ones(4))
            ends.append(float(state.params))
        assert ends[0] == ends[1] == ends[2] and ends[0] > 0.26


def test_an_overflow_changes_nothing_but_the_scale_and_the_counters():
    step = jaxloss.make_train_step(small, optax.sgd(1.0, momentum=0.9), precision=HALF, ema=0.5)
    state = step.init(jnp.array(1.0), model_state=jnp.array(7.0))
    state, _ = step(state, jnp.ones(4))
    kept = jax.tree.map(np.asarray, (state.params, state.opt_state, state.model_state, state.ema))
    state, metrics = step(state, jnp.full(4, 2.0**27))  # a slope of 2 times 2¹⁶
    after = (state.params, state.opt_state, state.model_state, state.ema)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(kept), strict=True):
        assert np.asarray(a).tobytes() == b.tobytes()
    assert (state.step, state.skipped, scale_of(state).scale) == (2, 1, 2.0**15)
    assert metrics["first_bad_leaf"] == 1 and metrics["loss_scale"].value() == 2.0**16
    state, _ = step(state, jnp.full(4, 2.0**26))
    assert state.skipped == 1 and state.params != kept[0]


def test_the_scale_grows_backs_off_and_never_loses_its_minimum():
    step = jaxloss.make_train_step(small, optax.sgd(0.0), precision=HALF)
    state = step.init(jnp.array(1.0))
    state = at_scale(state, steps=np.int32(1998))
    fine, over = jnp.ones(4), jnp.full(4, jnp.inf)
    state, scales = scaled_steps(step, state, [fine, fine, fine])
    assert scales == [2.0**16, 2.0**17, 2.0**17] and scale_of(state).steps == 1
    state, scales = scaled_steps(step, state, [over, fine])
    assert scales == [2.0**16, 2.0**16] and scale_of(state).steps == 1
    state, scales = scaled_steps(step, state, 20 * [over])
    assert scales == [2.0 ** max(15 - i, 0) for i in range(20)]
    assert state.skipped == 21 and state.params == 1


def test_the_scale_follows_the_rules_of_torch():
    """GradScaler's, by hand, over a random course that starts next to a growth."""
    overflows = np.random.default_rng(0).random(30) < 0.4
    overflows[:2] = False
    step = jaxloss.make_train_step(small, optax.sgd(0.0), precision=HALF)
    expected, scale, steps = [], 2.0**16, 1998
    for overflow in overflows:
        steps = 0 if overflow else steps + 1
        scale = scale / 2 if overflow else scale
        if steps == 2000:
            scale, steps = 2 * scale, 0
        expected.append(max(scale, 1.0))
    state = at_scale(step.init(jnp.array(1.0)), steps=np.int32(1998))
    batches = [jnp.full(4, jnp.inf if overflow else 1.0) for overflow in overflows]
    state, scales = scaled_steps(step, state, batches)
    assert scales == expected and scale_of(state).steps == steps


def test_fit_raises_only_when_the_scale_cannot_mend_it():
    step = jaxloss.make_train_step(
        small, optax.sgd(1.0), precision=HALF, nonfinite="raise", donate=False
    )
    state = step.init(jnp.array(1.0))
    batches = [jnp.full(4, 2.0**27), jnp.ones(4)]
    ended, history = jaxloss.fit(step, state, batches, epochs=1, progress=False)
    assert ended.skipped == 1 and np.isfinite(history["grad_norm"]).all()
    with pytest.raises(jaxloss.NonFiniteError, match="the loss is not finite"):
        jaxloss.fit(step, state, [jnp.full(4, jnp.nan)], epochs=1, progress=False)
    state = at_scale(state, scale=np.float32(1))
    with pytest.raises(jaxloss.NonFiniteError, match="gradient of params is not finite"):
        jaxloss.fit(step, state, [jnp.full(4, 2.0**43)], epochs=1, progress=False)


def test_another_scale_is_explained():
    scales: Any = ("fast", 0.0, -1.0, np.inf, np.nan)
    for scale in scales:
        with pytest.raises(ValueError, match="None, 'dynamic' or a positive number"):
            Precision(loss_scale=scale)
