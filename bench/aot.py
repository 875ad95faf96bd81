"""What a TPU would need, by its compiler and without one: bytes of a device, and collectives.

`rows()` asks a fresh process for each case, `python -m bench.aot NUMBER`, which prints JSON.
"""

from __future__ import annotations

import dataclasses
import functools
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
MEBI = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, the chips that it is compiled for, and what one may take beside in- and output."""

    name: str
    loss: str
    chips: str
    most: int
    budget: int | None = None  # that the loss is given
    mesh: tuple[int, int] = (1, 1)  # data, classes


CASES = (
    Case("Gemma 2's head, 8192 tokens", "head", "v5e:2x2", 256 * MEBI, 224 * MEBI),
    Case("Gemma 2's head, 8192 tokens", "head", "v6e:2x2", 256 * MEBI, 224 * MEBI),
    Case("Gemma 2's head, 32768 tokens", "head", "v5e:4x4", 640 * MEBI, 480 * MEBI, (4, 4)),
    Case("CLIP of 65536", "clip_loss", "v6e:2x2", 700 * MEBI),
    Case("SigLIP of 65536", "siglip_loss", "v6e:2x2", 700 * MEBI),
)


def rows() -> Iterator[Row]:
    """A row for each case; without libtpu they say so."""
    from bench.workload import child

    for number, case in enumerate(CASES):
        ours = Measured(note="libtpu is not installed")
        if find_spec("libtpu") is not None:
            ours = Measured(**child("bench.aot", str(number), **QUIET))
        if ours.temporaries is not None and ours.temporaries > case.most:
            ours.note = f"MISSED: {ours.temporaries / MEBI:.0f} MiB, bound {case.most / MEBI:.0f}"
        name = f"{case.name}, bfloat16, compiled for TPU {case.chips}"
        yield Row("fused", name, {"jaxloss": ours}, note="bytes of a device")


def collectives(text: str) -> dict[str, float]:
    """How many of each kind a compiled program has."""
    found = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: float(count) for name, count in found.items() if count}


def head(case: Case, mesh: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A linear head's loss, and its arrays: batch by batch, classes by classes."""
    import jaxloss

    rows, columns = case.mesh
    tokens, features, classes = dataclasses.astuple(shapes.GEMMA_2)[1:]
    how = jaxloss.fused.plan(
        _struct((tokens, features), "bfloat16"),
        _struct((features, classes // columns), "bfloat16"),
        memory_budget=case.budget,
        backend="tpu",
        per_token=columns > 1,
    )
    loss = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=how)
    if columns > 1:
        loss = functools.partial(
            jaxloss.sharded_linear_softmax_cross_entropy,
            mesh=mesh,
            data_axis="data",
            class_axis="classes",
            schedule=how,
        )
    return loss, [
        _struct((tokens * rows, features), "bfloat16", mesh, "data"),
        _struct((features, classes), "bfloat16", mesh, None, "classes"),
        _struct((tokens * rows,), "int32", mesh, "data"),
    ]


def pairs(case: Case, mesh: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A contrastive loss by blocks, and both towers."""
    import jaxloss

    scalars = {"logit_scale": 10.0} | ({"logit_bias": -10.0} if "siglip" in case.loss else {})
    loss = functools.partial(getattr(jaxloss, case.loss), schedule="blocks", **scalars)
    tower = _struct((shapes.BIG_CLIP.batch, shapes.BIG_CLIP.features), "bfloat16", mesh)
    return loss, [tower, tower]


def _struct(shape: tuple[int, ...], dtype: str, mesh: Any = None, *axes: str | None) -> Any:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    place = None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def main(number: str) -> None:
    os.environ.update(QUIET)
    import jax
    import numpy as np

    topologies = importlib.import_module("jax.experimental.topologies")
    case = CASES[int(number)]
    chips = topologies.get_topology_desc(platform="tpu", topology_name=case.chips).devices
    count = case.mesh[0] * case.mesh[1]
    mesh = jax.sharding.Mesh(np.reshape(chips[:count], case.mesh), ("data", "classes"))
    loss, arrays = (head if case.loss == "head" else pairs)(case, mesh)
    places = None, tuple(array.sharding for array in arrays[:2])
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=places)
    program = gradient.lower(*arrays).compile()
    figures = collectives(program.as_text() or "")
    memory = program.memory_analysis()
    bytes_of_one = memory.temp_size_in_bytes if memory else None
    print(json.dumps({"temporaries": bytes_of_one, "figures": figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
