"""Contrastive losses of large batches, compiled for TPUs that are not here."""

import os

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import jaxloss

MEBI = 2**20
FEATURES = 512


def devices(name):
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def compiled(loss, units, rows, scalar) -> Any:
    """Value and gradients of bfloat16 embeddings and a learned scale."""
    embeddings = jax.ShapeDtypeStruct((units, FEATURES), jnp.bfloat16, sharding=rows)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=scalar)
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    return gradient.lower(embeddings, embeddings, scale).compile()


def clip(x, z, t):
    return jaxloss.clip_loss(x, z, logit_scale=t)


def siglip(x, z, t):
    return jaxloss.siglip_loss(x, z, logit_scale=t, logit_bias=-t)


@pytest.mark.parametrize("loss", [clip, siglip])
def test_65536_pairs_fit_one_v6e(loss):
    """All pairs at once take 48 GiB and do not compile."""
    one = SingleDeviceSharding(devices("v6e:2x2")[0])
    program = compiled(loss, 65536, one, one)
    needed = program.memory_analysis().temp_size_in_bytes
    print(f"{loss.__name__}: {needed / MEBI:.0f} MiB of temporaries")
    assert needed <= 700 * MEBI


@pytest.mark.parametrize(("columns", "most"), [("ring", 128), ("gathered", 700)])
def test_65536_pairs_over_sixteen_v5e(columns, most):
    """A ring has no array of all rows; both send as often as they say."""
    mesh = Mesh(devices("v5e:4x4"), ("data",), axis_types=(AxisType.Auto,))
    spread, everywhere = (NamedSharding(mesh, PartitionSpec(*p)) for p in (("data",), ()))
    loss = functools.partial(
        jaxloss.sharded_clip_loss, mesh=mesh, axis_name="data", columns=columns
    )
    program = compiled(lambda x, z, t: loss(x, z, logit_scale=t), 65536, spread, everywhere)
    needed, text = program.memory_analysis().temp_size_in_bytes, program.as_text()
    print(f"{columns}: {needed / MEBI:.0f} MiB of temporaries on each device")
    assert needed <= most * MEBI
    gathers = re.findall(r" all-gather(?:-start)?\(", text)
    permutes = re.findall(r" collective-permute(?:-start)?\(", text)
    assert bool(permutes) == (columns == "ring") and bool(gathers) == (columns == "gathered")
