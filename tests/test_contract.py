"""The laws that every loss obeys. `cases/` lists the losses; nothing here names one."""

import dataclasses
import functools
import inspect
import re

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effort import users_jit
from harness import (
    CASES,
    arrays_of,
    exactly,
    floats_of,
    has_class_indices,
    has_corners,
    has_parts,
    is_float,
    law,
    per_unit,
    run,
    tolerance,
    typed,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss

UNITS = 6
KEPT = np.array([1, 1, 0, 1, 0, 1], bool)
# of eight units six are left, and are counted: laws that take these share their programs
LEFT = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
COPIES = np.array([1, 0, 3, 0, 1, 0, 0, 1])
GARBAGE = (np.nan, np.inf, -np.inf, 3e38, -100, 1e9)
KEYWORDS = ("where", "weights", "reduction")
HOW = ("schedule", "memory_budget", "implementation")  # they say how to compute, not what


def loss_of(case, **keywords):
    return functools.partial(case.call, **keywords)


def close(got, want, name="same mathematics", floor=1e-9):
    """Equal up to a tolerance relative to the largest entry."""
    want = np.asarray(want, np.longdouble)
    size = np.max(np.abs(want), initial=0)
    np.testing.assert_allclose(got, want, rtol=tolerance(name), atol=tolerance(name) * size + floor)


def within_eps(error_in_units):
    """Errors in units of the condition scale: design §4.5."""
    assert np.quantile(error_in_units, 0.99) <= tolerance("accuracy p99"), error_in_units.max()
    assert np.max(error_in_units) <= tolerance("accuracy max")


# ---- accuracy


def batches(case, rng, dtype, units):
    """One large batch, or where units see each other several small ones."""
    sizes = [(units,)] if case.kind == "plain" else [(UNITS,)] * 8
    return [arrays_of(case, rng, size, dtype) for size in sizes]


def check_values(case, rng, dtype, units):
    info, errors = np.finfo(dtype), []
    for arrays in batches(case, rng, dtype, units):
        values, _ = run(case, per_unit(case), arrays, jit=users_jit)
        assert values.dtype == dtype
        want = exactly(case, arrays, dtype)
        scale = exactly(case, arrays, dtype, of="scale") if case.scale else np.abs(want)
        errors.append(np.abs(values - want) / np.maximum(scale * info.eps, info.tiny))
    within_eps(np.stack(errors))


def check_gradients(case, rng, dtype, units, few):
    """Of a few units of a batch that is as large as that of the values, for the same program."""
    apart, errors, doubtful = case.kind == "plain" and not case.shared, [], 0
    for arrays in batches(case, rng, dtype, units if apart else few)[: 1 if apart else 2]:
        _, grads = run(case, per_unit(case), arrays, jit=users_jit)
        position = {argument: k for k, argument in enumerate(floats_of(arrays))}
        if apart:
            arrays, grads = case.take(arrays, slice(few)), [grad[:few] for grad in grads]
        for argument, index, want, unit, doubt in harness.exact_gradients(case, arrays, dtype, rng):
            got = grads[position[argument]][index]
            assert got.dtype == dtype
            # 0 is exact, unless the step was lost in the rounding of the value
            settled = np.atleast_1d((doubt <= 16 * unit) | ((want == 0) & (doubt <= 1e-8)))
            doubtful += np.sum(~settled)
            beyond = np.maximum(np.abs(got - want) - doubt, 0)
            unit = np.maximum(unit, case.slope_floor * np.finfo(dtype).eps)
            errors.extend(np.atleast_1d(beyond / unit)[settled])
    reach = 0.1 if dtype == np.float32 else 0.85  # extended precision has 11 bits more than float64
    assert doubtful <= reach * (len(errors) + doubtful), "the differences do not settle"
    within_eps(np.array(errors))


@law()
@pytest.mark.parametrize(
    ("dtype", "units", "few"), [(np.float32, 2000, 200), (np.float64, 500, 50)], ids=["32", "64"]
)
def test_value_and_gradient_are_the_truth(case, rng, dtype, units, few):
    with jax.enable_x64(dtype == np.float64):
        check_values(case, rng, dtype, units)
        check_gradients(case, rng, dtype, units, few)


@law()
@np.errstate(over="ignore")
def test_half_inputs_are_computed_in_float32(case, rng):
    for dtype in (jnp.bfloat16, jnp.float16):
        half = typed(arrays_of(case, rng), dtype)
        value, grads = run(case, "mean", half)
        want, want_grads = run(case, "mean", typed(half, np.float32))
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, want)
        for grad, want_grad in zip(grads, want_grads, strict=True):
            np.testing.assert_array_equal(grad, want_grad.astype(dtype))


