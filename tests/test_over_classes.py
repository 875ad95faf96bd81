"""Every function of a row of classes against mpmath: value, first and second derivatives, edges."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulps import DTYPES, INF, agree, everything

from jaxloss.core import class_options, kernels, margins, over_classes, sparsemax, vectors

pytestmark = pytest.mark.usefixtures("wide")

# on a grid of 1/16, so that every difference of two logits is exact, shifted by 10⁴ or not
LOGITS = (
    (0.5, 0.5, 0.5),
    (0.25, -1.5, 2.0),
    (20.0, 0.0, -1.0),
    (0.0, 100.0, 3.0),
    (80.0, 80.0, 0.0),
    (10000.25, 9998.5, 10002.0),
    (-10000.0, -10080.0, -10001.0),
    (1.0, -INF, 3.0),
    (-INF, 2.0, -INF),
    (3.5,),
    (-7.0, 9.0),
)
FUNCTIONS = over_classes.softmax, over_classes.complement_of_softmax, over_classes.log_softmax
OF_A_ROW = jax.jit(lambda x: [f(x) for f in FUNCTIONS])
THREE = tuple(row for row in LOGITS if len(row) == 3)
TARGETS = (0.25, 0.0, 0.5)


def probabilities(logits):
    """p, and 1 - p without a subtraction."""
    x, p, q = [mp.mpf(z) for z in logits], [], []
    for i, own in enumerate(x):
        others = mp.fsum(mp.exp(z - max(x)) for j, z in enumerate(x) if j != i)
        share = mp.exp(own - max(x))
        p.append(share / (share + others))
        q.append(others / (share + others))
    return p, q


def log(p, q):
    return -mp.log1p(q / p) if p else -mp.inf


def moves(p, q):
    """∂pᵢ / ∂xⱼ."""
    n = range(len(p))
    return [p[i] * (q[i] if i == j else -p[j]) for i in n for j in n]


def turns(p, q):
    """∂²pᵢ / ∂xⱼ∂xₖ."""
    n, of_p, turned = len(p), moves(p, q), []
    for i, j, k in itertools.product(range(n), repeat=3):
        off_j, off_k = (q[i] if i == j else -p[j]), (q[i] if i == k else -p[k])
        turned.append(p[i] * (off_j * off_k - of_p[n * j + k]))
    return turned


def classes_of(function, dtype, *others):
    """(row, p, 1 - p, (value, gradient, Hessian)) of every row, each size in one program."""
    for n, group in itertools.groupby(LOGITS, key=len):
        rows = tuple(group)
        shared = [tuple([other[:n]] * len(rows)) for other in others]
        results = everything(function, dtype, rows, *shared)
        for i, row in enumerate(rows):
            yield row, *probabilities(row), jax.tree.map(lambda leaf, i=i: leaf[i], results)


@DTYPES
def test_softmax_and_its_complement(dtype):
    both = (over_classes.softmax, over_classes.complement_of_softmax)
    for of_softmax, rest in zip(*(classes_of(f, dtype) for f in both), strict=True):
        _, p, q, (value, (slope,), ((curve,),)) = of_softmax
        agree(value, p, dtype)
        agree(slope, moves(p, q), dtype)
        agree(curve, turns(p, q), dtype, floor=1)
        _, _, _, (value_of_rest, (slope_of_rest,), ((curve_of_rest,),)) = rest
        agree(value_of_rest, q, dtype)
        np.testing.assert_array_equal(slope_of_rest, -slope)
        np.testing.assert_array_equal(curve_of_rest, -curve)


@DTYPES
def test_softmax_and_complement_are_the_two(dtype):
    for row in LOGITS:
        x, t = jnp.array(row, dtype), jnp.arange(len(row), dtype=dtype)
        both = jax.jvp(over_classes.softmax_and_complement, (x,), (t,))
        apart = [jax.jvp(f, (x,), (t,)) for f in FUNCTIONS[:2]]
        np.testing.assert_array_equal(np.array(both), np.swapaxes(np.array(apart), 0, 1))


@DTYPES
def test_log_softmax(dtype):
    for row, p, q, (value, (slope,), ((curve,),)) in classes_of(over_classes.log_softmax, dtype):
        n = range(len(row))
        agree(value, list(map(log, p, q)), dtype)
        agree(slope, [q[i] if i == j else -p[j] for i in n for j in n], dtype, floor=1)
        agree(curve, [-move for move in moves(p, q)] * len(row), dtype, floor=1)


@DTYPES
def test_logsumexp(dtype):
    for row, p, q, (value, (slope,), ((curve,),)) in classes_of(over_classes.logsumexp, dtype):
        top = mp.mpf(max(row))
        want = top + mp.log(mp.fsum(mp.exp(z - top) for z in row))
        agree(value, [want], dtype, floor=abs(top))
        agree(slope, p, dtype)
        agree(curve, moves(p, q), dtype)


OF_LABELS = pytest.mark.parametrize(
    "function", [over_classes.cross_entropy_at, over_classes.lone_cross_entropy_at]
)


@DTYPES
@OF_LABELS
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_at(label, function, dtype):
    loss = functools.partial(function, labels=jnp.array(label))
    value, (slope,), ((curve,),) = everything(loss, dtype, THREE)
    for i, row in enumerate(THREE):
        p, q = probabilities(row)
        agree(value[i], [-log(p[label], q[label])], dtype, 64)  # exp of a rounded exponent
        agree(slope[i], [-q[k] if k == label else p[k] for k in range(3)], dtype, 64)
        agree(curve[i], moves(p, q), dtype, floor=1)


def test_a_row_that_is_long(rng):
    """What is stored there has the digits of what is not, of a confident row too."""
    logits = rng.normal(size=(3, over_classes.LONG + 3)).astype(np.float32)
    labels, wide = np.array([5, over_classes.LONG, 7]), logits.astype(np.float64)
    wide[2, 7] = logits[2, 7] = 40
    total = np.sum(np.exp(wide - 40), axis=-1)
    own = np.exp(wide[np.arange(3), labels] - 40)
    rest = total - own
    rest[2] = np.sum(np.delete(np.exp(wide[2] - 40), 7))
    step = jax.jit(jax.value_and_grad(lambda x: jnp.sum(over_classes.cross_entropy_at(x, labels))))
    values = jax.jit(over_classes.cross_entropy_at)(logits, labels)
    np.testing.assert_allclose(values, np.log1p(rest / own), rtol=1e-6)
    slopes = np.exp(wide - 40) / total[:, None]
    slopes[np.arange(3), labels] = -rest / total
    np.testing.assert_allclose(step(logits)[1], slopes, rtol=2e-6)


@DTYPES
@pytest.mark.parametrize(
    "function",
    [
        over_classes.cross_entropy,
        over_classes.cross_entropy_of_logs,
        over_classes.spread_cross_entropy,
    ],
)
def test_cross_entropy(function, dtype):
    for row, p, q, (value, slopes, curves) in classes_of(function, dtype, TARGETS):
        t, logs = [mp.mpf(z) for z in TARGETS[: len(row)]], list(map(log, p, q))
        mass, size = mp.fsum(t), sum(TARGETS[: len(row)])
        cost = -mp.fsum(u * v for u, v in zip(t, logs, strict=True) if u)
        agree(value, [cost], dtype, floor=function is over_classes.spread_cross_entropy)
        agree(slopes[0], [mass * a - u for a, u in zip(p, t, strict=True)], dtype, floor=size)
        in_targets = [-v if u or mp.isfinite(v) else 0 for u, v in zip(t, logs, strict=True)]
        agree(slopes[1], in_targets, dtype)
        agree(curves[0][0], [mass * move for move in moves(p, q)], dtype, floor=size)


@DTYPES
def test_misses(dtype):
    for row, p, q, (value, slopes, curves) in classes_of(over_classes.misses, dtype, TARGETS):
        n, t, size = len(row), [mp.mpf(z) for z in TARGETS[: len(row)]], sum(TARGETS[: len(row)])
        agree(value, [mp.fsum(u * v for u, v in zip(t, q, strict=True))], dtype)
        moved, turned = moves(p, q), turns(p, q)
        in_logits = [-mp.fsum(t[i] * moved[n * i + j] for i in range(n)) for j in range(n)]
        agree(slopes[0], in_logits, dtype, floor=size)
        agree(slopes[1], q, dtype)
        again = [-mp.fsum(t[i] * turned[n * n * i + jk] for i in range(n)) for jk in range(n * n)]
        agree(curves[0][0], again, dtype, floor=size)


@DTYPES
def test_misses_beside_their_slope(dtype):
    """Another form of the value, which a gradient comes with."""
    for row in LOGITS:
        x, t = np.array(row, dtype), np.array(TARGETS[: len(row)], dtype)
        alone, beside = over_classes.misses(x, t), jax.value_and_grad(over_classes.misses)(x, t)[0]
        np.testing.assert_allclose(beside, alone, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("rows", [256, 8192])
def test_costs_of_distributions_store_one_array_at_most(rows):
    """XLA on CPU makes one loop of all sums from 4,096 rows on, and of fewer rows it does not."""
    like = jax.ShapeDtypeStruct((rows, 200), jnp.float32)
    memory = jax.jit(over_classes.cross_entropy).lower(like, like).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.1 * 4 * 200 * rows


@DTYPES
def test_a_row_without_classes_and_infinite_logits(dtype):
    empty, won = np.full(3, -INF, dtype), np.array([0.0, INF, -INF], dtype)
    value, slope = jax.jit(jax.value_and_grad(over_classes.logsumexp))(empty)
    assert value == -INF and not slope.any()
    p, _, logs = OF_A_ROW(empty)
    assert np.isnan(p).all() and np.isnan(logs).all()
    p, q, logs = OF_A_ROW(won)
    np.testing.assert_array_equal(p, [0, 1, 0])
    np.testing.assert_array_equal(q, [1, 0, 1])
    np.testing.assert_array_equal(logs, [-INF, 0, -INF])
    at = jax.jit(over_classes.cross_entropy_at)
    assert at(won, np.array(1)) == 0 and at(won, np.array(0)) == INF
    for f in (over_classes.softmax, over_classes.log_softmax):
        for derivative in jax.jit(lambda x, f=f: (jax.jacrev(f)(x), jax.jacfwd(f)(x)))(won):
            assert np.isfinite(derivative).all()


@DTYPES
def test_picking_a_class(dtype):
    x, index = jnp.array([[3.0, 7.0, 7.0], [-INF, -1.0, -2.0]], dtype), jnp.array([2, 1])
    np.testing.assert_array_equal(over_classes.largest(x), [1, 1])
    np.testing.assert_array_equal(over_classes.hit(x, index), np.eye(3, dtype=bool)[[2, 1]])
    np.testing.assert_array_equal(over_classes.at(x, index), [7, -1])
    slope = jax.grad(lambda x: jnp.sum(over_classes.at(x, index)))(x)
    np.testing.assert_array_equal(slope, np.eye(3)[[2, 1]])
    shared = jnp.array([[5.0, 6.0, 8.0]], dtype)
    np.testing.assert_array_equal(over_classes.shared_at(shared, index), [8, 6])
    slope = jax.grad(lambda x: jnp.sum(over_classes.shared_at(x, index)))(shared)
    np.testing.assert_array_equal(slope, [[0, 1, 1]])


def test_a_nan_shows_in_a_large_sum():
    """XLA's minimum on CPU loses it there; an absent class is none, and costs nothing."""
    logits, labels = np.zeros((640, 500), np.float32), np.full((640, 500), 1 / 499, np.float32)
    logits[0, 1], logits[1], logits[2, 1], labels[:, 1] = np.nan, -INF, -INF, 0
    of_targets = np.asarray(jax.jit(over_classes.cross_entropy)(logits, labels))
    of_misses = np.asarray(jax.jit(over_classes.misses)(logits, labels))
    of_labels = np.asarray(jax.jit(over_classes.cross_entropy_at)(logits, np.zeros(640, int)))
    logits[1, 1] = np.nan
    terms = np.asarray(
        jax.jit(lambda x, q: jnp.sum(kernels.relative_entropy(x, q), -1))(logits, labels)
    )
    for values in of_targets, of_misses, of_labels, terms:
        assert np.isnan(values[:2]).all() and np.isfinite(values[2:]).all()


