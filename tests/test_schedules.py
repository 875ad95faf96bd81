"""Every way through the scores of a linear head gives the loss of the scores, and none builds them.

The truth is `softmax_cross_entropy_with_integer_labels` in float64, which has its own in `cases`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.fused import Plan

REDUCTIONS = ("mean", "sum", jaxloss.stats, None)
NEUTRAL = {"label_smoothing": 0, "z_loss": 0, "logit_softcap": 1e6, "temperature": 1}
USUAL = {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_softcap": 20, "temperature": 0.75}
SETTINGS = {  # all are given, some as the number that leaves the loss as it is
    "none": NEUTRAL,
    "smoothing": {**NEUTRAL, "label_smoothing": 0.2},
    "scores": {**USUAL, "label_smoothing": 0, "z_loss": 0},
    "all": USUAL,
}
SCALES = (0.05, 8)
COMBINATIONS = (
    ((1, 3, 7), jnp.float32),
    ((5, 4, 1), jnp.float32),
    ((13, 3, 31), jnp.float32),
    ((17, 8, 29), jnp.float32),
    ((17, 8, 29), jnp.bfloat16),
    ((13, 3, 31), jnp.float64),
)
TOLERANCES = {jnp.float32: (2e-7, 2e-6), jnp.bfloat16: (2e-7, 2e-6), jnp.float64: (1e-15, 1e-14)}
# their derivatives are differences of nearly equal numbers, of the units or of the classes
DIFFERENCES = ("weights", "class_weights", "label_smoothing", "logit_softcap")


def schedules(shape):
    n, _, v = shape
    some = Plan("tokens", min(4, n), v), Plan("classes", n, min(8, v))
    return *some, Plan("tiles", min(5, n), min(6, v))


def problem(rng, shape, scale, dtype, setting):
    """Inputs as rounded to `dtype`; scores have about the given size, or nearly none."""
    n, d, v = shape
    hidden, head = rng.normal(size=(n, d)), rng.normal(size=(d, v)) * scale / d**0.5
    bias, class_weights = rng.normal(size=v), rng.exponential(size=v)
    labels = rng.integers(v, size=n)
    if setting in ("none", "smoothing"):
        bias, class_weights = 0 * bias, 0 * class_weights + 1
    elif v > 2:  # a class is absent
        labels[labels == 1] = 0
        bias[1] = -np.inf
    where, weights = rng.random(n) < 0.8, rng.uniform(0.5, 2, n)
    where[0] = True
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    numbers = {"bias": bias, "class_weights": class_weights, **SETTINGS[setting]}
    floats = [jnp.asarray(hidden, dtype), jnp.asarray(head, dtype), jnp.asarray(weights, wide)]
    return floats, {k: jnp.asarray(v, wide) for k, v in numbers.items()}, labels, where


def losses(loss, arrays, options, labels, where):
    """Of all reductions, and the gradients of the mean and of a weighted sum of the values."""

    def reduced(reduction, arrays):
        hidden, head, weights, options = arrays
        keywords = {"where": where, "weights": weights, "reduction": reduction, **options}
        result = loss(hidden, head, labels, **keywords)
        return result.value() if reduction is jaxloss.stats else result

    def weighted(arrays):
        values = reduced(None, arrays)
        return jnp.vdot(values, jnp.cos(jnp.arange(values.size, dtype=values.dtype)))

    arrays = (*arrays, options)
    values = [reduced(reduction, arrays) for reduction in REDUCTIONS]
    return values, [jax.grad(f)(arrays) for f in (functools.partial(reduced, "mean"), weighted)]


def of_scores(hidden, head, labels, bias=None, temperature=1, logit_softcap=None, **options):
    x = hidden @ head if bias is None else hidden @ head + bias[None]
    if logit_softcap is not None:
        absent = jnp.isneginf(x)
        x = jnp.where(absent, x, logit_softcap * jnp.tanh(jnp.where(absent, 0, x) / logit_softcap))
    return jaxloss.softmax_cross_entropy_with_integer_labels(x / temperature, labels, **options)


def compiled(schedule):
    """The losses of a schedule, or of the scores."""
    forced = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=schedule)
    return jax.jit(functools.partial(losses, forced if schedule else of_scores))


def named(grads):
    for which, (hidden, head, weights, options) in zip(("mean", "weighted"), grads, strict=True):
        for name, grad in {"hidden": hidden, "head": head, "weights": weights, **options}.items():
            yield which, name, grad


def error(got, want):
    """Of a vector, relative to its length."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)


def check(got, want, dtype, label):
    of_values, of_slopes = TOLERANCES[dtype]
    for value, exact in zip(got[0], want[0], strict=True):
        assert error(value, exact) <= of_values, (label, "value")
    for (which, name, grad), (_, _, exact) in zip(named(got[1]), named(want[1]), strict=True):
        allowed = 1e3 * of_slopes if name in DIFFERENCES else of_slopes
        if grad.dtype == jnp.bfloat16:
            allowed = 1.2 * error(exact.astype(jnp.bfloat16), exact)
        if not (name == "logit_softcap" and "none" in label):
            assert error(grad, exact) <= allowed, (label, which, name, error(grad, exact))


@pytest.mark.parametrize(("shape", "dtype"), COMBINATIONS)
def test_every_schedule_is_the_loss_of_the_scores(shape, dtype, rng):
    """Loss to 2e-7 and gradients to 2e-6; of bfloat16 to 1.2 of the rounding of the exact one."""
    with jax.enable_x64(True):
        truth, programs = compiled(None), [(s, compiled(s)) for s in schedules(shape)]
        for setting, scale in itertools.product(SETTINGS, SCALES):
            arrays, options, labels, where = problem(rng, shape, scale, dtype, setting)
            exact = jax.tree.map(lambda a: a.astype(float), (arrays, options))
            want = truth(*exact, labels, where)
            for schedule, program in programs:
                got = program(arrays, options, labels, where)
                check(got, want, dtype, (schedule.schedule, setting, scale))


def test_there_are_500_combinations():
    per_problem = 3 * len(SETTINGS) * len(SCALES) * len(REDUCTIONS)
    assert len(COMBINATIONS) * per_problem >= 500