@law()
def test_float64_does_not_appear_by_itself(case, rng):
    with jax.enable_x64(True):
        arrays = arrays_of(case, rng, dtype=np.float64)
        first = jnp.asarray(arrays[0], jnp.float32)
        weights = np.ones(UNITS)
        loss = functools.partial(loss_of(case), weights=weights)
        assert jax.eval_shape(loss, first, *arrays[1:]).dtype == jnp.float32
        assert jax.eval_shape(loss, *arrays).dtype == jnp.float64


# ---- extremes


@law("plain")
@np.errstate(all="ignore")
def test_extremes_of_the_dtype(case, rng):
    """Finite where the truth is, the limit where there is one, and a valid subgradient."""
    arrays = harness.generated_extremes(case, rng, np.float32)
    largest = np.finfo(np.float32).max
    values, grads = run(case, None, arrays, jit=users_jit)
    want = exactly(case, arrays)
    scale = exactly(case, arrays, of="scale") if case.scale else np.abs(want)
    own = [a.reshape(len(a), -1) for i, a in enumerate(arrays) if i not in case.shared]
    sizes = np.abs(np.concatenate(own, axis=1).astype(float))
    infinite = np.sum(np.isinf(sizes), axis=1)
    infinite = infinite.reshape(len(want), *[1] * (want.ndim - 1))
    known = np.isfinite(want) & (scale <= largest) & (infinite <= 1)
    assert known.mean() > 0.2, "the row's domain leaves nothing to check"
    unit = np.maximum(scale * np.finfo(np.float32).eps, np.finfo(np.float32).tiny)
    bad = known & ~(np.abs(values - want) <= tolerance("accuracy max") * unit)
    assert not bad.any(), sample(bad, *arrays, values, want)
    limit = np.isfinite(want) & (np.abs(want) > 1e1000) & (infinite <= 1)
    wrong = limit & ~(values == np.sign(want) * np.inf)
    assert not wrong.any(), sample(wrong, *arrays, values, want)
    for argument, index in harness.places_of(case, arrays):
        if argument in case.shared:
            continue
        grad = grads[floats_of(arrays).index(argument)][index]
        assert not np.isnan(grad[rows(known)]).any(), (argument, index)
        low, high = harness.one_sided(case, arrays, argument, index, np.float32)
        size = np.abs(np.asarray(arrays[argument], np.longdouble)).reshape(len(want), -1).max(1)
        rounding = unit.reshape(len(unit), -1).max(1) / np.where(size == 0, 1, size)
        slack = 1e-3 * np.maximum(np.abs(low), np.abs(high)) + 1e-6 + 64 * rounding
        if arrays[argument].ndim > 1:  # a step from 1e9, or from 0, jumps over what is smaller
            least = np.min(np.where(sizes == 0, np.inf, sizes), axis=1)
            jump = (size > 1e6) & np.isfinite(size) | (arrays[argument][index] == 0) & (
                least < 1e-8
            )
            slack = np.where(jump, largest, slack)
        checked = rows(known) & (np.abs(low) < largest) & (np.abs(high) < largest)
        bad = checked & ~((grad >= low - slack) & (grad <= high + slack))
        assert not bad.any(), (argument, index, sample(bad, *arrays, grad, low, high))


