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
# how many devices each axis has; where the parameters are kept, how the model uses them and what
# is gathered for that, which is what FSDP is
LAYOUTS: dict[str, Any] = {
    "replicated": ({"data": 8}, {"w": P(), "b": P(), "v": P()}, {}, []),
    "fsdp": (
        {"data": 8},
        {"w": P("data"), "b": P("data"), "v": P("data")},
        {},
        ["16,24", "24", "24,8"],
    ),
    "fsdp and tensor": (
        {"data": 4, "model": 2},
        {"w": P("data", "model"), "b": P("model"), "v": P("model", "data")},
        {"w": P(None, "model"), "b": P("model"), "v": P("model", None)},
        ["12,8", "16,12"],
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
    def use(name):
        if uses is None:
            return params[name]
        gather = jax.sharding.reshard if kind == "explicit" else jax.lax.with_sharding_constraint
        return gather(params[name], uses.get(name, P()))

    out = P("data", None) if kind == "explicit" else None
    h = jnp.tanh(batch["x"] @ use("w") + use("b")[None])
    p = jnp.dot(h, use("v"), out_sharding=out)
    where = batch["where"]
    root = jaxloss.root_mean_squared_error(p, batch["y"], where=where, reduction=STATS)
    square = jaxloss.squared_error(p, batch["y"], where=where, reduction=STATS)
    return {"square": square, "root": 0.5 * root}


def make(loss_fn=loss_fn, **options):
    options = {"steps_per_call": STEPS, "ema": 0.9, "nonfinite": "skip"} | options
    return jaxloss.make_train_step(loss_fn, optax.adam(1e-2), **options)


@functools.cache
def of_one_device():
    step = make()
    return step(step.init(parameters(), rng=jax.random.key(0)), data())


def collectives(step, state, batch):
    """The shapes of what they make in the program of a step, by their name."""
    program = step._program(state).lower(state, batch).compile()
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = collections.defaultdict(list)
    for made, name in re.findall(rf" = (.*) ({names})(?:-start)?\(", program.as_text()):
        found[name] += re.findall(r"\w+\[([\d,]*)\]", made)
    return {name: sorted(shapes) for name, shapes in found.items()}


def kept(state):
    return jax.tree.map(lambda leaf: leaf.sharding, state)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_thirty_steps_are_those_of_one_device(layout, kind, n):
    axes, specs, uses, gathered = LAYOUTS[layout]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(KINDS[kind],) * len(axes))
    with jax.set_mesh(mesh):
        step = make(functools.partial(loss_fn, uses=uses, kind=kind), microbatches=n)
        sharding = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
        state = step.init(parameters(), rng=jax.random.key(0), sharding=sharding)
        adam, before = state.opt_state[0], kept(state)
        for tree in (state.params, adam.mu, adam.nu, state.ema):
            for name, leaf in tree.items():
                assert leaf.sharding.is_equivalent_to(sharding[name], leaf.ndim)
        for leaf in jax.tree.leaves((state.step, state.rng, adam.count)):
            assert leaf.sharding.is_fully_replicated
        batch = jax.device_put(data(), NamedSharding(mesh, P(None, "data")))
        found = collectives(step, state, batch)
        state, metrics = step(state, batch)
    assert found.pop("all-gather", []) == gathered
    assert found.keys() <= {"all-reduce", "reduce-scatter"}
    assert kept(state) == before and step.traces == 1
    expected, losses = of_one_device()
    pairs = [(state.params, expected.params), (state.ema, expected.ema)]
    for ours, truth in pairs:
        for name in specs:
            np.testing.assert_allclose(ours[name], truth[name], rtol=0, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value(), losses["loss"].value(), rtol=1e-6)


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def test_a_parameter_stays_where_it_is_although_the_model_spreads_it(mesh):
    def loss_fn(w, x):
        w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P("data")))
        return jnp.sum((w - x) ** 2)

    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), nonfinite="skip")
    state = step.init(jnp.zeros(16), sharding=NamedSharding(mesh, P()))
    before, x = kept(state), jnp.arange(16.0)
    for _ in range(3):
        state, _ = step(state, x)
        assert kept(state) == before
    assert step.traces == 1
    np.testing.assert_allclose(state.params, (1 - 0.8**3) * x, rtol=1e-6)
    report = step.memory_report(state, x)
    assert report.state == report.aliased == 16 * 4 + 4 + 4


def test_what_belongs_to_no_parameter_is_on_every_device_of_their_mesh(mesh):
    """The history of L-BFGS has no shape of a parameter; the parameters are placed already."""
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    step = jaxloss.make_train_step(lambda w, x: jnp.sum((w - x) ** 2), optax.lbfgs())
    state = step.init(jax.device_put(jnp.ones(16), rows), model_state=jnp.ones(3))
    places = {(leaf.shape, leaf.sharding) for leaf in jax.tree.leaves(state)}
    assert places == {
        ((), everywhere), ((3,), everywhere), ((16,), rows), ((10,), everywhere),
        ((10, 16), everywhere),
    }  # fmt: skip
    alone = step.init(jnp.ones(16))
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(alone))


def test_fit_spreads_batches_over_devices(mesh):
    def train(n, everywhere=None, rows=None):
        step = jaxloss.make_train_step(loss_fn, optax.adam(1e-2), microbatches=n, max_traces=1)
        state = step.init(parameters(), sharding=everywhere)
        return jaxloss.fit(step, state, batches, epochs=1, sharding=rows, progress=False)

    whole = data()
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(3)]
    places = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    (one, history), (many, spread) = train(1), train(4, *places)
    assert many.params["w"].sharding == places[0]
    np.testing.assert_allclose(spread["loss"], history["loss"], rtol=1e-6)
    np.testing.assert_allclose(many.params["w"], one.params["w"], rtol=0, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"batch\['where'\] has 8 rows on each device, which micro"
    ):
        train(16, *places)
