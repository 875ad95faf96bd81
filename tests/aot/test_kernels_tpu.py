"""The TPU kernels fit: compiled for four chips by the compiler that comes with `jax[tpu]`."""

import jax
import jax.numpy as jnp
import pytest
from kernels import SHAPES, compiled, operands
from topologies import one, temporaries

from jaxloss.fused import kernels, pallas_tpu, plan
from jaxloss.fused.blocks import Tile

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
# what only a TPU takes: float32, odd sizes
RAGGED = (1001, 200, 50257, jnp.float32, False)


def build(chip, tokens, features, classes, dtype, capped, size=None):
    arguments = operands(tokens, features, classes, dtype, capped, one(CHIPS[chip]))
    made = plan(*arguments[:2], implementation="pallas_tpu", backend="tpu")
    size = size or Tile(made.rows, made.classes)
    return compiled(pallas_tpu, size, arguments), arguments


@pytest.mark.parametrize(
    "chip, shape",
    [
        *((chip, SHAPES["gemma-2"]) for chip in CHIPS),
        ("v5e", SHAPES["llama-3"]),
        ("tpu7x", SHAPES["llama-3"]),
        ("v5e", RAGGED),
    ],
    ids=str,
)
def test_forward_and_backward_fit(chip, shape):
    """In the vector memory that the kernels ask for, with no temporary of [tokens, classes]."""
    program, _ = build(chip, *shape)
    size, text = temporaries(program), program.as_text()
    assert text is not None and text.count("tpu_custom_call") >= 3
    assert size < 2**25
    print(f"{chip} {shape}: {size / 2**20:.1f} MiB")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_largest_features_that_the_plan_takes_fit(dtype):
    """The formula of the tiles is on the safe side."""

    def fits(features):
        hidden = jax.ShapeDtypeStruct((2048, features), dtype)
        return kernels.tile(hidden, jax.ShapeDtypeStruct((features, 4096), dtype)) is not None

    features = max(filter(fits, range(512, 16384, 512)))
    build("v5e", 2048, features, 4096, jnp.dtype(dtype), True)
    print(f"{features} features of {dtype} fit")


def test_a_tile_that_does_not_fit_does_not_compile(monkeypatch):
    monkeypatch.setattr(kernels, "VMEM", 2**24)
    with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
        build("v5e", *SHAPES["gemma-2"], size=Tile(512, 512))


def test_the_highest_precision_compiles():
    with jax.default_matmul_precision("highest"):
        build("v6e", *RAGGED)