def rows(known):
    return known.reshape(len(known), -1).all(1)


def sample(bad, *arrays):
    """The first unit that failed."""
    units = [array for array in arrays if len(array) == len(bad)]
    return [array[rows(~bad).argmin()] for array in units]


@law("coupled", "deferred")
@np.errstate(all="ignore")
def test_extreme_batches_are_finite_where_the_truth_is(case, rng):
    largest, checked = np.finfo(np.float32).max, 0
    bounds = (np.inf, float(largest) ** 0.25)  # statistics of all extremes together mostly overflow
    halves = [harness.generated_extremes(case, rng, np.float32, 3 * 20, up_to=b) for b in bounds]
    every = [np.concatenate(pair) for pair in zip(*halves, strict=True)]
    for batch in range(40):
        arrays = tuple(a[3 * batch : 3 * batch + 3] for a in every)
        want = exactly(case, arrays)
        scale = exactly(case, arrays, of="scale") if case.scale else np.abs(want)
        infinite = sum(np.isinf(a.reshape(3, -1)).sum(1) for a in arrays)
        if np.all(np.isfinite(want) & (scale <= largest**0.5 / 8)) and np.all(infinite <= 1):
            values, grads = run(case, per_unit(case), arrays, jit=users_jit)
            unit = np.maximum(scale * np.finfo(np.float32).eps, np.finfo(np.float32).tiny)
            assert np.all(np.abs(values - want) <= tolerance("accuracy max") * unit), arrays
            assert all(np.isfinite(grad).all() for grad in grads), arrays
            checked += 1
    assert checked >= 4, "the row's domain leaves nothing to check"


@law(only=has_corners)
def test_corners(case):
    both = users_jit(jax.value_and_grad(loss_of(case)))
    for arrays, want, *grad in case.corners:
        arrays = [np.array(a if i in case.shared else [a]) for i, a in enumerate(arrays)]
        value, slope = both(*typed(arrays, np.float32))
        np.testing.assert_allclose(value, want, rtol=1e-5)
        if grad:
            np.testing.assert_allclose(slope[0], grad[0], rtol=1e-5, atol=1e-30)


# ---- where deletes, weights repeat


def poisoned(case, arrays, kept, value):
    """What is deleted holds `value`; integers hold what an integer can, masks are turned."""
    arrays = tuple(np.array(a) for a in arrays)
    number = int(np.clip(np.nan_to_num(value, nan=-100), -100, 10**9))
    for i, array in enumerate(arrays):
        units = kept if i not in case.whole else kept.reshape(len(kept), -1).any(1)
        if i not in case.shared:
            held = ~array[~units] if array.dtype == bool else number
            array[~units] = value if is_float(array) else held
    return arrays


@law()
def test_where_deletes(case, rng):
    arrays = arrays_of(case, rng, LEFT.shape)
    want, want_grads = run(case, "mean", case.take(arrays, LEFT))
    got, got_grads = run(case, "mean", poisoned(case, arrays, LEFT, np.nan), where=LEFT)
    close(got, want)
    for argument, got_grad, want_grad in zip(floats_of(arrays), got_grads, want_grads, strict=True):
        close(got_grad if argument in case.shared else got_grad[LEFT], want_grad)
        assert argument in case.shared or not got_grad[~LEFT].any()
    none = np.zeros_like(LEFT)
    nothing, grads = run(case, "mean", poisoned(case, arrays, none, np.nan), where=none)
    assert nothing == 0 and not any(grad.any() for grad in grads)
    assert run(case, "mean", case.take(arrays, slice(0)))[0] == 0


