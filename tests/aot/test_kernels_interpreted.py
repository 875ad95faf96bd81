"""The Hopper kernels, interpreted: from JAX 0.11 on, which has it in public, on any machine."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# each warpgroup that waits takes a thread of XLA, which has one for each device
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from kernels import value_and_gradients

from jaxloss.fused import hopper, kernels, pallas_gpu
from jaxloss.fused.blocks import Tile

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# what a copy reads beyond an array is 0, as on the device
INTERPRETER = dict(
    detect_races=True, out_of_bounds_reads="uninitialized", uninitialized_memory="zero"
)


def truth(hidden, head, labels, bias, cap, temperature, g_others, g_own):
    """In NumPy's float64: the statistics, and the gradients of g_others·others + g_own·own."""
    hidden, head, bias = (np.asarray(a, np.float64) for a in (hidden, head, bias))
    z, hit = hidden @ head + bias, np.arange(head.shape[1]) == labels[:, None]
    absent = np.isneginf(z)
    v = np.where(absent, 0, z) / cap
    x = np.where(absent, -np.inf, cap * np.tanh(v) / temperature)
    others, own = np.log(np.sum(np.where(hit, 0, np.exp(x)), 1)), x[hit]
    in_x = np.where(hit, g_own[:, None], g_others[:, None] * np.exp(x - others[:, None]))
    slope = 1 - np.tanh(v) ** 2
    in_z = in_x * slope / temperature
    in_cap = np.sum(in_x * (np.tanh(v) - v * slope)) / temperature
    in_temperature = -np.sum(in_x * np.where(absent, 0, x)) / temperature
    return (others, own), (in_z @ head.T, hidden.T @ in_z, in_z.sum(0), in_cap, in_temperature)


@pytest.mark.parametrize(
    "tokens, features, classes, dtype", [(130, 192, 448, "bfloat16"), (3, 64, 64, "float16")]
)
def test_on_hopper_it_is_the_dense_head(tokens, features, classes, dtype, monkeypatch, capfd):
    """Ragged tiles and blocks, an absent class, every gradient to 1.2 of rounding; and no races."""
    monkeypatch.setattr(hopper, "PART", kernels.COLUMNS)  # compiles faster, and is the same
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(tokens, features)), dtype)
    head = jnp.asarray(rng.normal(size=(features, classes)) / 4, dtype)
    labels, bias = rng.integers(2, classes, size=tokens), rng.normal(size=classes).astype("f")
    g_others, g_own = rng.normal(size=(2, tokens)).astype("f")
    bias[1] = -np.inf
    options = {"bias": bias, "logit_softcap": np.float32(3), "temperature": np.float32(0.5)}
    options = {name: jnp.asarray(value) for name, value in options.items()}
    run = jax.jit(value_and_gradients(pallas_gpu, Tile(tokens, kernels.COLUMNS)))
    interpreter = vars(plgpu)["InterpretGPUParams"](**INTERPRETER)  # not in the oldest JAX
    with kernels.interpreted(interpreter):
        found, (*of_arrays, _, of_options) = run(
            hidden, head, jnp.asarray(labels, jnp.int32), options, (g_others, g_own)
        )
    wanted, wanted_gradients = truth(hidden, head, labels, bias, 3, 0.5, g_others, g_own)
    got = *found[:2], *of_arrays, *(of_options[name] for name in options)
    # the last two are one number each, of terms of both signs
    limits = [1e-6, 1e-6, 0, 0, 2e-6, 2e-5, 2e-5]
    for value, want, limit in zip(got, (*wanted, *wanted_gradients), limits, strict=True):
        error = np.linalg.norm(np.asarray(value, np.float64) - want)
        lost = np.linalg.norm(np.asarray(jnp.asarray(want, value.dtype), np.float64) - want)
        assert error <= 1.2 * lost + limit * np.linalg.norm(want)
    assert "RACE" not in "".join(capfd.readouterr())
