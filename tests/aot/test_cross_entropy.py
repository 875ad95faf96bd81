"""Heads of large vocabularies, compiled for TPUs that are not here."""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": "disabled"}
import collections
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss import fused

FEATURES, CLASSES = 2304, 256000  # Gemma 2
MEBI = 2**20
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("


def devices(name):
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def compiled(loss, tokens, hidden, head, labels) -> Any:
    """Value and gradients of a bfloat16 head, which stay where the arguments are."""
    like = jax.ShapeDtypeStruct
    arrays = (
        like((tokens, FEATURES), jnp.bfloat16, sharding=hidden),
        like((FEATURES, CLASSES), jnp.bfloat16, sharding=head),
        like((tokens,), jnp.int32, sharding=labels),
    )
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(None, (hidden, head)))
    return gradient.lower(*arrays).compile()


@pytest.mark.parametrize("chip", ["v5e:2x2", "v6e:2x2"])
def test_the_head_of_gemma_2_fits_in_256_mib(chip):
    """Its logits alone take 4,000 MiB in bfloat16."""
    one = SingleDeviceSharding(devices(chip)[0])
    loss = functools.partial(jaxloss.linear_softmax_cross_entropy, memory_budget=224 * MEBI)
    hidden = jax.ShapeDtypeStruct((8192, FEATURES), jnp.bfloat16)
    head = jax.ShapeDtypeStruct((FEATURES, CLASSES), jnp.bfloat16)
    how = fused.plan(hidden, head, memory_budget=224 * MEBI, backend="tpu")
    needed = compiled(functools.partial(loss, schedule=how), 8192, one, one, one)
    size = needed.memory_analysis().temp_size_in_bytes
    print(f"{chip}: {how}; {size / MEBI:.0f} MiB of temporaries")
    assert size <= 256 * MEBI


@pytest.mark.parametrize(
    "chip, shape, tokens, most",
    [("v5e:4x4", (4, 4), 32768, 640), ("v5e:16x16", (16, 16), 131072, 640)],
)
def test_data_by_vocabulary_parallel(chip, shape, tokens, most):
    """No device gathers the head or the scores: what travels is sums of vectors and gradients."""
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh = Mesh(np.reshape(devices(chip), shape), ("data", "model"), axis_types=kinds)
    hidden, head, labels = (
        NamedSharding(mesh, spec) for spec in (P("data", None), P(None, "model"), P("data"))
    )
    own = (
        jax.ShapeDtypeStruct((tokens // shape[0], FEATURES), jnp.bfloat16),
        jax.ShapeDtypeStruct((FEATURES, CLASSES // shape[1]), jnp.bfloat16),
    )
    how = fused.plan(*own, memory_budget=480 * MEBI, backend="tpu", per_token=True)
    loss = functools.partial(
        jaxloss.sharded_linear_softmax_cross_entropy,
        mesh=mesh,
        data_axis="data",
        class_axis="model",
        schedule=how,
    )
    program = compiled(loss, tokens, hidden, head, labels)
    size = program.memory_analysis().temp_size_in_bytes
    found = collections.Counter(re.findall(COLLECTIVE, program.as_text()))
    print(f"{chip}: {how}; {size / MEBI:.0f} MiB of temporaries on each device, {dict(found)}")
    assert size <= most * MEBI
    assert found.keys() == {"all-reduce"}