@law()
def test_nothing_sees_what_is_deleted(case, rng):
    """Value, vjp, jvp and Hessian are bit-equal whatever the deleted units hold."""
    arrays = arrays_of(case, rng)
    ints = [a for a in arrays if not is_float(a)]
    tangents = [rng.normal(size=a.shape).astype(np.float32) for a in arrays if is_float(a)]

    @jax.jit
    def everything(arrays, where):
        floats = [a for a in arrays if is_float(a)]
        rest = [a for a in arrays if not is_float(a)]

        def f(*floats):
            given, others = iter(floats), iter(rest)
            inputs = [next(given) if is_float(a) else next(others) for a in arrays]
            return loss_of(case, where=where)(*inputs)

        grad = jax.grad(f, tuple(range(len(floats))))
        if case.reverse_only:
            return f(*floats), grad(*floats)
        return jax.jvp(f, floats, tangents), jax.jvp(grad, floats, tangents)

    assert len(ints) + len(tangents) == len(arrays)
    results = [everything(poisoned(case, arrays, KEPT, value), KEPT) for value in GARBAGE]
    for result in results:
        for got, want in zip(*map(jax.tree.leaves, (result, results[0])), strict=True):
            assert np.isfinite(got).all()
            np.testing.assert_array_equal(got, want)


def parts_of(case, arrays, units):
    """The first slab of parts of some of the units."""
    kept = [a if i in case.whole else a[:, :1] for i, a in enumerate(arrays)]
    return case.take(kept, units)


@law(only=has_parts)
def test_where_deletes_parts(case, rng):
    """A unit without some of its parts; a unit without any part is deleted."""
    arrays = arrays_of(case, rng, (4,))
    where = np.zeros((4, *case.parts), bool)
    where[:, 0] = True  # one slab of parts is kept
    want, want_grads = run(case, "mean", parts_of(case, arrays, slice(None)))
    got, grads = run(case, "mean", poisoned(case, arrays, where, np.nan), where=where)
    close(got, want)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        close(grad[:, :1], want_grad)
        assert not grad[~where].any()
    where[1:3] = False
    want, _ = run(case, "mean", parts_of(case, arrays, [0, 3]))
    close(run(case, "mean", poisoned(case, arrays, where, np.inf), where=where)[0], want)


@law()
def test_weights_repeat(case, rng):
    arrays = arrays_of(case, rng, COPIES.shape)
    got, got_grads = run(case, "mean", arrays, weights=COPIES)
    if case.kind == "coupled":  # a unit's own terms repeat, the others see it as it was
        terms = jax.jit(loss_of(case, reduction=lambda *got: got))
        values, where, counts = map(np.asarray, terms(*arrays))
        close(got, np.average(values, weights=COPIES * where * counts))
        return
    index = np.repeat(np.arange(COPIES.size), COPIES)
    want, want_grads = run(case, "mean", case.take(arrays, index))
    close(got, want)
    for argument, got_grad, want_grad in zip(floats_of(arrays), got_grads, want_grads, strict=True):
        copies = want_grad
        if argument not in case.shared:
            copies = np.zeros(got_grad.shape)
            np.add.at(copies, index, want_grad)
        close(got_grad, copies)


@law("plain", "coupled")
def test_reductions_are_of_the_values(case, rng):
    arrays = arrays_of(case, rng)
    weights = np.array([1, 2, np.nan, 0.5, np.inf, 3], np.float32)  # ignored where deleted

    def last(values, where, weights):
        return jnp.sum(jnp.where(where, values * weights, 0))

    @jax.jit
    def reduced(arrays, where, weights):
        reductions = (
            "sum",
            None,
            "mean",
            jaxloss.stats,
            jaxloss.unit_mean,
            jaxloss.unit_stats,
            last,
        )
        loss = loss_of(case, where=where, weights=weights)
        return [loss(*arrays, reduction=reduction) for reduction in reductions]

    total, values, mean, stats, unit, unit_stats, own = reduced(arrays, KEPT, weights)
    assert not np.asarray(values)[~KEPT].any()
    close(np.sum(values), total)
    close(stats.value(), mean)
    close(unit, total / float(KEPT.mean() * values.size))
    close(unit_stats.value(), unit)
    close(own, total)


