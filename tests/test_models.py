"""Models of Flax Linen, Flax NNX and Equinox in a step."""

import functools
import sys
from typing import Any

import equinox as eqx
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxloss
from jaxloss import Aux

ROWS, MOMENTUM = 12, 0.9
LIBRARIES = ["linen", "nnx", "equinox"]


class Linen(nn.Module):
    rate: float = 0.0
    normed: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(8)(x)
        if self.normed:
            x = nn.BatchNorm(not train, momentum=MOMENTUM)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(2)(x)


class Nnx(nnx.Module):
    def __init__(self, rate=0.0, normed=True):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=MOMENTUM, rngs=rngs) if normed else None
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        x = x if self.norm is None else self.norm(x)
        return self.last(self.dropout(jnp.tanh(x)))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, rate=0.0):
        one, two = jax.random.split(jax.random.key(0))
        self.first, self.last = eqx.nn.Linear(3, 8, key=one), eqx.nn.Linear(8, 2, key=two)
        self.norm = eqx.nn.BatchNorm(8, "batch", momentum=MOMENTUM, mode="batch")
        self.dropout = eqx.nn.Dropout(rate)

    def __call__(self, x, state, *, key):
        x, state = self.norm(self.first(x), state)
        return self.last(self.dropout(jnp.tanh(x), key=key)), state


def linen_variables(module):
    return module.init(jax.random.key(0), jnp.ones((1, 3)), train=False)


def normed(library, rate=0.5):
    if library == "linen":
        module = Linen(rate)
        return jaxloss.from_linen(module, linen_variables(module))
    if library == "nnx":
        return jaxloss.from_nnx(Nnx(rate))
    return jaxloss.from_equinox(*eqx.nn.make_with_state(Equinox)(rate))


def mode(library, rng):
    return {"train": rng is not None} if library == "linen" else {}


def loss_of(library, bind):
    def loss_fn(params, batch, *, rng, model_state):
        x, y = batch
        p, model_state = bind(params, model_state, rng=rng)(x, **mode(library, rng))
        return jaxloss.squared_error(p, y, reduction=jaxloss.stats), Aux(model_state)

    return loss_fn


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = 3 * rng.normal(size=(ROWS, 3)) + 1
    return x.astype(np.float32), np.sin(x[:, :2]).astype(np.float32)


def first_layer(library, params):
    if library == "linen":
        return params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    if library == "nnx":
        return params["first"]["kernel"], params["first"]["bias"]
    return params.first.weight.T, params.first.bias


def statistics(library, model_state):
    if library == "linen":
        return tuple(model_state["batch_stats"]["BatchNorm_0"][name] for name in ("mean", "var"))
    if library == "nnx":
        return model_state["norm"]["mean"], model_state["norm"]["var"]
    return next(leaf for leaf in model_state.tree_flatten()[0] if isinstance(leaf, tuple))


def copies(tree):
    return jax.tree.map(np.array, tree)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# ------------------------------------------------------------------------------------- the losses


def four_ways():
    """The same network as a tree of arrays and in three libraries, each with its loss."""
    linen = Linen(normed=False)
    variables: Any = linen_variables(linen)
    first, last = variables["params"]["Dense_0"], variables["params"]["Dense_1"]
    own: Any = Nnx(normed=False)
    nnx.update(own, {"first": first, "last": last})
    keys = jax.random.split(jax.random.key(1))
    layers = [eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1])]
    layers = [
        eqx.tree_at(lambda x: (x.weight, x.bias), layer, (source["kernel"].T, source["bias"]))
        for layer, source in zip(layers, (first, last), strict=True)
    ]
    sequence = eqx.nn.Sequential([layers[0], eqx.nn.Lambda(jnp.tanh), layers[1]])

    def plain(params, batch):
        x, y = batch
        x = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
        p = x @ params["last"]["kernel"] + params["last"]["bias"][None]
        return jaxloss.squared_error(p, y, reduction=jaxloss.stats)

    yield {"first": first, "last": last}, None, plain
    for library, (params, model_state, bind) in {
        "linen": jaxloss.from_linen(linen, variables),
        "nnx": jaxloss.from_nnx(own),
        "equinox": jaxloss.from_equinox(sequence),
    }.items():
        assert not jax.tree.leaves(model_state)
        yield params, model_state, loss_of(library, bind)


def test_four_ways_to_write_a_model_have_the_same_losses():
    losses = []
    for params, model_state, loss_fn in four_ways():
        step = jaxloss.make_train_step(loss_fn, optax.adam(1e-2), microbatches=2)
        state = step.init(params, rng=jax.random.key(0), model_state=model_state)
        metrics = []
        for _ in range(20):
            state, measured = step(state, data())
            metrics.append(measured["loss"].value())
        losses.append(np.array(metrics))
        assert step.traces == 1
    assert losses[0][-1] < 0.8 * losses[0][0]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-6)


# ---------------------------------------------------------------------------------- the statistics


