"""Losses across devices: bytes and collectives of each, and times on real devices.

On CPU the eight devices are fake ones in a fresh process, whose times say nothing and are not
kept. `python -m bench.suites.sharded` is that process, with `growing` that of the scaling suite.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
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
LEFT = "jaxloss, left to XLA"  # the loss of one device, of arrays that are split
FLAGS = f"--xla_force_host_platform_device_count={DEVICES}"


@dataclasses.dataclass(frozen=True)
class Placed:
    """Contenders of arrays of these shapes, split over a mesh like this."""

    mesh: tuple[int, int]  # data, model
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[PartitionSpec, ...]
    contenders: dict[str, Callable[..., Any]]


def rows(options: Options) -> Iterator[Row]:
    yield from _in_a_process("sharded")


def growing() -> Iterator[Row]:
    """As many rows for each device, and more devices."""
    return _in_a_process("scaling", "growing")


def _in_a_process(suite: str, *arguments: str) -> Iterator[Row]:
    found = child("bench.suites.sharded", *arguments, XLA_FLAGS=FLAGS, JAX_PLATFORMS="cpu")
    if "note" in found:
        yield Row(suite, f"fake devices: {DEVICES}", {"jaxloss": Measured(note=found["note"])})
        return
    for name, contenders in found.items():
        measured = {who: Measured(**fields) for who, fields in contenders.items()}
        yield Row(suite, name, measured, note="bytes of a device")


def placements() -> dict[str, Placed]:
    """Ours across devices, and what XLA makes of the losses of one device, ours and the peer's."""
    batch, both = PartitionSpec("data"), PartitionSpec("data", "model")
    columns, everywhere = PartitionSpec(None, "model"), PartitionSpec()
    label = jaxloss.softmax_cross_entropy_with_integer_labels
    theirs = optax.losses.softmax_cross_entropy_with_integer_labels
    rows, classes, features = 1024, 16_384, 256
    axes = {"data_axis": "data", "class_axis": "model"}
    dense = {LEFT: label, "optax": lambda x, y: theirs(x, y).mean()}
    split = {"jaxloss": functools.partial(jaxloss.sharded_softmax_cross_entropy, **axes)}
    head = {
        LEFT: jaxloss.linear_softmax_cross_entropy,
        "optax": lambda h, w, y: theirs(h @ w, y).mean(),
    }
    split_head = {
        "jaxloss": functools.partial(jaxloss.sharded_linear_softmax_cross_entropy, **axes)
    }
    by_ring = functools.partial(
        jaxloss.sharded_clip_loss, logit_scale=10.0, data_axis=("data", "model")
    )
    gathered = functools.partial(by_ring, columns="gathered")
    clip = {
        "jaxloss": by_ring,
        "jaxloss, gathered": gathered,
        "baseline: everything at once": _clip,
    }
    rows_of, logits = PartitionSpec(("data", "model")), (rows, classes)
    arrays = (rows, features), (features, classes), (rows,)
    return {
        "cross entropy, batch over 8": Placed((8, 1), (logits, (rows,)), (batch, batch), dense),
        "cross entropy, batch over 2, classes over 4": Placed(
            (2, 4), (logits, (rows,)), (both, batch), split | dense
        ),
        "linear head, batch over 8": Placed((8, 1), arrays, (batch, everywhere, batch), head),
        "linear head, batch over 2, classes over 4": Placed(
            (2, 4), arrays, (batch, columns, batch), split_head | head
        ),
        "CLIP of 2048, batch over 8": Placed((8, 1), ((2048, 256),) * 2, (rows_of,) * 2, clip),
    }


def more_devices() -> dict[str, Placed]:
    """CLIP by a ring, and a head with its classes over the devices, of the same share of each."""
    batch, columns = PartitionSpec("data"), PartitionSpec(None, "model")
    axes = {"data_axis": "data", "class_axis": "model"}
    clip = functools.partial(jaxloss.sharded_clip_loss, logit_scale=10.0, data_axis="data")
    linear = functools.partial(
        jaxloss.sharded_linear_softmax_cross_entropy, **axes, memory_budget=2**21
    )
    found = {}
    for n in (2, 4, 8):
        found[f"devices of CLIP by a ring, 256 pairs each: {n}"] = Placed(
            (n, 1), ((256 * n, 128),) * 2, (batch, batch), {"jaxloss": clip}
        )
        found[f"devices of a linear head, 2048 classes each: {n}"] = Placed(
            (1, n),
            ((512, 128), (128, 2048 * n), (512,)),
            (batch, columns, batch),
            {"jaxloss": linear},
        )
    return found


def _clip(images: jax.Array, texts: jax.Array) -> jax.Array:
    s = 10 * images @ texts.T
    both = jax.nn.logsumexp(s, axis=0) + jax.nn.logsumexp(s, axis=1)
    return jnp.mean(both / 2 - jnp.diagonal(s))


def measured(placed: Placed) -> dict[str, dict[str, Any]]:
    """Bytes of a device and collectives of value and gradient, and whether all agree."""
    devices = np.array(jax.devices()[: math.prod(placed.mesh)]).reshape(placed.mesh)
    mesh, rng = Mesh(devices, ("data", "model")), np.random.default_rng(0)
    arrays = [
        jax.device_put(_array(shape, rng), NamedSharding(mesh, spec))
        for shape, spec in zip(placed.shapes, placed.specs, strict=True)
    ]
    by = tuple(i for i, array in enumerate(arrays) if array.dtype == jnp.float32)
    # the gradients are split as their arrays are, for everyone
    out = NamedSharding(mesh, PartitionSpec()), tuple(arrays[i].sharding for i in by)
    found, first = {}, None
    for name, f in placed.contenders.items():
        with jax.set_mesh(mesh):
            program = jax.jit(jax.value_and_grad(f, by), out_shardings=out)
            program = program.lower(*arrays).compile()
            value, grads = program(*arrays)
            norms = float(value), *(float(jnp.linalg.norm(grad)) for grad in grads)
        memory = program.memory_analysis()
        first = norms if first is None else first
        right = np.allclose(norms, first, rtol=1e-4)
        found[name] = {
            "temporaries": memory.temp_size_in_bytes if memory else None,
            "figures": collectives(program.as_text() or ""),
            "note": "" if right else f"wrong: {norms}, not {first}",
        }
    return found


def _array(shape: tuple[int, ...], rng: np.random.Generator) -> jax.Array:
    if len(shape) == 1:
        return jnp.asarray(rng.integers(0, 1000, shape), jnp.int32)
    return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.1)


if __name__ == "__main__":
    assert FLAGS in os.environ.get("XLA_FLAGS", "")
    wanted = more_devices() if "growing" in sys.argv else placements()
    print(json.dumps({name: measured(placed) for name, placed in wanted.items()}))