@law("plain")
def test_masks_have_the_shape_of_leading_axes(case, rng):
    arrays = arrays_of(case, rng, (4, 3))
    where, weights = np.array([True, False, True, True]), np.arange(4, dtype=np.float32)
    full = np.repeat(where[:, None], 3, 1)

    def loss(arrays, where, weights=None):
        return case.call(*arrays, where=where, weights=weights, reduction=None)

    @jax.jit
    def masked(arrays, where, weights):
        nothing = loss(arrays, np.array(False))
        if case.parts:
            return nothing, [nothing]
        axes = [None if i in case.shared else 0 for i in range(len(arrays))]
        each = jax.vmap(loss, (axes, 0, 0))(arrays, where, weights)
        return nothing, [loss(arrays, mask, weights) for mask in (where, full)] + [each]

    nothing, (first, *others) = masked(list(arrays), where, weights)
    assert not np.asarray(nothing).any()
    for other in others:
        close(other, first)
    for name, wrong in (("where", np.ones((4, 1), bool)), ("weights", np.ones(3, np.float32))):
        with pytest.raises(ValueError, match=rf"{name} of shape .*leading axes"):
            jax.eval_shape(loss_of(case, **{name: wrong}), *arrays)


# ---- a loss is a sum that can be split


def split(case, batch, sizes):
    parts = zip(sizes, np.cumsum(sizes), strict=True)
    return [case.take(batch, slice(stop - size, stop)) for size, stop in parts]


@law()
def test_any_partition_gives_the_whole(case, rng):
    """Up to eight parts, some of them empty or without a unit left, far from 0 too."""
    where, weights = rng.random(12) < 0.7, rng.exponential(size=12).astype(np.float32)
    where[:2] = False

    @functools.partial(jax.jit, static_argnums=1)
    def merged(batch, sizes):
        def stats_of(part):
            *arrays, where, weights = part
            return loss_of(case, where=where, weights=weights, reduction=jaxloss.stats)(*arrays)

        def whole(first):
            parts = split(case, (first, *batch[1:]), sizes)
            return jaxloss.merge([stats_of(part) for part in parts]).value()

        return jax.value_and_grad(whole)(batch[0])

    most = 4 if case.options else 8  # an option does not change how parts merge
    cuts = np.sort(rng.integers(0, 13, rng.integers(1, most)))
    ragged = tuple(int(n) for n in np.diff([0, *cuts, 12]))
    for offset in (0, 100) if set(case.domains) <= {"real", "moderate"} else (0,):
        arrays = typed(
            [a + offset if is_float(a) else a for a in case.inputs(rng, (12,))], np.float32
        )
        batch = (*arrays, where, weights)
        want = merged(batch, (12,))
        assert all(np.isfinite(each).all() for each in want)
        for each, wanted in zip(merged(batch, ragged), want, strict=True):
            close(each, wanted, "partition", floor=1e-7)


@law()
def test_statistics_have_one_shape(case, rng):
    """Sums do not grow with the batch; rows do, and serve coupled losses only."""

    def leaves(units, **masks):
        loss = loss_of(case, reduction=jaxloss.stats, **masks)
        return jax.eval_shape(loss, *arrays_of(case, rng, (units,)))

    four, eight = leaves(4), leaves(8)
    masked = leaves(4, where=np.ones(4, bool), weights=np.ones(4, np.float32))
    assert jax.tree.structure(four) == jax.tree.structure(eight) == jax.tree.structure(masked)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (four, eight, masked)]
    assert shapes[0] == shapes[2]
    assert (shapes[0] == shapes[1]) == (case.kind != "coupled")
    assert isinstance(four, jaxloss.Statistic)
    with pytest.raises(TypeError, match=r"merge.*dict"):
        _ = four + eight


# ---- data faults


@law("plain", "coupled")
def test_nan_stays_in_its_unit(case, rng):
    arrays, loss = arrays_of(case, rng), jax.jit(loss_of(case, reduction=None))
    for argument in set(floats_of(arrays)) - set(case.shared):
        bad = poisoned(case, arrays, np.arange(UNITS) != 2, 0.5)[argument]
        bad[2] = np.nan
        values = np.asarray(loss(*arrays[:argument], bad, *arrays[argument + 1 :]))
        units = np.any(np.isnan(values).reshape(UNITS, -1), axis=1)
        assert units[2] and (case.kind == "coupled" or units.sum() == 1)


