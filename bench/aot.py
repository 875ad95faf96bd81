"""What a TPU would need, by its compiler and without one: bytes of a device, and collectives.

`rows()` asks a fresh process for each case, `python -m bench.aot CASE`, which prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from bench import shapes
from bench.rows import Measured, Row

COLLECTIVES = ("all-gather", "all-reduce", "collective-permute", "reduce-scatter", "all-to-all")
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# a case, the topology that it is compiled for, and the bytes that it may take beside in- and output
CASES = {
    "Gemma 2's head, least memory": ("linear", "v5e:2x2", 256 * 2**20),
    "Gemma 2's head, least memory ": ("linear", "v6e:1x1", 256 * 2**20),
    "CLIP of 65536": ("clip", "v6e:1x1", 700 * 2**20),
}


def rows() -> Iterator[Row]:
    """A row for each case; without libtpu they say so."""
    from bench.workload import child

    for case, (_, topology, most) in CASES.items():
        name = f"{case.strip()}, compiled for TPU {topology.split(':')[0]}, bfloat16"
        if find_spec("libtpu") is None:
            yield Row("fused", name, {"jaxloss": Measured(note="libtpu is not installed")})
            continue
        found = child("bench.aot", case, **QUIET)
        temporaries = found.get("temporaries")
        note = found.get("note", "")
        if temporaries is not None and temporaries > most:
            note = f"{temporaries / 2**20:.0f} MiB, bound {most / 2**20:.0f} MiB"
        yield Row("fused", name, {"jaxloss": Measured(temporaries=temporaries, note=note)})


def collectives(text: str) -> dict[str, float]:
    """How many of each kind a compiled program has."""
    found = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: float(count) for name, count in found.items() if count}


def program(kind: str) -> tuple[Callable[..., Any], list[tuple[tuple[int, ...], str]]]:
    """What is differentiated, and the shapes and dtypes of its arrays."""
    import jax

    import jaxloss
    from bench.suites.fused import LEAST, having

    if kind == "linear":
        head = shapes.GEMMA_2
        loss, _ = having(jaxloss.linear_softmax_cross_entropy, LEAST)
        sizes = (head.tokens, head.features), (head.features, head.classes), (head.tokens,)
        return jax.value_and_grad(loss, (0, 1)), [
            *((s, "bfloat16") for s in sizes[:2]),
            (sizes[2], "int32"),
        ]
    pairs = shapes.BIG_CLIP
    loss, _ = having(jaxloss.clip_loss, {"schedule": "blocks"})
    size = (pairs.batch, pairs.features)
    gradient = jax.value_and_grad(lambda x, y: loss(x, y, logit_scale=10.0), (0, 1))
    return gradient, [(size, "bfloat16")] * 2


def main(case: str) -> None:
    os.environ.update(QUIET)
    import jax
    from jax.sharding import SingleDeviceSharding

    topologies = importlib.import_module("jax.experimental.topologies")
    kind, topology, _ = CASES[case]
    options = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith("1x1") else {}
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, **options
    ).devices
    f, arrays = program(kind)
    place = SingleDeviceSharding(devices[0])
    structs = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype in arrays]
    memory = jax.jit(f).lower(*structs).compile().memory_analysis()
    print(json.dumps({"temporaries": memory.temp_size_in_bytes if memory else None}))


if __name__ == "__main__":
    main(*sys.argv[1:])
