"""Inside `jax.shard_map`, devices together compute what one would."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxloss
from jaxloss import Aux, Concat, Deferred, Mean

STATS = jaxloss.stats
ROWS = PartitionSpec("data")
EVERYWHERE = PartitionSpec()


def parameters():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "scale": jnp.array(1.5)}


def data():
    """32 rows over 4 devices; the second device has nothing left."""
    rng = np.random.default_rng(1)
    where = rng.random(32) < 0.6
    where[8:16], where[:2], where[-2:] = False, True, True
    x, y = rng.normal(size=(32, 3)), rng.normal(size=(32, 4))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "where": where}


def model(params, batch):
    return jnp.tanh(batch["x"] @ params["w"])


def terms(params, batch):
    p, where = model(params, batch), batch["where"]
    return {
        "fit": jaxloss.squared_error(p, batch["y"], where=where, reduction=STATS),
        "size": 0.3 * Mean.of(jnp.abs(p), weights=jax.nn.sigmoid(params["scale"] * p)),
        "decay": Mean.constant(0.01 * jnp.sum(params["w"] ** 2)),
    }


def root(params, batch):
    p = model(params, batch)
    return jaxloss.root_mean_squared_error(p, batch["y"], where=batch["where"], reduction=STATS)


def contrastive(params, batch):
    p = jnp.where(batch["where"][:, None], model(params, batch), 0)
    temperature = jnp.exp(params["scale"])
    return jaxloss.info_nce_loss(
        p, batch["y"], temperature=temperature, where=batch["where"], reduction=STATS
    )


def nearest(rows):
    return jax.nn.logsumexp(rows.rows["p"] @ rows.rows["y"].T)


def pairs(params, batch):
    return Deferred(Concat({"p": model(params, batch), "y": batch["y"]}), nearest)


def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def sharded(function, check_vma, out_specs: Any = EVERYWHERE):
    specs = (EVERYWHERE, ROWS)
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh(), in_specs=specs, out_specs=out_specs, check_vma=check_vma
        )
    )


def close(actual, expected, relative=2e-6):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.abs(a - e).max() <= relative * max(np.abs(e).max(), 1e-30)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("loss_fn", [terms, root, contrastive, pairs])
def test_value_gradient_and_metrics_are_those_of_one_device(loss_fn, check_vma):
    params, batch = parameters(), data()
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(jaxloss.value_and_grad(loss_fn, has_aux=True))(params, batch)
        for n in (1, 4):
            gradient = jaxloss.value_and_grad(
                loss_fn, microbatches=n, axis_name="data", has_aux=True
            )
            (value, aux), grads = sharded(gradient, check_vma)(params, batch)
            close((value, grads), (expected[0][0], expected[1]))
            values = {name: metric.value() for name, metric in aux.metrics.items()}
            close(values, {name: m.value() for name, m in expected[0][1].metrics.items()})


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("loss_fn", [root, pairs])
def test_the_mean_of_the_gradients_of_merged_statistics_is_the_gradient(loss_fn, check_vma):
    params, batch = parameters(), data()

    def gradient(params, batch):
        def loss(params):
            return jaxloss.merge(loss_fn(params, batch), axis_name="data").value()

        return jax.lax.pmean(jax.grad(loss)(params), "data")

    with jax.default_matmul_precision("highest"):
        expected = jax.grad(lambda params: loss_fn(params, batch).value())(params)
        close(sharded(gradient, check_vma)(params, batch), expected)


@pytest.mark.parametrize("n", [1, 2])
def test_over_some_of_the_axes_of_a_mesh(n):
    """The others are left to the compiler."""
    params, batch = parameters(), data()
    expected = jax.jit(jaxloss.value_and_grad(root))(params, batch)
    gradient = jaxloss.value_and_grad(root, microbatches=n, axis_name="data")
    both = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = {"in_specs": (EVERYWHERE, ROWS), "out_specs": EVERYWHERE, "axis_names": {"data"}}
    close(jax.jit(jax.shard_map(gradient, mesh=both, **specs))(params, batch), expected)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_step_makes_the_update_of_one_device(check_vma):
    params, batch = parameters(), data()
    precision = jaxloss.Precision(compute=jnp.float32, loss_scale="dynamic")
    options: dict[str, Any] = {"precision": precision, "ema": 0.9, "microbatches": 2}
    together = functools.partial(jaxloss.value_and_grad, axis_name="data")
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01))
    one = jaxloss.make_train_step(terms, tx, donate=False, **options)
    many = jaxloss.make_train_step(terms, tx, value_and_grad=together, **options)
    state = again = one.init(params)
    step = sharded(many.raw, check_vma)
    for _ in range(10):
        state, metrics = one(state, batch)
        again, spread = step(again, batch)
        assert spread["first_bad_leaf"] == metrics["first_bad_leaf"] == -1
        for name in ("loss", "fit", "size", "decay", "grad_norm"):
            close(spread[name].value(), metrics[name].value(), 5e-6)
    close((again.params, again.ema), (state.params, state.ema))


def test_each_device_has_its_own_rng():
    def noisy(w, batch, *, rng):
        noise = jax.random.normal(rng, batch.shape)
        return Mean.of(w * noise), Aux(metrics={"square": Mean.of(noise**2)})

    key, n = jax.random.key(0), 2
    gradient = jaxloss.value_and_grad(noisy, microbatches=n, axis_name="data", has_aux=True)
    (value, _), _ = sharded(lambda w, x: gradient(w, x, rng=key), True)(jnp.ones(()), jnp.ones(32))
    noise = [jax.random.normal(jax.random.fold_in(key, i), (4,)) for i in range(8)]
    close(value, np.mean(noise), 1e-5)