@pytest.mark.parametrize("library", LIBRARIES)
def test_running_statistics_are_those_of_a_loop_in_numpy(library):
    params, model_state, bind = normed(library)
    step = jaxloss.make_train_step(loss_of(library, bind), optax.adam(0.05), microbatches=2)
    state = step.init(params, rng=jax.random.key(0), model_state=model_state)
    mean, var = (np.array(leaf, np.float64) for leaf in statistics(library, state.model_state))
    first = copies(first_layer(library, params))
    for seed in range(4):
        kernel, bias = (np.array(leaf, np.float64) for leaf in first_layer(library, state.params))
        batch = data(seed)
        for i in range(2):
            hidden = batch[0][i::2].astype(np.float64) @ kernel + bias
            mean = MOMENTUM * mean + (1 - MOMENTUM) * hidden.mean(0)
            var = MOMENTUM * var + (1 - MOMENTUM) * hidden.var(0)
        state, _ = step(state, batch)
        now = statistics(library, state.model_state)
        np.testing.assert_allclose(now[0], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(now[1], var, rtol=1e-5, atol=1e-6)
    assert np.abs(first_layer(library, state.params)[0] - first[0]).max() > 0.05


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_not_finite_leaves_the_statistics(library):
    params, model_state, bind = normed(library)
    step = jaxloss.make_train_step(
        loss_of(library, bind), optax.adam(0.05), microbatches=2, nonfinite="skip"
    )
    state = step.init(params, rng=jax.random.key(0), model_state=model_state)
    state, _ = step(state, data())
    before = copies((state.params, state.model_state))
    x, y = data(1)
    x[3, 0] = np.nan
    state, _ = step(state, (x, y))
    assert state.skipped == 1
    assert_same(copies((state.params, state.model_state)), before)
    state, _ = step(state, data(1))
    assert not np.array_equal(statistics(library, state.model_state)[0], before[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.model_state))


@pytest.mark.parametrize("library", LIBRARIES)
@jax.numpy_dtype_promotion("standard")
def test_many_steps_in_one_call_and_few_bits(library):
    params, model_state, bind = normed(library)
    loss_fn, few = loss_of(library, bind), jaxloss.Precision(compute=jnp.bfloat16)
    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), precision=few, steps_per_call=3)
    state = step.init(params, rng=jax.random.key(0), model_state=model_state)
    kinds = jax.tree.map(jax.typeof, jax.tree.leaves(state))
    state, _ = step(state, jax.tree.map(lambda leaf: np.stack(3 * [leaf]), data()))
    assert jax.tree.map(jax.typeof, jax.tree.leaves(state)) == kinds


# -------------------------------------------------------------------------------------- the keys


class LinenMasks(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return jnp.stack([nn.Dropout(0.5, deterministic=not train)(x) for _ in range(2)], -1)


class NnxMasks(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(dropout=0)
        self.layers = nnx.List([nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])

    def __call__(self, x):
        return jnp.stack([layer(x) for layer in self.layers], -1)


class EquinoxMasks(eqx.Module):
    dropout: eqx.nn.Dropout

    def __call__(self, x, *, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        return jnp.stack([self.dropout(x, key=key) for key in keys], -1)


def masks(library):
    if library == "linen":
        return jaxloss.from_linen(LinenMasks(), {})
    if library == "nnx":
        return jaxloss.from_nnx(NnxMasks())
    return jaxloss.from_equinox(EquinoxMasks(eqx.nn.Dropout(0.5)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_mask_is_new_and_comes_from_the_rng(library):
    params, empty, bind = masks(library)
    x = jnp.ones((6, 64))

    def loss_fn(params, batch, *, rng, model_state):
        own, seen = model_state
        outputs, own = bind(params["model"], own, rng=rng)(batch, **mode(library, rng))
        seen = jnp.concatenate([seen[1:], outputs[None]])
        return jaxloss.Mean.of(params["w"] * outputs), Aux((own, seen))

    def seen(seed):
        step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), microbatches=2)
        model_state = (empty, jnp.zeros((4, 3, 64, 2)))
        own = {"model": params, "w": jnp.ones(())}
        state = step.init(own, rng=jax.random.key(seed), model_state=model_state)
        for _ in range(2):
            state, _ = step(state, x)
        return np.moveaxis(state.model_state[1], -1, 2).reshape(24, 64)

    first, again, other = seen(0), seen(0), seen(1)
    np.testing.assert_array_equal(first, again)
    assert set(np.unique(first)) == {0.0, 2.0} and 0.4 < (first > 0).mean() < 0.6
    assert len(np.unique(np.concatenate([first, other]), axis=0)) == 48


@pytest.mark.parametrize("library", LIBRARIES)
@jax.numpy_dtype_promotion("standard")
def test_without_an_rng_a_model_is_evaluated(library):
    params, model_state, bind = normed(library)
    loss_fn = loss_of(library, bind)
    step = jaxloss.make_train_step(loss_fn, optax.adam(0.05))
    state = step.init(params, rng=jax.random.key(0), model_state=model_state)
    for seed in range(3):
        state, _ = step(state, data(seed))
    evaluate, (x, y) = jaxloss.make_eval_step(loss_fn), data(9)
    whole = evaluate(state, (x, y))["loss"].value()
    parts = evaluate(state, (x[:5], y[:5]))
    parts = evaluate(state, (x[5:], y[5:]), parts)
    np.testing.assert_allclose(parts["loss"].value(), whole, rtol=1e-6)
    model = bind(state.params, state.model_state, rng=None)
    _, after = model(x, **mode(library, None))
    assert_same(copies(after), copies(state.model_state))


# --------------------------------------------------------------------------------- the live model


def trained(library, params, model_state, bind):
    """A state after steps that donate, first what was returned and then the step's own."""
    donate = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 0, tree), donate_argnums=0)
    params, model_state = donate((params, model_state))
    step = jaxloss.make_train_step(loss_of(library, bind), optax.adam(0.05))
    state = step.init(params, rng=jax.random.key(0), model_state=model_state)
    for seed in range(3):
        state, _ = step(state, data(seed))
    outputs, _ = bind(state.params, state.model_state, rng=None)(data()[0], **mode(library, None))
    return state, outputs


def assert_lives(tree, before):
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))
    assert_same(copies(tree), before)