@law(losses=True)
def test_nan_shows_in_a_large_batch(case, rng):
    """Where XLA works on vectors too: its maximum and its exp may lose a NaN there."""
    units = 64 if case.kind == "coupled" else 4096
    arrays, loss = arrays_of(case, rng, (units,)), users_jit(loss_of(case))
    assert np.isfinite(loss(*arrays))
    for argument in set(floats_of(arrays)) - set(case.shared):
        bad = poisoned(case, arrays, np.arange(units) != 2, np.nan)[argument]
        value = loss(*arrays[:argument], bad, *arrays[argument + 1 :])
        assert not np.isfinite(value), case.names()[argument]


@law("plain", only=has_class_indices)
def test_label_out_of_range_is_loud(case, rng):
    """NaN in the value and in the gradient of that unit, of every integer dtype; never wrapped."""
    arrays = arrays_of(case, rng)
    position = next(i for i, a in enumerate(arrays) if a.dtype.kind == "i")
    argument, axis = case.classes
    classes, others = arrays[argument].shape[axis], np.arange(UNITS) != 2
    for label, dtype in ((-1, np.int8), (-100, np.int32), (classes, np.uint8), (255, np.uint8)):
        labels = arrays[position].astype(dtype)
        labels[2] = label
        given = (*arrays[:position], labels, *arrays[position + 1 :])
        values, (grad, *_) = run(case, None, given, where=KEPT | ~KEPT)
        assert np.isnan(values).nonzero()[0].tolist() == [2]
        assert np.isnan(grad[2]).all() and np.isfinite(np.delete(grad, 2, 0)).all()
        values, _ = run(case, None, given, where=others)
        assert np.isfinite(values).all()


@law(losses=True)
def test_checked_names_what_is_bad(case, rng):
    arrays, all_kept, ones = arrays_of(case, rng), KEPT | ~KEPT, np.ones(UNITS, np.float32)
    names = case.names()
    loss = jax.jit(
        lambda arrays, where, weights: loss_of(case, where=where, weights=weights)(*arrays)
    )
    check = jaxloss.checked(loss)
    assert np.isfinite(check(arrays, all_kept, ones))
    for argument in floats_of(arrays):
        bad = tuple(np.array(a) for a in arrays)
        bad[argument][2] = np.nan
        with pytest.raises(Exception, match=rf"{names[argument]}\[2.*is nan"):
            check(bad, all_kept, ones)
        if argument not in case.shared:
            check(bad, np.arange(UNITS) != 2, ones)
    for argument in [i for i, a in enumerate(arrays) if a.dtype.kind == "i"]:
        bad = tuple(np.array(a) for a in arrays)
        bad[argument][2] = 99
        if case.kind == "plain":
            with pytest.raises(Exception, match=rf"{names[argument]}\[2.*\] is 99: "):
                check(bad, all_kept, ones)
    if case.kind != "deferred":
        with pytest.raises(Exception, match=r"weights\[3\] is -1\.0"):
            check(arrays, all_kept, np.where(np.arange(UNITS) == 3, -ones, ones))


