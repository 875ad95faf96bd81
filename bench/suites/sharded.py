"""Losses across devices: bytes and collectives of each, and times on real devices.

On CPU the eight devices are fake ones in a fresh process, whose times say nothing and are not
kept. `python -m bench.suites.sharded` is that process.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxloss
from bench.aot import collectives
from bench.rows import Measured, Row
from bench.workload import Options, child

DEVICES = 8
FLAGS = f"--xla_force_host_platform_device_count={DEVICES}"


@dataclasses.dataclass(frozen=True)
class Placed:
    """Contenders of arrays of these shapes, split over a mesh like this."""

    mesh: tuple[int, int]  # data, model
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[PartitionSpec, ...]
    contenders: dict[str, Callable[..., Any]]


def rows(options: Options) -> Iterator[Row]:
    found = child("bench.suites.sharded", XLA_FLAGS=FLAGS, JAX_PLATFORMS="cpu")
    if "note" in found:
        yield Row("sharded", f"{DEVICES} fake devices", {"jaxloss": Measured(note=found["note"])})
        return
    for name, contenders in found.items():
        measured = {who: Measured(**fields) for who, fields in contenders.items()}
        yield Row("sharded", name, measured, note="bytes of a device")


def placements() -> dict[str, Placed]:
    batch, both = PartitionSpec("data"), PartitionSpec("data", "model")
    columns, everywhere = PartitionSpec(None, "model"), PartitionSpec()
    label = jaxloss.softmax_cross_entropy_with_integer_labels
    theirs = optax.losses.softmax_cross_entropy_with_integer_labels
    rows, classes, features = 1024, 16_384, 256
    dense = {"jaxloss": label, "optax": lambda x, y: theirs(x, y).mean()}
    linear = {
        "jaxloss": jaxloss.linear_softmax_cross_entropy,
        "optax": lambda h, w, y: theirs(h @ w, y).mean(),
    }
    clip = {
        "jaxloss": lambda x, y: jaxloss.clip_loss(x, y, logit_scale=10.0),
        "baseline: everything at once": _clip,
    }
    logits, head = (rows, classes), ((rows, features), (features, classes), (rows,))
    return {
        "cross entropy, batch over 8": Placed(
            (8, 1), (logits, (rows,)), (batch, batch), dense
        ),
        "cross entropy, batch over 2, classes over 4": Placed(
            (2, 4), (logits, (rows,)), (both, batch), dense
        ),
        "linear head, batch over 8": Placed((8, 1), head, (batch, everywhere, batch), linear),
        "linear head, batch over 2, classes over 4": Placed(
            (2, 4), head, (batch, columns, batch), linear
        ),
        "CLIP of 2048, batch over 8": Placed((8, 1), ((2048, 256),) * 2, (batch,) * 2, clip),
    }  # fmt: skip


def _clip(images: jax.Array, texts: jax.Array) -> jax.Array:
    s = 10 * images @ texts.T
    both = jax.nn.logsumexp(s, axis=0) + jax.nn.logsumexp(s, axis=1)
    return jnp.mean(both / 2 - jnp.diagonal(s))


def measured(placed: Placed) -> dict[str, dict[str, Any]]:
    """Bytes of a device and collectives of value and gradient, and whether all agree."""
    devices = np.array(jax.devices()[:DEVICES]).reshape(placed.mesh)
    mesh, rng = Mesh(devices, ("data", "model")), np.random.default_rng(0)
    arrays = [
        jax.device_put(_array(shape, rng), NamedSharding(mesh, spec))
        for shape, spec in zip(placed.shapes, placed.specs, strict=True)
    ]
    by = tuple(i for i, array in enumerate(arrays) if array.dtype == jnp.float32)
    found, first = {}, None
    for name, f in placed.contenders.items():
        program = jax.jit(jax.value_and_grad(f, by)).lower(*arrays).compile()
        memory = program.memory_analysis()
        value = float(program(*arrays)[0])
        first = value if first is None else first
        wrong = abs(value - first) > 1e-4 * abs(first)
        found[name] = {
            "temporaries": memory.temp_size_in_bytes if memory else None,
            "figures": collectives(program.as_text() or ""),
            "note": f"wrong: {value}, not {first}" if wrong else "",
        }
    return found


def _array(shape: tuple[int, ...], rng: np.random.Generator) -> jax.Array:
    if len(shape) == 1:
        return jnp.asarray(rng.integers(0, 1000, shape), jnp.int32)
    return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.1)


if __name__ == "__main__":
    assert FLAGS in os.environ.get("XLA_FLAGS", "")
    print(json.dumps({name: measured(placed) for name, placed in placements().items()}))