@pytest.mark.parametrize("frozen", [False, True])
def test_linen_variables_live_and_take_what_was_trained(frozen):
    module = Linen(0.5)
    variables = linen_variables(module)
    variables = flax.core.freeze(variables) if frozen else variables
    before = copies(variables)
    state, outputs = trained("linen", *jaxloss.from_linen(module, variables))
    assert_lives(variables, before)
    back = {"params": state.params, **state.model_state}
    alone: Any = module.apply(back, data()[0], train=False)
    np.testing.assert_allclose(alone, outputs, rtol=1e-5)


def test_an_nnx_model_lives_and_takes_what_was_trained():
    model: Any = Nnx(0.5)
    arrays = functools.partial(nnx.filter_state, nnx.state(model), nnx.Not(nnx.RngState))
    before = copies(nnx.to_pure_dict(arrays()))
    state, outputs = trained("nnx", *jaxloss.from_nnx(model))
    assert_lives(nnx.to_pure_dict(arrays()), before)
    assert model.dropout.deterministic is False and model.dropout.rngs.count[...] == 0
    nnx.update(model, state.params, state.model_state)
    model.eval()
    np.testing.assert_allclose(model(data()[0]), outputs, rtol=1e-5)


@jax.numpy_dtype_promotion("standard")
def test_an_equinox_model_lives_and_takes_what_was_trained():
    model, first = eqx.nn.make_with_state(Equinox)(0.5)
    arrays = eqx.filter((model, first), eqx.is_array)
    before = copies(arrays)
    state, outputs = trained("equinox", *jaxloss.from_equinox(model, first))
    assert_lives(arrays, before)
    model = eqx.nn.inference_mode(eqx.combine(state.params, model))
    alone = jax.vmap(functools.partial(model, key=None), (0, None), (0, None), axis_name="batch")
    np.testing.assert_allclose(alone(data()[0], state.model_state)[0], outputs, rtol=1e-5)


# ------------------------------------------------------------------------------- the finer points


class Keeping(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        self.inputs = nnx.Intermediate(x)
        return self.linear(x)


def test_intermediate_results_are_dropped():
    model = Keeping()
    for _ in range(2):
        params, model_state, bind = jaxloss.from_nnx(model)
        expected = model(jnp.ones((4, 3)))
        outputs, after = bind(params, model_state, rng=None)(jnp.ones((4, 3)))
        assert model_state == after == {} and params.keys() == {"linear"}
        np.testing.assert_array_equal(outputs, expected)


def test_another_method_than_the_call():
    x = jnp.ones((4, 3))
    methods: Any = {
        "nnx": lambda model, x: model.first(x),
        "equinox": lambda model, x, state: (model.first(x), state),
    }
    for library, method in methods.items():
        params, model_state, bind = normed(library)
        kernel, bias = first_layer(library, params)
        expected = x @ kernel + np.tile(bias, (4, 1))
        outputs, _ = bind(params, model_state, rng=None)(x, method=method)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_an_equinox_state_that_is_missing_is_explained():
    for model in (Equinox(), eqx.nn.make_with_state(Equinox)()[0]):
        with pytest.raises(ValueError, match="model has layers with a state, and none was given"):
            jaxloss.from_equinox(model)


def test_a_library_that_is_missing_is_named(monkeypatch):
    for name in ("flax", "flax.core", "equinox"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match="from_linen needs flax: pip install flax"):
        jaxloss.from_linen(Linen(), {})
    model: Any = object()
    with pytest.raises(ModuleNotFoundError, match="from_nnx needs flax: pip install flax"):
        jaxloss.from_nnx(model)
    with pytest.raises(ModuleNotFoundError, match="from_equinox needs equinox: pip install equin"):
        jaxloss.from_equinox(model)
