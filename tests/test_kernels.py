"""The kernels of linear heads, interpreted; `tests/aot` compiles them for their devices."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.fused import Plan, kernels, plan, schedules

SHAPES = [(2048, 2304, 256000), (1, 1, 1), (1001, 200, 50257), (8192, 4096, 128256)]


def operands(rng, tokens, features, classes, dtype="float32"):
    hidden, head = rng.normal(size=(tokens, features)), rng.normal(size=(features, classes))
    return (
        jnp.asarray(hidden, dtype),
        jnp.asarray(head, dtype),
        jnp.asarray(rng.integers(classes, size=tokens), jnp.int32),
    )


def truth(hidden, head, labels, bias, cap, temperature, g):
    """Of Σ g·ℓ in NumPy's float64: the values, and all gradients."""
    hidden, head, bias, g = (np.asarray(a, np.float64) for a in (hidden, head, bias, g))
    z = hidden @ head + bias
    absent, hit = np.isneginf(z), np.arange(z.shape[1]) == np.asarray(labels)[:, None]
    v = np.where(absent, 0, z) / cap
    x = np.where(absent, -np.inf, cap * np.tanh(v) / temperature)
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    in_x = (p - hit) * g[:, None]
    slope = 1 - np.tanh(v) ** 2
    in_z = in_x * slope / temperature
    in_cap = np.sum(in_x * (np.tanh(v) - v * slope)) / temperature
    in_temperature = -np.sum(in_x * np.where(absent, 0, x)) / temperature
    gradients = in_z @ head.T, hidden.T @ in_z, in_z.sum(0), in_cap, in_temperature
    return -np.log(p[hit]), gradients


def close(got, want, rtol):
    got, want = np.asarray(got, np.float64), np.asarray(want)
    assert np.linalg.norm(got - want) <= rtol * np.linalg.norm(want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_tpu_it_is_the_dense_loss(dtype, rng, capfd):
    """Ragged tiles of tokens and classes, an absent class, every gradient; and no races.

    Gradients of halves lose at most 1.2 of what rounding the exact ones does.
    """
    from jax.experimental.pallas import tpu as pltpu

    hidden, head, labels = operands(rng, 40, 24, 300, dtype)
    labels = jnp.where(labels == 1, 0, labels)
    bias, g = rng.normal(size=300).astype("f"), rng.normal(size=40).astype("f")
    bias[1] = -np.inf

    def loss(hidden, head, bias, cap, temperature):
        return jaxloss.linear_softmax_cross_entropy(
            hidden,
            head,
            labels,
            bias=bias,
            logit_softcap=cap,
            temperature=temperature,
            schedule=Plan("tiles", 16, 128, "pallas_tpu"),
            reduction=None,
        )

    @jax.jit
    def run(*arguments):
        values, pull = jax.vjp(loss, *arguments)
        return values, pull(g)

    options = jnp.float32(3), jnp.float32(0.5)
    with kernels.interpreted(pltpu.InterpretParams(detect_races=True)):
        values, gradients = run(hidden, head, jnp.asarray(bias), *options)
    wanted, wanted_gradients = truth(hidden, head, labels, bias, 3, 0.5, g)
    close(values, wanted, 2e-7)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        rounded = np.linalg.norm(want - np.asarray(jnp.asarray(want, got.dtype), np.float64))
        close(got, want, max(2e-6, 1.2 * rounded / np.linalg.norm(want)))
    assert "RACE" not in "".join(capfd.readouterr())


def test_under_vmap_a_kernel_runs_for_each(rng):
    from jax.experimental.pallas import tpu as pltpu

    hidden, head, labels = operands(rng, 6, 3, 20)
    batches = hidden.reshape(2, 3, 3), head, labels.reshape(2, 3)

    def gradients(implementation, *arrays):
        loss = functools.partial(jaxloss.linear_softmax_cross_entropy, logit_softcap=3.0)
        f = jax.value_and_grad(functools.partial(loss, implementation=implementation), (0, 1))
        return jax.jit(jax.vmap(f, (0, None, 0)))(*arrays)

    with kernels.interpreted(pltpu.InterpretParams()):
        got = gradients("pallas_tpu", *batches)
    for each, want in zip(*map(jax.tree.leaves, (got, gradients(None, *batches))), strict=True):
        close(each, want, 2e-6)


def test_a_token_a_feature_and_a_class():
    from jax.experimental.pallas import tpu as pltpu

    def loss(hidden):
        one = jnp.zeros(1, jnp.int32)
        loss = jaxloss.linear_softmax_cross_entropy
        return loss(hidden, jnp.ones((1, 1)), one, implementation="pallas_tpu")

    with kernels.interpreted(pltpu.InterpretParams()):
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.ones((1, 1)))
    assert value == 0 and gradient == 0