LOGIT = st.floats(-120, 120, width=32)


@given(st.lists(LOGIT, min_size=4, max_size=4), st.floats(-1000, 1000, width=32))
def test_probabilities_of_any_row(logits, shift):
    x = np.array(logits, np.float32)
    p, q, logs = map(np.asarray, OF_A_ROW(x))
    np.testing.assert_allclose(p + q, 1, rtol=1e-6)
    np.testing.assert_allclose(np.sum(p), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(logs), p, rtol=2e-5, atol=1e-37)
    away = np.max(x) - x + np.float32(shift)  # a shift of exact logits changes nothing
    exact = np.round(16 * away) / 16
    np.testing.assert_array_equal(OF_A_ROW(-exact)[0], OF_A_ROW(64 - exact)[0])


@DTYPES
def test_uniform(dtype):
    present = jnp.array([[True, False, True], [True, True, True], [False, False, False]])
    shares = class_options.uniform(present, jnp.zeros(3, dtype))
    assert shares.dtype == dtype
    agree(shares, [[0.5, 0, 0.5], [mp.mpf(1) / 3] * 3, [0, 0, 0]], dtype, tolerance=1)


@DTYPES
def test_rows_of_a_matrix(dtype):
    matrix, index = jnp.array([[3.0, 0.1], [-INF, 7.0], [2.0, 1e30]], dtype), jnp.array([2, 0, 2])
    rows, back = jax.vjp(lambda matrix: vectors.rows_at(matrix, index), matrix)
    np.testing.assert_array_equal(rows, matrix[index])
    change = jnp.array([[0.1, 0.3], [5.0, -1e30], [1e-9, 1e30]], dtype)
    moved = jax.jvp(lambda matrix: vectors.rows_at(matrix, index), (matrix,), (change,))[1]
    np.testing.assert_array_equal(moved, change[index])
    summed = back(change)[0]
    np.testing.assert_array_equal(summed, [change[1], [0, 0], change[0] + change[2]])


