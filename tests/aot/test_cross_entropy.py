"""Heads of large vocabularies, compiled for TPUs that are not here."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from topologies import MEBI, collectives, mesh, one, temporaries

import jaxloss
from jaxloss import fused

FEATURES, CLASSES = 2304, 256000  # Gemma 2


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
    place = one(chip)
    loss = functools.partial(jaxloss.linear_softmax_cross_entropy, memory_budget=224 * MEBI)
    hidden = jax.ShapeDtypeStruct((8192, FEATURES), jnp.bfloat16)
    head = jax.ShapeDtypeStruct((FEATURES, CLASSES), jnp.bfloat16)
    how = fused.plan(hidden, head, memory_budget=224 * MEBI, backend="tpu")
    size = temporaries(compiled(functools.partial(loss, schedule=how), 8192, place, place, place))
    print(f"{chip}: {how}; {size / MEBI:.0f} MiB of temporaries")
    assert size <= 256 * MEBI


@pytest.mark.parametrize(
    "chip, shape, tokens, most",
    [("v5e:4x4", (4, 4), 32768, 640), ("v5e:16x16", (16, 16), 131072, 640)],
)
def test_data_by_vocabulary_parallel(chip, shape, tokens, most):
    """No device gathers the head or the scores: what travels is sums of vectors and gradients."""
    both = mesh(chip, data=shape[0], model=shape[1])
    hidden, head, labels = (
        NamedSharding(both, spec) for spec in (P("data", None), P(None, "model"), P("data"))
    )
    own = (
        jax.ShapeDtypeStruct((tokens // shape[0], FEATURES), jnp.bfloat16),
        jax.ShapeDtypeStruct((FEATURES, CLASSES // shape[1]), jnp.bfloat16),
    )
    how = fused.plan(*own, memory_budget=480 * MEBI, backend="tpu", per_token=True)
    loss = functools.partial(
        jaxloss.sharded_linear_softmax_cross_entropy,
        mesh=both,
        data_axis="data",
        class_axis="model",
        schedule=how,
    )
    program = compiled(loss, tokens, hidden, head, labels)
    size, found = temporaries(program), collectives(program)
    print(f"{chip}: {how}; {size / MEBI:.0f} MiB of temporaries on each device, {dict(found)}")
    assert size <= most * MEBI
    assert found.keys() == {"all-reduce"}