@law()
def test_errors_name_the_argument(case, rng):
    arrays, names = arrays_of(case, rng), case.names()

    def raises(error, match, *arrays, **keywords):
        with pytest.raises(error, match=match):
            jax.eval_shape(loss_of(case, **keywords), *arrays)

    for i in set(range(1, len(arrays))) - set(case.shared):
        shorter, deeper = arrays[i][:-1], arrays[i][:, None]
        before, after = arrays[:i], arrays[i + 1 :]
        raises(ValueError, rf"{names[i]} .*{names[0]}.*got \(5,", *before, shorter, *after)
        raises(ValueError, rf"{names[i]} ", *before, deeper, *after)
    raises(TypeError, f"{names[0]} must be floating", arrays[0].astype(int), *arrays[1:])
    raises(TypeError, f"{names[0]} must be floating", arrays[0].astype(complex), *arrays[1:])
    raises(TypeError, "where must be boolean", *arrays, where=KEPT.astype(np.float32))
    raises(TypeError, "weights must be numbers", *arrays, weights=KEPT)
    raises(ValueError, "weights of shape", *arrays, weights=np.ones((2, UNITS), np.float32))
    raises(ValueError, r"reduction .*must be", *arrays, reduction="none")
    if case.kind == "deferred":
        raises(ValueError, r"reduction .*must be .*no value per unit", *arrays, reduction=None)
    for name, value in case.options.items():
        if isinstance(value, float):
            raises(ValueError, f"{name} must be", *arrays, **{name: float("nan")})
            raises(
                ValueError, f"{name} must be one", *arrays, **{name: np.ones((7, 7), np.float32)}
            )


# ---- transformations


@law()
def test_every_mode_of_differentiation(case, rng):
    """jvp, vjp, jacfwd, jacrev and both Hessians against differences; vmap; a batch of one."""
    with jax.enable_x64(True):
        arrays = arrays_of(case, rng, (3,), np.float64)
        x, h = arrays[0], 1e-6
        move = h * np.minimum(np.abs(x), 1) * rng.normal(size=x.shape)
        v = ((x + move) - (x - move)) / (2 * h)  # as rounded

        def f(x):
            return loss_of(case)(x, *arrays[1:])

        grad = jax.jit(jax.grad(f))  # traced once for all that takes it

        @jax.jit
        def modes(x):
            slope = grad(x)
            along = jax.jvp(f, (x,), (v,))[1], jnp.vdot(jax.jacfwd(f)(x), v), jnp.vdot(slope, v)
            curves = [jnp.tensordot(d(grad)(x), v, x.ndim) for d in (jax.jacfwd, jax.jacrev)]
            return f(x), slope, along, curves

        up, down, (value, slope, along, curves) = modes(x + move), modes(x - move), modes(x)
        size = np.max(np.abs(value)) + np.max(np.abs(slope * x))
        bend = np.max(np.abs(slope)) + np.max(np.abs(curves[0] * x))
        for got in along:  # floors: what rounding leaves of a difference over 2e-6
            close(got, (up[0] - down[0]) / (2 * h), "differences", floor=1e-9 * size)
        for got in curves:
            close(got, (up[1] - down[1]) / (2 * h), "differences", floor=1e-9 * bend)
        loss, one = loss_of(case), case.take(arrays, slice(1))
        twice = [np.stack([a, a]) for a in one]
        batch, alone = jax.jit(lambda twice, one: (jax.vmap(loss)(*twice), loss(*one)))(twice, one)
        np.testing.assert_allclose(batch, [alone] * 2, rtol=1e-12)


def scaled(array, scale, bounded):
    return array * jnp.minimum(scale, 1) if bounded else scale * jnp.tanh(array / scale)


@functools.partial(jax.jit, static_argnums=2)
def scaled_and_slope(array, scale, bounded):
    return jax.jvp(lambda scale: scaled(array, scale, bounded), (scale,), (jnp.ones_like(scale),))


