"""A step that is not finite: what is kept, what is counted, what is said."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Aux, Mean

NAN_LOSS, NAN_GRADIENT, FINE = 0, 1, 2


def loss_fn(params, batch, *, model_state):
    """Its value, or only its gradient by `deep`, is NaN where a batch says so."""
    kind, x = batch
    p = jnp.tanh(x @ params["a"]) @ params["deep"]
    lost = jnp.where(kind == NAN_GRADIENT, 0.0, 1.0)
    p = p + 0 * jnp.sqrt(lost * jnp.sum(params["deep"] ** 2))  # the slope of √ at 0 is infinite
    loss = Mean.of(p**2) * jnp.where(kind == NAN_LOSS, jnp.nan, 1.0)
    return loss, Aux({"mean": 0.9 * model_state["mean"] + jnp.mean(x)}, {"seen": Mean.of(x)})


def make(**options):
    options = {"nonfinite": "skip", "ema": 0.9, **options}
    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1, momentum=0.9), **options)
    params = {"a": jnp.ones((2, 3)), "deep": jnp.ones((3, 1))}
    return step, step.init(params, model_state={"mean": jnp.zeros(())}, rng=jax.random.key(0))


def batch(kind, rows=4):
    x = np.linspace(-1, 1, 2 * rows, dtype=np.float32).reshape(rows, 2) + 0.1
    return np.int32(kind), x


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def changing(state):
    return bits((state.params, state.opt_state, state.model_state, state.ema))


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
@pytest.mark.parametrize(("kind", "leaf"), [(NAN_LOSS, "loss"), (NAN_GRADIENT, "params['deep']")])
def test_a_bad_step_changes_nothing_and_is_counted_and_named(nonfinite, kind, leaf):
    step, state = make(nonfinite=nonfinite)
    state, metrics = step(state, batch(FINE))
    assert metrics["first_bad_leaf"].dtype == jnp.int32 and metrics["first_bad_leaf"] == -1
    before = changing(state)
    for count in range(1, 5):  # it never gives up
        state, metrics = step(state, batch(kind))
        assert changing(state) == before
        assert (state.step, state.skipped) == (1 + count, count)
        assert step.leaf_names[metrics["first_bad_leaf"]] == leaf
    state, metrics = step(state, batch(FINE))
    assert metrics["first_bad_leaf"] == -1 and state.skipped == 4
    assert all(a != b for a, b in zip(changing(state), before, strict=True))
    assert step.leaf_names == ("loss", "params['a']", "params['deep']")


def test_good_steps_are_those_of_a_step_that_applies():
    (guarded, state), (plain, other) = make(), make(nonfinite="apply")
    for _ in range(5):
        state, _ = guarded(state, batch(FINE))
        state, _ = guarded(state, batch(NAN_LOSS))
        other, _ = plain(other, batch(FINE))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    other, metrics = plain(other, batch(NAN_LOSS))
    assert other.skipped is None and "first_bad_leaf" not in metrics
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(other.params))


@pytest.mark.parametrize("kind", [NAN_LOSS, NAN_GRADIENT])
def test_several_steps_in_a_call_skip_one(kind):
    step, state = make(steps_per_call=3)
    kinds = [batch(FINE), batch(kind), batch(FINE)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *kinds)
    ended, metrics = step(state, stacked)
    assert (ended.step, ended.skipped, metrics["first_bad_leaf"]) == (3, 1, 2 * kind)
    assert metrics["loss"].weight == 8 and np.isfinite(metrics["loss"].value())
    assert metrics["grad_norm"].weight == 2 and np.isfinite(metrics["grad_norm"].value())
    single, state = make()
    for one in kinds:
        state, _ = single(state, one)
    np.testing.assert_allclose(ended.params["a"], state.params["a"], rtol=1e-6)
    _, metrics = step(ended, jax.tree.map(lambda *x: np.stack(x), *3 * [batch(kind)]))
    assert metrics["grad_norm"].weight == 3 and np.isnan(metrics["grad_norm"].value())


def test_nothing_waits_for_the_device():
    step, state = make()
    batches = [jax.device_put(batch(kind)) for kind in (FINE, NAN_LOSS)]
    for one in batches:
        state, _ = step(state, one)
    with jax.transfer_guard("disallow"):
        for one in 50 * batches:
            state, _ = step(state, one)
    assert state.skipped == 51


def fit(kinds, **options):
    step, state = make(**options)
    return step, jaxloss.fit(step, state, [batch(kind) for kind in kinds], epochs=1, progress=False)


def test_fit_goes_on_and_its_curves_are_of_the_updates_that_were_made():
    _, (state, history) = fit([FINE, NAN_LOSS, NAN_GRADIENT, FINE])
    assert (state.step, state.skipped, history.steps.tolist()) == (4, 2, [4])
    assert "first_bad_leaf" not in history.names
    assert np.isfinite([history[name][0] for name in ("loss", "grad_norm", "seen")]).all()


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(("kind", "what"), [(0, "loss"), (1, "gradient of params['deep']")])
def test_fit_raises_with_the_last_good_state(kind, what, calls):
    step, state = make(nonfinite="raise", steps_per_call=calls)
    kinds = [FINE, FINE, FINE, kind]
    batches = [batch(kind) for kind in kinds]
    if calls == 2:
        batches = [jax.tree.map(lambda *x: np.stack(x), *batches[i : i + 2]) for i in (0, 2)]
    when = "step 4" if calls == 1 else "step 3 to 4"
    with pytest.raises(jaxloss.NonFiniteError, match=re.escape(f"{when}: the {what}")) as caught:
        jaxloss.fit(step, state, batches, epochs=1, progress=False)
    single, expected = make(nonfinite="raise")
    for good in kinds[:3]:
        expected, _ = single(expected, batch(good))
    good = caught.value.state
    for a, b in zip(jax.tree.leaves(good.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert good.skipped == 1 and np.isfinite(caught.value.history["loss"]).all()
    state, _ = step(good, batches[0])  # it can be trained on
    assert state.skipped == 1


def test_another_word_is_explained():
    word: Any = "ignore"
    with pytest.raises(ValueError, match="'apply', 'skip' or 'raise', got 'ignore'"):
        make(nonfinite=word)