@DTYPES
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 1, 2), (2, 2, 0)], ids=str)
def test_pairs_that_pull_both_ways_leave_what_is_right(order, dtype):
    """An item that is behind one and ahead of another has a slope of 1 - 1 and the rest."""
    rows = (-30.0, 0.0, 25.0), (0.5, 0.5, -1.5), (12.0, 9.5, 80.0), (0.25, -30.0, 17.0)
    pairs = [(i, j) for i in range(3) for j in range(3) if order[i] < order[j]]
    before = jnp.array([[(i, j) in pairs for j in range(3)] for i in range(3)])
    loss = functools.partial(margins.logistic_of_pairs, before=before)
    values, (slopes,), ((curves,),) = everything(loss, dtype, rows)
    for row, *got in zip(rows, values, slopes, curves, strict=True):
        value, slope, curve = mp.mpf(0), [mp.mpf(0)] * 3, np.full((3, 3), mp.mpf(0))
        with mp.workdps(60):
            for i, j in pairs:
                lag = mp.mpf(row[j]) - row[i]
                value += mp.log1p(mp.exp(lag))
                share = 1 / (1 + mp.exp(-lag))
                slope[i], slope[j] = slope[i] - share, slope[j] + share
                turn = share / (1 + mp.exp(lag))
                curve[[i, j], [i, j]] += turn
                curve[[i, j], [j, i]] -= turn
        for each, want in zip(got, (value, slope, curve), strict=True):
            agree(each, want, dtype)