@law()
def test_inside_one_jit_as_outside(case, rng):
    """XLA may evaluate inputs computed in one jit twice, rounded differently; options traced."""
    arrays = arrays_of(case, rng)
    numbers = {k: jnp.float32(v) for k, v in case.options.items() if isinstance(v, float)}

    def loss(first, numbers):
        return case.call(first, *arrays[1:], **numbers)

    def f(scale, numbers):
        return loss(scaled(arrays[0], scale, bounded), numbers)

    scale, bounded = jnp.float32(30), "probability" in case.domains[0]
    x, dx = scaled_and_slope(arrays[0], scale, bounded)
    value, (slope, slopes) = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, numbers)
    grads = np.vdot(np.asarray(slope, float), dx), slopes
    fused, fused_grads = users_jit(jax.value_and_grad(f, (0, 1)))(scale, numbers)
    np.testing.assert_allclose(fused, value, rtol=1e-5, atol=1e-7)
    for got, want in zip(*map(jax.tree.leaves, (fused_grads, grads)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    for name in numbers:
        assert np.isfinite(grads[1][name]), name


@law()
def test_sharded_batches(case, rng):
    """Eight devices, in auto and explicit mode: the value and gradient of one device."""
    arrays, where = arrays_of(case, rng, LEFT.shape), LEFT
    want, want_grads = run(case, "mean", arrays, where)
    for mode in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(mode,))
        with jax.set_mesh(mesh):
            rows = NamedSharding(mesh, PartitionSpec("batch"))
            everywhere = NamedSharding(mesh, PartitionSpec())
            placed = tuple(
                jax.device_put(a, everywhere if i in case.shared else rows)
                for i, a in enumerate(arrays)
            )
            got, grads = run(case, "mean", placed, jax.device_put(where, rows))
        close(got, want)
        for grad, wanted in zip(grads, want_grads, strict=True):
            close(grad, wanted)


@law()
def test_one_trace_and_no_scatter(case, rng):
    arrays, traces = arrays_of(case, rng), []

    @jax.jit
    def grad(arrays, where, weights):
        traces.append(1)
        loss = loss_of(case, where=where, weights=weights)
        return jax.value_and_grad(loss)(*arrays)

    for weights in (np.ones(UNITS, np.float32), np.arange(UNITS, dtype=np.float32)):
        jax.eval_shape(grad, arrays, KEPT, weights)
    assert len(traces) == 1
    by_first = functools.partial(jax.vjp, lambda x: loss_of(case)(x, *arrays[1:]))
    value, pull = jax.eval_shape(by_first, arrays[0])
    lowered = jax.jit(lambda pull, slope: pull(slope)).lower(pull, value).as_text()
    assert not re.search(r"stablehlo\.(scatter|gather|sort)", lowered)
    jaxpr = jax.make_jaxpr(loss_of(case))(*arrays)
    given = sum(np.size(v) for k, v in case.options.items() if k not in HOW)
    assert sum(np.size(constant) for constant in jaxpr.consts) <= given


# ---- options


def value_of(row, arrays, **options):
    return float(jax.jit(loss_of(row, **options))(*arrays))


@law(losses=True)
def test_every_option_changes_something(case, rng):
    """Each option of the loss has a row of its own value, and there the result is another.

    An option that says how to compute has a row too, and the laws see that nothing changes.
    """
    own = [
        p
        for p in inspect.signature(case.loss).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in (*KEYWORDS, *HOW)
    ]
    rows = [c for c in CASES if c.loss is case.loss]
    given = {name: row for row in rows for name in row.data}
    for name, row in given.items():  # a keyword that holds data of the units
        arrays = arrays_of(row, rng)
        without = dataclasses.replace(row, data=tuple(n for n in row.data if n != name))
        kept = [a for a, n in zip(arrays, row.names(), strict=True) if n != name]
        assert value_of(row, arrays) != value_of(without, kept), f"{name} changes nothing"
    for parameter in [p for p in own if p.name not in given]:
        givers = [c for c in rows if parameter.name in c.options]
        assert givers, f"no row gives {parameter.name}"
        if parameter.name in HOW:
            continue
        givers = [c for c in givers if np.ndim(c.options[parameter.name]) == 0] or givers
        required = parameter.default is parameter.empty
        for row in givers:
            another = 2 * row.options[parameter.name] if required else parameter.default
            losses = loss_of(row), loss_of(row, **{parameter.name: another})
            both = jax.jit(lambda *arrays, losses=losses: [loss(*arrays) for loss in losses])
            first, second = both(*arrays_of(row, rng))
            if first != second:
                break
        else:
            pytest.fail(f"{parameter.name} changes nothing")