@pytest.mark.parametrize("name", kernels.BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_supported_runs_the_kernel(name, shape):
    """A call of Pallas for the statistics, and more for the gradients; else the reason."""
    tokens, features, classes = shape
    hidden = jax.ShapeDtypeStruct((tokens, features), jnp.bfloat16)
    head = jax.ShapeDtypeStruct((features, classes), jnp.bfloat16)
    backend = kernels.BACKENDS[name]
    if kernels.against(name, hidden, head):
        with pytest.raises(ValueError, match="in multiples of 64"):
            plan(hidden, head, implementation=name, backend=backend)
        return
    made = plan(hidden, head, implementation=name, backend=backend)
    assert made.implementation == name and name in str(made)

    def loss(hidden, head):
        labels = jnp.zeros(tokens, jnp.int32)
        return jaxloss.linear_softmax_cross_entropy(hidden, head, labels, schedule=made)

    jaxpr = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, head))
    call = {"tpu": "pallas_call", "gpu": "wgmma_accumulator"}[backend]
    assert jaxpr.count(call) >= 2
    assert f"{tokens},{classes}]" not in jaxpr or 1 in shape


LIKE = jax.ShapeDtypeStruct((2048, 4096), jnp.bfloat16)
HEAD = jax.ShapeDtypeStruct((4096, 128256), jnp.bfloat16)


def test_no_kernel_is_chosen_and_the_plan_says_why():
    for backend, why in [
        ("cpu", "no kernel is for cpu"),
        ("tpu", "pallas_tpu has not been timed on hardware"),
        ("gpu", "mosaic_gpu has not been timed on hardware"),
    ]:
        made = plan(LIKE, HEAD, backend=backend)
        assert made.implementation == "xla" and why in made.reason
    ragged = jax.ShapeDtypeStruct((4096, 50257), jnp.bfloat16)
    assert "multiples of 64" in plan(LIKE, ragged, backend="gpu").reason


def double(like):
    return jax.ShapeDtypeStruct(like.shape, jnp.float64)


@pytest.mark.parametrize(
    "arrays, given, why",
    [
        ((LIKE, HEAD), {"implementation": "pallas_tpu"}, "runs on tpu, and the backend is cpu"),
        ((LIKE, HEAD), {"implementation": "mosaic_gpu"}, "runs on gpu, and the backend is cpu"),
        (
            (double(LIKE), double(HEAD)),
            {"implementation": "pallas_tpu", "backend": "tpu"},
            "multiplies bfloat16 or float32, got float64",
        ),
        (
            (LIKE, HEAD),
            {"implementation": "pallas_tpu", "backend": "tpu", "schedule": "tokens"},
            "goes by tiles, and the schedule is 'tokens'",
        ),
        ((LIKE, HEAD), {"implementation": "triton"}, "must be None or one of"),
    ],
)
def test_a_kernel_that_cannot_serve_says_why(arrays, given, why):
    with pytest.raises(ValueError, match=why):
        plan(*arrays, **given)


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_what_a_kernel_lacks_is_an_error(name):
    made = plan(LIKE, HEAD, implementation=name, backend=kernels.BACKENDS[name])

    def loss(hidden, head):
        labels, loss = jnp.zeros(2048, jnp.int32), jaxloss.linear_softmax_cross_entropy
        return loss(hidden, head, labels, schedule=made, label_smoothing=0.1)

    with pytest.raises(ValueError, match=f"{name} has no sums over the classes that label_smoo"):
        jax.eval_shape(loss, LIKE, HEAD)


def test_too_many_features_and_a_precision_are_told():
    wide = jax.ShapeDtypeStruct((2048, 2**17), jnp.bfloat16)
    head = jax.ShapeDtypeStruct((2**17, 4096), jnp.bfloat16)
    with pytest.raises(ValueError, match="131072 are more"):
        plan(wide, head, implementation="pallas_tpu", backend="tpu")
    with jax.default_matmul_precision("high"), pytest.raises(ValueError, match="got 'high'"):
        plan(LIKE, HEAD, implementation="pallas_tpu", backend="tpu")


def test_pallas_is_imported_by_a_kernel_only():
    code = "import sys, jaxloss; print([m for m in sys.modules if 'pallas' in m])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert set(schedules.KERNELS) == {"xla", *kernels.BACKENDS}