@DTYPES
def test_sums_keep_the_digits_of_many(dtype, rng):
    """Of 30,000 costs a plain loop loses some 50 eps of the sum; the other array is a count."""
    x, counts = rng.random((3, 30_000)).astype(dtype), np.ones((3, 30_000), dtype)
    costs, number = jax.jit(margins.sums)(x, counts)
    agree(costs, [mp.fsum(map(mp.mpf, map(float, row))) for row in x], dtype, tolerance=1)
    np.testing.assert_array_equal(number, [30_000] * 3)
    slopes = jax.grad(lambda x: margins.sums(x, jnp.asarray(counts))[0].sum())(jnp.asarray(x))
    np.testing.assert_array_equal(slopes, np.ones_like(x))


@DTYPES
def test_sums_of_what_is_not_finite(dtype):
    x = jnp.array([[INF, 1, 2], [INF, -INF, 0], [1, np.nan, 2], [-INF, 3, 3]], dtype)
    np.testing.assert_array_equal(margins.sums(x, x)[0], [INF, np.nan, np.nan, -INF])


@DTYPES
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("function", [margins.mean_of_hinges, margins.mean_of_squared_hinges])
def test_means_of_hinges(function, label, dtype):
    """Of the row, the margin and the weight: a class at the margin, and an absent one."""
    power = 1 if function is margins.mean_of_hinges else 2
    rows = (0.5, 0.5, 0.5), (0.25, 1.0, 2.0), (2.0, 0.0, -1.0), (1.0, 3.0, -INF), (9.0, -7.0, 8.5)
    columns = rows, (0.75,) * 5, (2.5, 0.0, 1e-20, 1.0, 3.0)

    def loss(x, *options):
        return function(x, jnp.array(label), *options)

    values, slopes, curves = everything(loss, dtype, *columns)
    for i, (row, margin, weight) in enumerate(zip(*columns, strict=True)):
        present = [x > -INF for x in row]
        lacks = [margin + x - row[label] if j != label else -INF for j, x in enumerate(row)]
        hinge = [mp.mpf(max(lack, 0)) for lack in lacks]
        share = mp.mpf(float(dtype(weight))) / sum(present)

        def moved(costs, label=label):  # by the others one each, and by the label against them all
            return [-mp.fsum(costs) if j == label else cost for j, cost in enumerate(costs)]

        steps = [mp.mpf(lack > 0) for lack in lacks]
        once = [power * h ** (power - 1) * step for h, step in zip(hinge, steps, strict=True)]
        twice = [(power - 1) * 2 * step for step in steps]
        turns = [[0] * 3 for _ in row]
        for j, turn in enumerate(twice):
            for a, b, sign in ((j, j, 1), (j, label, -1), (label, j, -1), (label, label, 1)):
                turns[a][b] += sign * turn * share
        of_x, of_margin, of_weight = (each[i] for each in slopes)
        agree(values[i], [share * mp.fsum(h**power for h in hinge)], dtype)
        agree(of_x, [share * slope for slope in moved(once)], dtype)
        agree(of_margin, [share * mp.fsum(once)], dtype)
        agree(of_weight, [mp.fsum(h**power for h in hinge) / sum(present)], dtype)
        (x_x, x_margin, x_weight), (_, margin_margin, _), _ = jax.tree.map(
            lambda leaf, i=i: leaf[i], curves
        )
        agree(x_x, np.ravel(np.array(turns, object)), dtype)
        agree(x_margin, [share * slope for slope in moved(twice)], dtype)
        agree(x_weight, [slope / sum(present) for slope in moved(once)], dtype)
        agree(margin_margin, [share * mp.fsum(twice)], dtype)


