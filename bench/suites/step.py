"""A training step of ours beside those that people write or import, on a tiny and a medium model.

The tiny model is bound by dispatch and the medium one by its matrix products. All contenders
start from the same parameters, see the same batch and make the same updates with Adam, which is
checked first; what differs is who wrote the step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxloss
from bench.measure import Program, alternate
from bench.peers import missing, takes_part
from bench.rows import Measured, Row, Work
from bench.workload import Options

PARTS, SCANNED = 8, 64
Params = dict[str, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """An MLP of `layers` square layers, and the rows that it learns from."""

    name: str
    layers: int
    width: int
    rows: int
    calls: int  # of a step in one round
    more: int = 1  # rounds for each one that is asked for

    def params(self) -> Params:
        keys = jax.random.split(jax.random.key(0), self.layers)
        shape, scale = (self.width, self.width), self.width**-0.5
        return {
            f"layer_{i}": {
                "kernel": scale * jax.random.normal(key, shape),
                "bias": jnp.zeros(self.width),
            }
            for i, key in enumerate(keys)
        }

    def batch(self) -> tuple[Array, Array]:
        shape = (self.rows, self.width)
        return jax.random.normal(jax.random.key(1), shape), jnp.ones(shape)


TINY = Shape("tiny", layers=3, width=16, rows=8, calls=300, more=4)
MEDIUM = Shape("medium", layers=4, width=512, rows=256, calls=5)
OPTIMIZER = optax.adam(1e-3)


def model(params: Params, x: Array) -> Array:
    for layer in params.values():
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x


def loss(params: Params, batch: tuple[Array, Array]) -> Array:
    x, y = batch
    return jnp.mean((model(params, x) - y) ** 2)


GRADIENT = jax.value_and_grad(loss)


def statistics(params: Params, batch: tuple[Array, Array]) -> jaxloss.Statistic:
    x, y = batch
    return jaxloss.squared_error(model(params, x), y, reduction=jaxloss.stats)


@dataclasses.dataclass
class Contender:
    """A step that keeps its own state: a call makes an update and returns the metrics."""

    step: Callable[..., tuple[Any, Any]]
    state: Any
    batch: Any
    loss: Callable[[Any], Array]
    temporaries: int | None = None

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


def ours(shape: Shape, *, microbatches: int = 1, steps_per_call: int = 1) -> Contender:
    step = jaxloss.make_train_step(
        statistics, OPTIMIZER, microbatches=microbatches, steps_per_call=steps_per_call
    )
    batch = shape.batch() if steps_per_call == 1 else _repeated(shape.batch())
    state = step.init(shape.params())
    memory = step.memory_report(state, batch)
    return Contender(step, state, batch, lambda m: m["loss"].value(), memory.temporaries)


def _repeated(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (SCANNED, *leaf.shape)), batch)


def _by_hand(
    state: Any, batch: Any, *, gradient: Callable[..., Any]
) -> tuple[tuple[Array, Any, Any], tuple[Array, ...]]:
    """The same leaves as ours: a counter, parameters, the optimizer; two metrics as two numbers."""
    count, params, opt_state = state
    value, grads = gradient(params, batch)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
    metrics = (value, jnp.ones(()), optax.tree.norm(grads), jnp.ones(()))
    return (count + 1, optax.apply_updates(params, updates), opt_state), metrics


def _first_state(shape: Shape) -> tuple[Array, Params, Any]:
    params = shape.params()
    return jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params)


def by_hand(shape: Shape, gradient: Callable[..., Any] = GRADIENT) -> Contender:
    step = jax.jit(functools.partial(_by_hand, gradient=gradient), donate_argnums=0)
    state, batch = _first_state(shape), shape.batch()
    memory = step.lower(state, batch).compile().memory_analysis()
    temporaries = memory.temp_size_in_bytes if memory else None
    return Contender(step, state, batch, lambda metrics: metrics[0], temporaries)


def by_hand_scanned(shape: Shape) -> Contender:
    one = functools.partial(_by_hand, gradient=GRADIENT)
    step = jax.jit(functools.partial(jax.lax.scan, one), donate_argnums=0)
    batch = _repeated(shape.batch())
    return Contender(step, _first_state(shape), batch, lambda metrics: metrics[0].mean())


def optax_microbatch(shape: Shape) -> Contender:
    mean = optax.microbatching.AccumulationType.MEAN
    gradient = optax.microbatch(GRADIENT, 1, shape.rows // PARTS, mean)
    return by_hand(shape, gradient=gradient)


def optax_multisteps(shape: Shape) -> Contender:
    """One call for each part of the batch."""
    steps = optax.MultiSteps(OPTIMIZER, PARTS)

    @functools.partial(jax.jit, donate_argnums=0)
    def part_of_step(state: Any, batch: Any) -> tuple[Any, Array]:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = steps.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def step(state: Any, parts: list[Any]) -> tuple[Any, list[Array]]:
        values = []
        for part in parts:
            state, value = part_of_step(state, part)
            values.append(value)
        return state, values

    params, (x, y) = shape.params(), shape.batch()
    parts = [(x[i::PARTS], y[i::PARTS]) for i in range(PARTS)]
    return Contender(step, (params, steps.init(params)), parts, lambda v: jnp.stack(v).mean())


def flax_train_state(shape: Shape) -> Contender:
    from flax.training.train_state import TrainState

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Any) -> tuple[TrainState, Array]:
        value, grads = jax.value_and_grad(loss)(state.params, batch)
        return state.apply_gradients(grads=grads), value

    state = TrainState.create(apply_fn=model, params=shape.params(), tx=OPTIMIZER)
    return Contender(step, state, shape.batch(), lambda value: value)


def nnx_optimizer(shape: Shape) -> Contender:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, params: Params) -> None:
            layers = {name: nnx.Dict(jax.tree.map(nnx.Param, p)) for name, p in params.items()}
            self.layers = nnx.Dict(layers)

        def __call__(self, x: Array) -> Array:
            for layer in self.layers.values():
                x = jnp.tanh(x @ layer["kernel"][...] + layer["bias"][...])
            return x

    def objective(network: Network, batch: Any) -> Array:
        return jnp.mean((network(batch[0]) - batch[1]) ** 2)

    def update(network: Network, optimizer: nnx.Optimizer, batch: Any) -> Array:
        value, grads = nnx.value_and_grad(objective)(network, batch)
        optimizer.update(network, grads)
        return value

    network = Network(shape.params())
    state = (network, nnx.Optimizer(network, OPTIMIZER, wrt=nnx.Param))
    step = nnx.jit(update)
    return Contender(
        lambda kept, batch: (kept, step(kept[0], kept[1], batch)),
        state,
        shape.batch(),
        lambda value: value,
    )


def equinox_filter_jit(shape: Shape) -> Contender:
    import equinox as eqx

    class Network(eqx.Module):
        layers: Params

        def __call__(self, x: Array) -> Array:
            return model(self.layers, x)

    def objective(network: Network, batch: Any) -> Array:
        return jnp.mean((network(batch[0]) - batch[1]) ** 2)

    def update(batch: Any, state: Any) -> tuple[Any, Array]:
        network, opt_state = state
        value, grads = eqx.filter_value_and_grad(objective)(network, batch)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (eqx.apply_updates(network, updates), opt_state), value

    network = Network(shape.params())
    state = (network, OPTIMIZER.init(eqx.filter(network, eqx.is_inexact_array)))
    step = eqx.filter_jit(update, donate="all-except-first")
    return Contender(
        lambda kept, batch: step(batch, kept), state, shape.batch(), lambda value: value
    )


STEPS = {
    "ours": ours,
    "by hand, donated": by_hand,
    "flax TrainState, donated": flax_train_state,
    "nnx.jit and nnx.Optimizer": nnx_optimizer,
    "equinox.filter_jit, donated": equinox_filter_jit,
}
SCANS = {
    f"ours, steps_per_call={SCANNED}": functools.partial(ours, steps_per_call=SCANNED),
    f"lax.scan of {SCANNED} by hand": by_hand_scanned,
}
SPLITS = {
    f"ours, microbatches={PARTS}": functools.partial(ours, microbatches=PARTS),
    "optax.microbatch": optax_microbatch,
    "optax.MultiSteps": optax_multisteps,
}


ONE = {"by hand, donated time": 1.10}
MANY = {f"lax.scan of {SCANNED} by hand time": 1.10}
SPLIT = {"optax.microbatch time": 1.05, "optax.microbatch memory": 1.05}
GROUPS = [
    (TINY, STEPS, ONE),
    (MEDIUM, STEPS, ONE),
    (TINY, SCANS, MANY),
    (MEDIUM, SPLITS, SPLIT),
]
OF_PEERS = {"flax": "flax", "nnx": "flax", "equinox": "equinox", "optax": "optax"}


def rows(options: Options) -> Iterator[Row]:
    """All groups; the steps of a group give the same losses, which is checked first."""
    for shape, makers, bounds in GROUPS:
        quick = dataclasses.replace(shape, calls=max(1, shape.calls // 10))
        found = row(quick if options.quick else shape, makers, options)
        yield found if options.quick else dataclasses.replace(found, bounds=bounds)


def row(shape: Shape, makers: dict[str, Callable[[Shape], Contender]], options: Options) -> Row:
    """Time of an update."""
    chosen = [name for name in makers if takes_part(_peer(name), options.peers)]
    reasons = {name: missing(_peer(name)) for name in chosen}
    contenders = {name: make(shape) for name, make in makers.items() if reasons.get(name) == ""}
    programs = {name: _program(shape, contender) for name, contender in contenders.items()}
    alternate(programs, shape.more * options.rounds, tolerance=1e-4)
    found = {name: Measured(note=reason) for name, reason in reasons.items()}
    for name, program in programs.items():
        updates = SCANNED if f"{SCANNED}" in name else 1
        found[name] = Measured.of(program, shape.calls * updates)
    of = f"{shape.layers} layers of {shape.width}, {shape.rows} rows"
    flops = (6 * shape.layers - 2) * shape.rows * shape.width**2  # none for the batch
    name = f"{next(iter(makers))}: {shape.name} model, {of}, an update"
    return Row("step", name, found, Work(flops=flops))


def _peer(name: str) -> str:
    return OF_PEERS.get(name.replace(".", " ").split()[0], "baseline")


def _program(shape: Shape, contender: Contender) -> Program:
    def call() -> Any:
        for _ in range(shape.calls - 1):
            contender()
        return jax.block_until_ready(contender())

    def loss(metrics: Any) -> list[np.ndarray]:
        return [np.asarray(contender.loss(metrics))]

    return Program(call, loss, contender.temporaries)
