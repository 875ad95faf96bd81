"""Contrastive losses of large batches, compiled for TPUs that are not here."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from topologies import MEBI, collectives, mesh, one, temporaries

import jaxloss

FEATURES = 512


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
    place = one("v6e:2x2")
    needed = temporaries(compiled(loss, 65536, place, place))
    print(f"{loss.__name__}: {needed / MEBI:.0f} MiB of temporaries")
    assert needed <= 700 * MEBI


@pytest.mark.parametrize("columns, most", [("ring", 128), ("gathered", 700)])
@pytest.mark.parametrize("chips, devices", [("v5e:4x4", 16), ("v5e:16x16", 256)])
def test_65536_pairs_over_many_v5e(chips, devices, columns, most):
    """A ring has no array of all rows; both send as often as they say."""
    data = mesh(chips, data=devices)
    spread, everywhere = (NamedSharding(data, PartitionSpec(*p)) for p in (("data",), ()))
    loss = functools.partial(
        jaxloss.sharded_clip_loss, mesh=data, data_axis="data", columns=columns
    )
    program = compiled(lambda x, z, t: loss(x, z, logit_scale=t), 65536, spread, everywhere)
    needed, found = temporaries(program), collectives(program)
    print(f"{chips}, {columns}: {needed / MEBI:.0f} MiB of temporaries a device, {dict(found)}")
    assert needed <= most * MEBI
    assert bool(found["collective-permute"]) == (columns == "ring")
    assert bool(found["all-gather"]) == (columns == "gathered")