@DTYPES
def test_hinges_of_pairs(dtype):
    """Of labels that are shares too, a pair at the margin, and an absent class."""
    rows = (0.5, 0.5, 0.5), (0.25, 1.25, 2.0), (2.0, 0.0, -1.0), (1.0, 3.0, -INF), (9.0, -7.0, 8.5)
    labels = (1.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.25, 1.0), (1.0, 0.5, 0.0), (0.0, 0.0, 1.0)
    values, (of_x, of_labels), ((_, x_labels), _) = everything(
        margins.hinges_of_pairs, dtype, rows, labels
    )
    pairs = list(itertools.permutations(range(3), 2))
    for i, (row, shares) in enumerate(zip(rows, labels, strict=True)):
        x, y, classes = (
            list(map(mp.mpf, row)),
            list(map(mp.mpf, shares)),
            sum(z > -INF for z in row),
        )
        lacks = {(a, b): 1 + x[b] - x[a] if x[b] > -INF else -mp.inf for a, b in pairs}
        value, slope, in_labels, mixed = mp.mpf(0), [0] * 3, [0] * 3, np.zeros((3, 3), object)
        for (a, b), lack in lacks.items():
            hinge, step = max(lack, 0), int(lack > 0)
            pair = y[a] * (1 - y[b]) / classes
            value += pair * hinge if pair else 0
            slope[a], slope[b] = slope[a] - pair * step, slope[b] + pair * step
            in_labels[a] += (1 - y[b]) * hinge / classes if y[b] != 1 else 0
            in_labels[b] -= y[a] * hinge / classes if y[a] else 0
            for end, sign in ((a, -step), (b, step)):
                mixed[end, a] += sign * (1 - y[b]) / classes
                mixed[end, b] -= sign * y[a] / classes
        agree(values[i], [value], dtype)
        agree(of_x[i], slope, dtype)
        agree(of_labels[i], in_labels, dtype, floor=1)
        agree(x_labels[i], mixed, dtype)


