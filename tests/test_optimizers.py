"""Every optimizer of Optax: what makes one is discovered, and makes the same updates in parts."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jaxloss
from jaxloss import Mean

RATE = 0.01
MASK = {"w": True, "b": False}
DOWN = optax.scale(-RATE)


def matrices(updates):
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), updates)


# what a factory is called with, by the name of the argument
ARGUMENTS: dict[str, Any] = {
    "adv_optimizer": optax.sgd(0.05),
    "base_optimizer": optax.sgd(RATE),
    "clipping": 0.1,
    "decay": 0.9,
    "eta": 0.01,
    "f": lambda updates, params: updates,
    "fast_optimizer": optax.sgd(RATE),
    "freeze_mask": MASK,
    "gamma": 0.55,
    "key": jax.random.key(0),
    "inner": optax.adam(RATE),
    "l2_norm_clip": 0.5,
    "learning_rate": RATE,
    "mask": MASK,
    "max_backtracking_steps": 8,
    "max_consecutive_errors": 3,
    "max_delta": 0.01,
    "max_linesearch_steps": 8,
    "max_norm": 0.1,
    "measure": optax.tree.norm,
    "measure_name": "norm",
    "noise_multiplier": 0.1,
    "optimizer": optax.sgd(RATE),
    "param_labels": {"w": "one", "b": "other"},
    "seed": 0,
    "should_transform_fn": lambda step: step >= 0,
    "slow_step_size": 0.5,
    "step_size": -RATE,
    "step_size_fn": lambda step: RATE / (1.0 + step),
    "sync_period": 2,
    "threshold": 0.1,
    "transforms": {"one": optax.sgd(RATE), "other": optax.adam(RATE)},
    "tx": optax.adam(RATE),
}
DESCENDING = {
    *("base_optimizer", "fast_optimizer", "inner", "learning_rate", "optimizer"),
    *("step_size", "transforms", "tx"),
}
# where this is not all that a factory needs
SPECIAL: dict[str, Any] = {
    "optax.chain": lambda: optax.chain(optax.clip(0.1), optax.adam(RATE)),
    "optax.named_chain": lambda: optax.named_chain(("clip", optax.clip(0.1)), ("down", DOWN)),
    "optax.inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "optax.inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(
        learning_rate=RATE
    ),
    "optax.scale_by_backtracking_linesearch": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8)
    ),
    "optax.scale_by_zoom_linesearch": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_zoom_linesearch(8)
    ),
    "optax.set_to_zero": lambda: optax.chain(
        optax.masked(optax.set_to_zero(), MASK), optax.sgd(RATE)
    ),
    "optax.keep_params_nonnegative": lambda: optax.chain(
        optax.sgd(RATE), optax.keep_params_nonnegative()
    ),
    "optax.measure_with_ema": lambda: optax.chain(
        optax.measure_with_ema(functools.partial(jax.tree.map, jnp.abs), 0.9), DOWN
    ),
    "optax.contrib.scale_by_muon": lambda: optax.chain(
        optax.masked(contrib.scale_by_muon(weight_dimension_numbers=matrices), MASK), DOWN
    ),
    "optax.stateless_with_tree_map": lambda: optax.stateless_with_tree_map(
        lambda update, param: -RATE * update
    ),
}
MORE: dict[str, Any] = {
    "optax.MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), every_k_schedule=2),
    "optax.MultiSteps of lbfgs": lambda: optax.MultiSteps(optax.lbfgs(), every_k_schedule=1),
    "optax.apply_if_finite of lbfgs": lambda: optax.apply_if_finite(optax.lbfgs(), 3),
    "optax.contrib.sam, opaque": lambda: contrib.sam(
        optax.sgd(RATE), optax.sgd(0.05), opaque_mode=True
    ),
    "optax.sgd with momentum": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "optax.sgd and plateau": lambda: optax.chain(
        optax.sgd(RATE), contrib.reduce_on_plateau(patience=1)
    ),
}


def made_by(factory, name):
    """What descends by itself, or before a step downhill."""
    if name in SPECIAL:
        return SPECIAL[name]()
    options = inspect.signature(factory).parameters
    needed = {
        option
        for option, kind in options.items()
        if option == "key" or (kind.default is kind.empty and kind.kind is not kind.VAR_KEYWORD)
    }
    tx = factory(**{option: ARGUMENTS[option] for option in needed})
    whole = DESCENDING & options.keys() and ".scale_by" not in name
    return tx if whole else optax.chain(tx, DOWN)


def discovered():
    for module in (optax, contrib):
        for name, factory in inspect.getmembers(module, inspect.isfunction):
            returned = str(inspect.signature(factory).return_annotation)
            if "GradientTransformation" in returned and not name.startswith("_"):
                path = f"{module.__name__}.{name}"
                yield path, functools.partial(made_by, factory, path)


OPTIMIZERS = {**dict(discovered()), **MORE}


def loss_fn(params: Any, batch):
    """Its gradient is above 0.1 everywhere."""
    params = params.fast if isinstance(params, optax.LookaheadParams) else params
    x, where = batch
    return Mean.of(jnp.logaddexp(x @ params["w"] + params["b"][None], 0.0), where)


def start(name):
    params = {"w": np.linspace(0.2, 0.9, 12).reshape(4, 3), "b": np.array([0.3, 0.5, 0.7])}
    params = jax.tree.map(jnp.asarray, params)
    lookahead = name == "optax.lookahead"
    return optax.LookaheadParams.init_synced(params) if lookahead else params


def of_each_row(loss_fn, **options):
    """Gradients with an axis of rows, which the differentially private optimizers take."""
    gradient = jaxloss.value_and_grad(loss_fn, **options)

    def call(params, batch, **given):
        def one(row):
            pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), row)
            return gradient(params, pair, **given)[1]

        return gradient(params, batch, **given)[0], jax.lax.map(one, batch)

    return call


def of_fast(loss_fn, **options):
    """Gradients of the fast parameters alone, which lookahead takes."""
    gradient = jaxloss.value_and_grad(loss_fn, **options)

    def call(params, batch, **given):
        result, grads = gradient(params, batch, **given)
        return result, grads.fast

    return call


SEAMS = {
    "optax.contrib.differentially_private_aggregate": of_each_row,
    "optax.contrib.dpsgd": of_each_row,
    "optax.lookahead": of_fast,
}


def three_steps(name, params, batch, **options):
    seam = SEAMS.get(name, jaxloss.value_and_grad)
    step = jaxloss.make_train_step(loss_fn, OPTIMIZERS[name](), value_and_grad=seam, **options)
    state = step.init(params)
    for _ in range(3):
        given = state
        state, _ = step(state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.params))
    return jax.tree.leaves(state.params)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_optimizer_makes_the_same_updates_in_parts(name):
    """Three of them, in float64 since some look only at signs, with donation."""
    rng = np.random.default_rng(0)
    batch = rng.uniform(0.5, 1.5, (8, 4)), rng.random((8, 3)) < 0.7
    with jax.enable_x64(True):
        params = start(name)
        whole, parts = (three_steps(name, params, batch, microbatches=n) for n in (1, 2))
        moved = 0.0
        for before, one, two in zip(jax.tree.leaves(params), whole, parts, strict=True):
            assert one.dtype == jnp.float64 and np.isfinite(one).all()
            np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)
            moved = max(moved, np.abs(one - before).max())
    assert moved > 1e-9


def test_none_is_left_out():
    assert len(OPTIMIZERS) >= 67 and set(SPECIAL) <= set(OPTIMIZERS) >= set(SEAMS)
