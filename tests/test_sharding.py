"""A step under `jax.jit` on eight devices: data parallel, FSDP, and FSDP with tensor parallel."""

import collections
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

STATS = jaxloss.stats
STEPS, ROWS = 30, 64
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
# how many devices an axis has, where parameters are kept, and how the model uses them
LAYOUTS: dict[str, Any] = {
    "replicated": ({"data": 8}, {"w": P(), "b": P(), "v": P()}, {}),
    "fsdp": ({"data": 8}, {"w": P("data"), "b": P("data"), "v": P("data")}, {}),
    "fsdp and tensor": (
        {"data": 4, "model": 2},
        {"w": P("data", "model"), "b": P(), "v": P("model", "data")},
        {"w": P(None, "model"), "b": P("model"), "v": P("model", None), "h": P("data", "model")},
    ),
}


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"w": (16, 24), "b": (24,), "v": (24, 8)}
    return {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}


def data():
    """Ragged masks; the third of eight devices has nothing left."""
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(STEPS, ROWS, 16)), rng.normal(size=(STEPS, ROWS, 8))
    where = rng.random((STEPS, ROWS)) < 0.6
    where[:, 16:24] = False
    y = np.tanh(x[..., :8]) + 2 + 0.1 * noise
    y[~where] = np.nan
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "where": where}


def loss_fn(params, batch, *, uses=None, kind="auto"):
    """The model gathers a parameter before it uses it, which is what FSDP is."""

    def use(name):
        if uses is None:
            return params[name]
        gather = jax.sharding.reshard if kind == "explicit" else jax.lax.with_sharding_constraint
        return gather(params[name], uses.get(name, P()))

    out = {} if uses is None or kind == "auto" else {"out_sharding": P("data", None)}
    h = jnp.tanh(batch["x"] @ use("w") + use("b")[None])
    p = jnp.dot(h, use("v"), **out)
    error = functools.partial(jaxloss.squared_error, p, batch["y"], where=batch["where"])
    root = jaxloss.root_mean_squared_error(p, batch["y"], where=batch["where"], reduction=STATS)
    return {"square": error(reduction=STATS), "root": 0.5 * root}


def make(loss_fn=loss_fn, **options):
    options = {"steps_per_call": STEPS, "ema": 0.9, "nonfinite": "skip"} | options
    return jaxloss.make_train_step(loss_fn, optax.adam(1e-2), **options)


def mesh_of(layout, kind):
    axes, _, _ = LAYOUTS[layout]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(KINDS[kind],) * len(axes))


def placed(layout, kind, mesh, n):
    _, specs, uses = LAYOUTS[layout]
    step = make(functools.partial(loss_fn, uses=uses, kind=kind), microbatches=n)
    sharding = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    return step, step.init(parameters(), rng=jax.random.key(0), sharding=sharding)


@functools.cache
def of_one_device():
    step = make()
    return step(step.init(parameters(), rng=jax.random.key(0)), data())


def collectives(step, state, batch):
    """How often each of them is in the program, with the shape of what it makes."""
    program = step._compiled(*jaxloss.train.sharding.shardings(state, state.step))
    text = program.lower(state, batch).compile().as_text()
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = collections.defaultdict(list)
    for made, name in re.findall(rf" = (.*) ({names})(?:-start)?\(", text):
        found[name] += re.findall(r"\w+\[([\d,]*)\]", made)
    return {name: sorted(shapes) for name, shapes in found.items()}


def where_they_are(state):
    return jax.tree.map(lambda leaf: leaf.sharding, state)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_thirty_steps_are_those_of_one_device(layout, kind, n):
    mesh = mesh_of(layout, kind)
    with jax.set_mesh(mesh):
        step, state = placed(layout, kind, mesh, n)
        before = where_they_are(state)
        batch = jax.device_put(data(), NamedSharding(mesh, P(None, "data")))
        print(layout,kind,n,collectives(step, state, batch))
        state, metrics = step(state, batch)
    expected, losses = of_one_device()
    for a, e in zip(jax.tree.leaves((state.params, state.ema)), jax.tree.leaves((expected.params, expected.ema)), strict=True):
        print(np.abs(np.asarray(a)-np.asarray(e)).max())
        assert np.abs(np.asarray(a) - np.asarray(e)).max() <= 1e-6
    np.testing.assert_allclose(metrics["loss"].value(), losses["loss"].value(), rtol=1e-6)
    assert where_they_are(state) == before and step.traces == 1