# with ties, with shares of exactly 0 at the threshold, and absent classes
SPARSE = (
    (0.5, 0.5, 0.5),
    (0.25, -1.5, 0.75),
    (0.25, -0.25, 0.5),
    (1.0, 0.0, -7.0),
    (0.75, 0.75, 0.0),
    (20.0, 0.0, 19.5),
    (10000.25, 9998.5, 10000.0),
    (1.0, -INF, 0.5),
    (-INF, 2.0, -INF),
)


def nearest(logits):
    """The threshold, p and ∂pᵢ / ∂xⱼ: of every set of classes the one that takes its own."""
    x, n = [mp.mpf(z) for z in logits], range(len(logits))
    sets = itertools.chain(*(itertools.combinations(n, 1 + size) for size in n))
    asked = {taken: (mp.fsum(x[i] for i in taken) - 1) / len(taken) for taken in sets}
    taken = next(s for s in asked if all((x[i] > asked[s]) == (i in s) for i in n))
    p = [x[i] - asked[taken] if i in taken else mp.mpf(0) for i in n]
    share = mp.mpf(1) / len(taken)
    of_p = [((i == j) - share) * (i in taken) * (j in taken) for i in n for j in n]
    return asked[taken], p, of_p


@DTYPES
def test_sparsemax(dtype):
    value, (slope,), ((curve,),) = everything(sparsemax.sparsemax, dtype, SPARSE)
    for i, row in enumerate(SPARSE):
        _, p, moves_of_p = nearest(row)
        agree(value[i], p, dtype)
        agree(slope[i], moves_of_p, dtype)
    assert not curve.any()


@DTYPES
@pytest.mark.parametrize("label", [0, 1, 2])
def test_sparsemax_loss_at(label, dtype):
    loss = functools.partial(sparsemax.sparsemax_loss_at, labels=jnp.array(label))
    value, (slope,), ((curve,),) = everything(loss, dtype, SPARSE)
    for i, row in enumerate(SPARSE):
        threshold, p, moves_of_p = nearest(row)
        squares = [(x**2 - threshold**2) / 2 for x, share in zip(row, p, strict=True) if share]
        agree(value[i], [mp.fsum(squares) - mp.mpf(row[label]) + mp.mpf(1) / 2], dtype)
        off = mp.fsum(share for j, share in enumerate(p) if j != label)
        agree(slope[i], [-off if j == label else share for j, share in enumerate(p)], dtype)
        agree(curve[i], moves_of_p, dtype)


@DTYPES
def test_sparsemax_of_infinite_logits(dtype):
    won, empty = jnp.array([0.0, INF, -INF], dtype), jnp.full(3, -INF, dtype)
    np.testing.assert_array_equal(sparsemax.sparsemax(won), [0, 1, 0])
    assert sparsemax.sparsemax_loss_at(won, jnp.array(1)) == 0
    assert sparsemax.sparsemax_loss_at(won, jnp.array(0)) == INF
    assert np.isnan(sparsemax.sparsemax(empty)).all()
