"""What is particular to contrastive losses by blocks, on one device and on many."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_schedules import largest

import jaxloss
from jaxloss.fused.row_blocks import Pairs

ROWS = PartitionSpec("data")
GROUPS = np.arange(256) // 3


def clip(x, z, t, loss: Any = jaxloss.clip_loss, **options):
    return loss(x, z, logit_scale=t, **options)


def siglip(x, z, t, loss: Any = jaxloss.siglip_loss, **options):
    return loss(x, z, logit_scale=t, logit_bias=-t, **options)


def info_nce(x, z, t, **options):
    return jaxloss.info_nce_loss(x, z, temperature=1 / t, **options)


def supcon(x, z, t, **options):
    return jaxloss.supcon_loss(x + z, GROUPS[: len(x)], temperature=1 / t, **options)


LOSSES = [clip, siglip, info_nce, supcon]


def embeddings(rng, units, features=8):
    x, z = rng.normal(size=(2, units, features))
    return tuple((a / np.linalg.norm(a, axis=1, keepdims=True)).astype(np.float32) for a in (x, z))


def close(got, want, relative=1e-6):
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= relative * np.abs(b).max()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_array_holds_a_quarter_of_the_pairs(loss, rng):
    """Value and gradients are those of all pairs at once; the last block is new in part."""
    x, z = embeddings(rng, 250)
    where, weights = rng.random(250) < 0.9, rng.exponential(size=250).astype(np.float32)
    budget = 250 * 4 * 24

    def f(schedule, reduction, x, z, t, weights):
        options = {"schedule": schedule, "memory_budget": budget, "reduction": reduction}
        return jnp.sum(loss(x, z, t, where=where, weights=weights, **options))

    for reduction in ("mean", None):
        arguments: Any = x, z, jnp.float32(20), weights
        gradient = [
            jax.jit(jax.value_and_grad(functools.partial(f, how, reduction), (0, 1, 2, 3)))
            for how in ("plain", "blocks")
        ]
        program: Any = gradient[1].lower(*arguments).compile()
        assert largest(program.as_text()) < 250 * 250 / 4
        close(program(*arguments), gradient[0](*arguments), 5e-6)


@pytest.mark.parametrize("shared", [True, False], ids=["of all", "of each"])
def test_given_negatives_go_by_blocks_too(shared, rng):
    """Those of all anchors, or those of each where the units have two axes."""
    x, z = embeddings(rng, 250)
    units, kind = ((250,), (300,)) if shared else ((25, 10), (25, 10, 4))
    x, z = (a.reshape(*units, 8) for a in (x, z))
    negatives, where = rng.normal(size=(*kind, 8)).astype(np.float32), rng.random(units) < 0.9

    def f(schedule, x, z, negatives, t):
        options = {"schedule": schedule, "memory_budget": 16 * 4 * 300, "where": where}
        return info_nce(x, z, t, negatives=negatives, **options)

    arguments: Any = x, z, negatives, jnp.float32(5)
    dense, blocks = (
        jax.jit(jax.value_and_grad(functools.partial(f, how), (0, 1, 2, 3)))
        for how in ("plain", "blocks")
    )
    program: Any = blocks.lower(*arguments).compile()
    close(program(*arguments), dense(*arguments), 2e-6)
    if shared:
        assert largest(program.as_text()) < 250 * 300 / 4


def test_blocks_are_for_what_is_large():
    def plan(units, features, **options: Any):
        rows = jnp.zeros((units, features))
        return Pairs(**options).block(rows, rows)

    assert plan(2048, 64) is None and plan(2049, 64) == 2040
    assert plan(8192, 8) == 512 and plan(8192, 2048) == 1024
    assert plan(100, 8, schedule="blocks") == 100
    assert plan(100, 8, memory_budget=4000) == 8 and plan(100, 8, memory_budget=1) == 1
    assert plan(8192, 8, schedule="plain") is None and plan(0, 8, schedule="blocks") is None
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="schedule must be None, 'plain' or 'blocks', got 'ring'"):
        clip(x, x, 1.0, schedule="ring")
    with pytest.raises(ValueError, match="memory_budget must be positive, got 0"):
        supcon(x, x, 1.0, memory_budget=0)


@pytest.mark.parametrize("offset", [0.0, 60.0])
def test_logits_far_apart_take_an_exponential_each(offset, rng):
    """Rows whose sums differ by more than a float32 holds."""
    x, z = rng.normal(size=(2, 7, 3)).astype(np.float32)
    x[::2] += offset
    got, want = (
        jax.jit(jax.value_and_grad(lambda x, how=how: clip(x, z, 3.0, **how)))(x)
        for how in ({"schedule": "blocks", "memory_budget": 80}, {"schedule": "plain"})
    )
    close(got, want, 2e-6)


@pytest.mark.parametrize("loss", [clip, siglip, info_nce])
def test_half_operands_lose_what_rounding_does(loss, rng):
    """Against float32 of the same numbers: the loss to 1e-6, the gradients as bfloat16 can."""
    halves = [jnp.asarray(a, jnp.bfloat16) for a in embeddings(rng, 64, 32)]

    def f(x, z, t, schedule):
        return loss(x, z, t, schedule=schedule, memory_budget=64 * 4 * 16)

    gradient = jax.jit(jax.value_and_grad(f, (0, 1, 2)), static_argnums=3)
    t = jnp.float32(30)
    value, grads = gradient(*halves, t, "blocks")
    want, wanted = gradient(*(a.astype(jnp.float32) for a in halves), t, "plain")
    close(value, want, 2e-6)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for grad, exact in zip(grads[:2], wanted[:2], strict=True):
        rounded = np.linalg.norm(exact.astype(jnp.bfloat16).astype(np.float32) - exact)
        assert np.linalg.norm(np.asarray(grad, np.float32) - exact) <= 2 * rounded
    close(grads[2], wanted[2], 2e-3)


def test_microbatches_with_blocks_are_gradcache(rng):
    """The gradient of the whole batch, with neither all pairs nor all activations in memory."""
    units, features, hidden = 256, 8, 4096
    x, z = embeddings(rng, units, features)
    params = {
        "w": (rng.normal(size=(features, hidden)) / 3).astype(np.float32),
        "v": (rng.normal(size=(hidden, features)) / 60).astype(np.float32),
        "scale": jnp.float32(2),
    }

    def loss_fn(schedule, params, batch):
        x, z = (jnp.tanh(a @ params["w"]) @ params["v"] for a in batch)
        how = {"schedule": schedule, "memory_budget": units * 4 * 16}
        return clip(x, z, jnp.exp(params["scale"]), reduction=jaxloss.stats, **how)

    programs: list[Any] = [
        jax.jit(jaxloss.value_and_grad(functools.partial(loss_fn, how), microbatches=n))
        .lower(params, (x, z))
        .compile()
        for how, n in (("plain", 1), ("blocks", 4))
    ]
    want, got = (program(params, (x, z)) for program in programs)
    close(got, want)
    whole, cached = (p.memory_analysis().temp_size_in_bytes for p in programs)
    assert cached < 0.6 * whole
    shapes = re.findall(r"\[([\d,]+)\]", programs[1].as_text())
    assert f"{units},{units}" not in shapes and f"{units},{hidden}" not in shapes


SHARDED = [
    (clip, jaxloss.sharded_clip_loss),
    (siglip, jaxloss.sharded_siglip_loss),
]


@pytest.mark.parametrize("columns", ["ring", "gathered"])
@pytest.mark.parametrize(("loss", "sharded"), SHARDED, ids=["clip", "siglip"])
def test_many_devices_are_one(loss, sharded, columns, rng):
    """1, 2, 4 and 8 devices, on meshes with and without explicit axes, blocks of several sizes."""
    x, z = embeddings(rng, 24)
    where, weights = rng.random(24) < 0.7, rng.exponential(size=24).astype(np.float32)

    def f(x, z, t, weights, **how):
        return loss(x, z, t, where=where, weights=weights, **how)

    arguments: Any = x, z, jnp.float32(7), weights
    want = jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*arguments)
    for n, kind in ((1, "Auto"), (2, "Explicit"), (4, "Auto"), (8, "Explicit")):
        mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType[kind],))
        how = {"data_axis": "data"} if kind == "Auto" else {}
        many = functools.partial(f, loss=sharded, columns=columns, memory_budget=24 * n, **how)
        with jax.set_mesh(mesh):
            rows = [jax.device_put(a, NamedSharding(mesh, ROWS)) for a in (x, z)]
            got = jax.jit(jax.value_and_grad(many, (0, 1, 2, 3)))(*rows, *arguments[2:])
        close(got, want)


@pytest.mark.parametrize(("loss", "sharded"), SHARDED, ids=["clip", "siglip"])
def test_inside_of_a_shard_map_the_embeddings_are_those_of_the_device(loss, sharded, rng):
    """Also along two axes at once; statistics merge, "mean" is of all."""
    x, z = embeddings(rng, 16)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec(("a", "b"))
    many = functools.partial(loss, loss=sharded, data_axis=("a", "b"))

    def local(x, z, t):
        part = jaxloss.merge(many(x, z, t, reduction=jaxloss.stats), axis_name=("a", "b"))
        return many(x, z, t), part.value(), many(x, z, t, reduction=None)

    out = PartitionSpec(), PartitionSpec(), rows
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, None), out_specs=out)
    t = jnp.float32(5)
    values = jax.jit(mapped)(x, z, t)
    close(values, (loss(x, z, t), loss(x, z, t), loss(x, z, t, reduction=None)))
    got = jax.jit(jax.grad(lambda *arguments: mapped(*arguments)[0], (0, 1, 2)))(x, z, t)
    close(got, jax.jit(jax.grad(loss, (0, 1, 2)))(x, z, t))
    with pytest.raises(ValueError, match="data_axis must say over which axes of the mesh"):
        loss(x, z, t, loss=sharded)
    on_it = {"loss": sharded, "mesh": mesh}
    with pytest.raises(ValueError, match="columns must be 'ring' or 'gathered', got 'all'"):
        loss(x, z, t, data_axis="a", columns="all", **on_it)
    with pytest.raises(ValueError, match=r"the mesh must have the axes \['c'\]"):
        loss(x, z, t, data_axis="c", **on_it)
    with pytest.raises(ValueError, match="the devices of 'b' are 4 and do not divide the units"):
        loss(x[:6], z[:6], t, data_axis="b", **on_it)


def test_the_memory_of_a_ring_does_not_grow_with_the_devices():
    """64 rows on each device, and nothing of the size of all, or of a quarter of the pairs."""

    def compiled(n, **how) -> Any:
        mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,))
        rows = jax.ShapeDtypeStruct((64 * n, 8), np.float32, sharding=NamedSharding(mesh, ROWS))
        f = functools.partial(jaxloss.sharded_clip_loss, mesh=mesh, data_axis="data", **how)
        gradient = jax.jit(jax.grad(lambda x, z: f(x, z, logit_scale=5.0), (0, 1)))
        return gradient.lower(rows, rows).compile()

    two, eight = compiled(2), compiled(8)
    sizes = [p.memory_analysis().temp_size_in_bytes for p in (two, eight)]
    assert sizes[1] <= 1.1 * sizes[0]
    assert "all-gather" not in eight.as_text() and "collective-permute" in eight.as_text()
    gathered = compiled(8, columns="gathered", memory_budget=8 * 4 * 512)
    for program in (eight, gathered):
        assert largest(program.as_text()) < 64 * 512 / 4
