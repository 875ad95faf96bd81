"""The laws are alive: each defect that users of peers suffer from breaks one when put in.

A defect is a patch of one function of `core`, the law that must fail, and the row it fails on.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_contract
from harness import CASES

from jaxloss.core import inputs, kernels, numerics, over_classes, reductions, statistics, vectors

DEFECTS = []


def defect(module, name, law, row, **extra):
    def decorate(patch):
        DEFECTS.append(pytest.param(module, name, patch, law, row, extra, id=patch.__name__))
        return patch

    return decorate


INTEGER = "softmax_cross_entropy_with_integer_labels"
SINGLE = {"dtype": np.float32, "units": 2000, "few": 200}


@defect(numerics, "wide", "test_half_inputs_are_computed_in_float32", "squared_error")
def no_upcast(x):
    return x


@defect(inputs, "_paired", "test_errors_name_the_argument", "huber_loss")
def silent_broadcast(where, features, fill, arrays, *, halves=False):
    return list(jnp.broadcast_arrays(*inputs.floats(**arrays)))


@defect(inputs, "blank", "test_nothing_sees_what_is_deleted", INTEGER)
def mask_after_the_loss(array, where, *, features=0, fill=0.0):
    return array


@defect(statistics.Mean, "of", "test_where_deletes", "squared_error")
def mean_over_masked_units(values, where=None, weights=None):
    values, times = statistics.kept(values, where, weights)
    return statistics.Mean(jnp.sum(times * values), jnp.asarray(values.size, values.dtype))


@defect(statistics.Mean, "of", "test_weights_repeat", "squared_error")
def weights_missing_in_the_denominator(values, where=None, weights=None):
    counted, times = statistics.kept(values, where, weights)
    _, kept = statistics.kept(values, where, None)
    return statistics.Mean(jnp.sum(times * counted), jnp.sum(kept))


labelled_apart = inputs.labelled_apart


@defect(inputs, "labelled_apart", "test_label_out_of_range_is_loud", INTEGER)
def wrapped_label(where, *, logits, labels):
    labels = jnp.asarray(labels).astype(jnp.int32) % jnp.shape(logits)[-1]
    return labelled_apart(where, logits=logits, labels=labels)


@defect(kernels, "xlogy", "test_extremes_of_the_dtype", "binary_cross_entropy")
def zero_times_log_of_zero(x, y):
    return x * jnp.log(y)


@defect(numerics, "xlogy", "test_extremes_of_the_dtype", "categorical_cross_entropy")
def clip_that_hides_infinity(x, y):
    return x * jnp.log(jnp.clip(y, 1e-7, 1))


@defect(over_classes, "softplus", "test_value_and_gradient_are_the_truth", INTEGER, **SINGLE)
def log_of_one_plus(x):
    return jnp.maximum(x, 0) + jnp.log(1 + jnp.exp(-jnp.abs(x)))


@defect(
    over_classes,
    "lone_cross_entropy_at",
    "test_value_and_gradient_are_the_truth",
    INTEGER,
    **SINGLE,
)
def logsumexp_minus_the_label(logits, labels):
    return over_classes.logsumexp(logits) - over_classes.at(logits, labels)


@defect(over_classes, "at", "test_one_trace_and_no_scatter", "nll_loss")
def gather_that_scatters_backwards(array, index):
    return jnp.take_along_axis(array, index[..., None], axis=-1)[..., 0]


@defect(statistics, "_merge_two", "test_any_partition_gives_the_whole", "squared_error")
def mean_of_means(a, b):
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


@defect(reductions, "spread", "test_where_deletes", "info_nce_loss")
def masked_row_is_a_negative(name, array, units):
    return jnp.ones(units, bool) if name == "where" else inputs.spread(name, array, units)


@defect(vectors, "_near_1", "test_corners", "cosine_distance")
def norm_without_a_zero(x):
    factor = 1 / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return factor, x * factor


@jax.custom_vjp
def one_way(x, y):
    return jnp.log(jnp.cosh(x - y))


one_way.defvjp(
    lambda x, y: (one_way(x, y), jnp.tanh(x - y)), lambda slope, t: (t * slope, -t * slope)
)


@defect(kernels, "log_cosh_error", "test_every_mode_of_differentiation", "log_cosh")
def reverse_mode_only(x, y):
    return one_way(x, y)


def row_of(name):
    """A copy of the row, which nothing compiled before the patch is cached for."""
    return dataclasses.replace(next(case for case in CASES if str(case) == name))


def check(law, row, extra):
    test = getattr(test_contract, law)
    seeded = (
        {"rng": np.random.default_rng(0)} if "rng" in inspect.signature(test).parameters else {}
    )
    test(row_of(row), **seeded, **extra)


@pytest.mark.parametrize(("module", "name", "patch", "law", "row", "extra"), DEFECTS)
def test_a_defect_breaks_its_law(monkeypatch, module, name, patch, law, row, extra):
    check(law, row, extra)
    monkeypatch.setattr(module, name, patch)
    with pytest.raises((AssertionError, TypeError, ValueError, pytest.fail.Exception)):
        check(law, row, extra)
