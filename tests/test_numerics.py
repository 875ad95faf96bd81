"""Every function of the numerics against mpmath: value, first and second derivatives, edges.

The unit of an error is what one ulp of each argument does to the truth, plus one ulp of it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxloss.core import kernels, numerics, over_classes

INF, NAN = float("inf"), float("nan")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
TOLERANCE = 8  # ulps
REAL = (-300.0, -40.0, -3.0, -0.7, -1e-3, 1e-4, 0.4, 1.5, 20.0, 90.0)
POSITIVE = (1e-15, 1e-3, 0.2, 1.0, 7.0, 60.0, 1e12)
SHARE = (0.0625, 0.5, 0.9)
TINY = 2.0**-126


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True), mp.workdps(150):
        yield


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One function of numbers, its truth, and where it is compared with it."""

    function: Callable[..., Any]
    truth: Callable[..., Any]
    points: tuple[tuple[float, ...], ...]
    tolerance: float = 6  # units
    # arguments -> (value, gradient) or (value, gradient, Hessian)
    edges: dict[tuple[float, ...], tuple[Any, ...]] = dataclasses.field(default_factory=dict)


def grid(*axes):
    return tuple(itertools.product(*axes))


def sign(x):
    return mp.mpf(x > 0) - mp.mpf(x < 0)


def xlogy(x, y):
    return x * mp.log(y)


def log_mixture(x, share):
    return mp.log1p(share * mp.expm1(x))


def divergence_from_mixture(x, y, beta):
    p, q = mp.exp(x), mp.exp(y)
    m = beta * q + (1 - beta) * p
    return beta * q * mp.log(q / m) + (1 - beta) * p * mp.log(p / m)


def huber(x, y, delta):
    c = min(abs(x - y), delta)
    return c * (abs(x - y) - c / 2)


def logistic_loss(x, y):
    return y * mp.log1p(mp.exp(-x)) + (1 - y) * mp.log1p(mp.exp(x))


def miss(x, y):
    return (1 - y) / (1 + mp.exp(-x)) + y / (1 + mp.exp(x))


NUMBERS = [
    Row(
        function=numerics.xlogy,
        truth=xlogy,
        points=grid((-2.0, 1e-6, 3.0), POSITIVE),
        edges={
            (0.0, 0.0): (0, (0, 0), 0),
            (0.0, INF): (0, (0, 0), 0),
            (0.0, 0.25): (0, (-2 * np.log(2), 0)),
            (2.0, 0.0): (-INF, (-INF, INF)),
        },
    ),
    Row(
        function=numerics.xlog1py,
        truth=lambda x, y: x * mp.log1p(y),
        points=grid((-2.0, 1e-6, 3.0), (-0.9, -1e-9, *POSITIVE)),
        edges={(0.0, -1.0): (0, (0, 0), 0), (0.0, INF): (0, (0, 0), 0)},
    ),
    Row(
        function=numerics.xtimes,
        truth=lambda x, y: x * y,
        points=grid((-2.0, 1e-6), REAL),
        edges={
            (0.0, -INF): (0, (0, 0)),
            (0.0, INF): (0, (0, 0)),
            (0.0, 3.0): (0, (3, 0)),
            (2.0, -INF): (-INF, (-INF, 2)),
        },
    ),
    Row(
        function=numerics.blend,
        truth=lambda share, x, y: (1 - share) * x + share * y,
        points=grid(SHARE, (-2.0, 1e-6), REAL[::3]),
        edges={(0.0, 2.0, INF): (2, (-2, 1, 0)), (1.0, -INF, 3.0): (3, (3, 0, 1))},
    ),
    Row(
        function=numerics.ratio,
        truth=lambda x, y: x / y,
        points=grid((-3.0, 1e-12, 5.0), (-7.0, 1e-9, 2.0, 1e9)),
        edges={
            (0.0, 0.0): (0, (0, 0), 0),
            (2.0, 0.0): (0, (0, 0), 0),
            (2.0, INF): (0, (0, 0)),
            (TINY, TINY): (1, (1 / TINY, -1 / TINY)),
        },
    ),
    Row(
        function=numerics.fraction,
        truth=lambda x, y: x / (x + y),
        points=grid(POSITIVE, POSITIVE),
        edges={
            (0.0, 0.0): (0, (0, 0), 0),
            (0.0, 2.0): (0, (0.5, 0)),
            (2.0, 0.0): (1, (0, -0.5)),
        },
    ),
    Row(
        function=numerics.safe_sqrt,
        truth=mp.sqrt,
        points=grid(POSITIVE),
        edges={(0.0,): (0, (0,), 0)},
    ),
    Row(
        function=numerics.finite,
        truth=lambda x: x,
        points=grid(REAL),
        edges={(-INF,): (-INF, (1,), 0)},
    ),
    Row(
        function=numerics.signed,
        truth=lambda x, s: x * s,
        points=grid(REAL, (-1.0, 1.0)),
        edges={(-INF, 1.0): (-INF, (1, None)), (0.0, -1.0): (0, (-1, 0))},
    ),
    Row(
        function=numerics.sigmoid,
        truth=lambda x: 1 / (1 + mp.exp(-x)),
        points=grid(REAL[1:]),
        edges={(INF,): (1, (0,), 0), (-INF,): (0, (0,), 0), (0.0,): (0.5, (0.25,), 0)},
    ),
    Row(
        function=numerics.slope_of_sigmoid,
        truth=lambda x: 1 / ((1 + mp.exp(-x)) * (1 + mp.exp(x))),
        points=grid(REAL[1:]),
        edges={(INF,): (0, (0,), 0), (-INF,): (0, (0,), 0), (0.0,): (0.25, (0,), -0.125)},
    ),
    Row(
        function=numerics.tanh,
        truth=mp.tanh,
        points=grid(REAL[2:-2]),
        edges={(INF,): (1, (0,), 0), (-INF,): (-1, (0,), 0), (0.0,): (0, (1,), 0)},
    ),
    Row(
        function=numerics.softplus,
        truth=lambda x: mp.log1p(mp.exp(x)),
        points=grid(REAL[1:]),
        edges={(INF,): (INF, (1,), 0), (-INF,): (0, (0,), 0), (0.0,): (np.log(2), (0.5,), 0.25)},
    ),
    Row(
        function=numerics.log1mexp,
        truth=lambda x: mp.log(-mp.expm1(-x)),
        points=grid((1e-30, 1e-9, 0.1, 0.69, 0.7, 0.9, 1.0, 1.2, 2.0, 20.0, 80.0)),
        edges={(0.0,): (-INF, (INF,)), (INF,): (0, (0,), 0)},
    ),
    Row(
        function=numerics.log_cosh,
        truth=lambda x: mp.log(mp.cosh(x)),
        points=grid((*REAL[1:-1], 0.499, 0.501)),
        edges={(0.0,): (0, (0,), 1), (INF,): (INF, (1,), 0), (-INF,): (INF, (-1,), 0)},
    ),
    Row(
        function=kernels.logistic_loss,
        truth=logistic_loss,
        points=grid(REAL[1:-1], SHARE),
        edges={
            (INF, 1.0): (0, (0, -INF)),
            (-INF, 0.0): (0, (0, INF)),
            (INF, 0.0): (INF, (1, -INF)),
            (-INF, 0.5): (INF, (-0.5, INF)),
            (0.0, 1.0): (np.log(2), (-0.5, 0)),
        },
    ),
    Row(
        function=kernels.miss,
        truth=miss,
        points=grid(REAL[1:-1], SHARE),
        edges={(INF, 1.0): (0, (0, -1)), (-INF, 1.0): (1, (0, 1)), (0.0, 0.0): (0.5, (0.25, 0))},
    ),
    Row(
        function=kernels.focal,
        truth=lambda miss, loss, gamma: miss**gamma * loss,
        points=grid((1e-5, 0.3, 1.0), (1e-5, 0.4, 30.0), (0.5, 2.0, 3.5)),
        edges={(0.0, 0.0, 2.0): (0, (0, 0, 0)), (1.0, 5.0, 0.0): (5, (0, 1, 0))},
    ),
    Row(
        function=numerics.absolute,
        truth=abs,
        points=grid(REAL),
        edges={(0.0,): (0, (0,), 0), (-INF,): (INF, (-1,), 0)},
    ),
    Row(
        function=kernels.pinball,
        truth=lambda x, q: max(q * x, (q - 1) * x),
        points=grid(REAL, SHARE),
        edges={(0.0, 0.75): (0, (0.25, 0)), (-INF, 0.75): (INF, (-0.25, -INF))},
    ),
    Row(
        function=kernels.relative_error,
        truth=lambda x, y: abs(x - y) / abs(y),
        points=grid(REAL, (-2.5, 1e-5, 40.0)),
        edges={(2.0, 2.0): (0, (0, 0)), (2.0, 0.0): (INF, (INF, None))},
    ),
    Row(
        function=kernels.huber,
        truth=huber,
        points=grid(REAL, (0.25, 80.0), (0.125, 3.0)),
        edges={
            (2.0, 2.0, 1.0): (0, (0, 0, 0)),
            (INF, 2.0, 0.5): (INF, (0.5, -0.5, INF)),
            (-1e30, 2.0, 0.5): (5e29, (-0.5, 0.5, 1e30)),
        },
    ),
    Row(
        function=kernels.smooth_l1,
        truth=lambda x, y, beta: huber(x, y, beta) / beta,
        points=grid(REAL, (0.25, 80.0), (0.125, 3.0)),
        edges={
            (2.0, 2.0, 1.0): (0, (0, 0, 0)),
            (2.0, 2.0, 0.0): (0, (0, 0, 0)),
            (5.0, 2.0, 0.0): (3, (1, -1, -0.5)),
        },
    ),
    Row(
        function=kernels.gaussian_nll,
        truth=lambda mean, variance, y: (mp.log(variance) + (mean - y) ** 2 / variance) / 2,
        points=grid((-3.0, 0.5, 100.0), (1e-9, 0.3, 1e6), (0.25,)),
        edges={
            (1.0, 1.0, 1.0): (0, (0, 0.5, 0)),
            (1e30, 1e38, 0.0): (np.log(1e38) / 2 + 5e21, (1e-8, -5e-17, -1e-8)),
            (1e-15, 1e-28, 0.0): (np.log(1e-28) / 2 + 5e-3, (1e13, 4.95e27, -1e13)),
        },
    ),
    Row(
        function=numerics.log_factorial,
        tolerance=24,  # XLA's lgamma
        truth=lambda n: mp.loggamma(n + 1),
        points=grid((0.5, 2.0, 3.0, 5.0, 17.0, 250.0, 1e5)),
        edges={(0.0,): (0, (-np.euler_gamma,)), (1.0,): (0, (1 - np.euler_gamma,))},
    ),
    Row(
        function=numerics.log_mixture,
        truth=log_mixture,
        points=grid((-70.0, -3.0, -0.5, -1e-6, 1e-6, 0.5, 1.2, 30.0, 80.0), SHARE),
        edges={
            (0.0, 0.25): (0, (0.25, 0)),
            (INF, 0.25): (INF, (1, 4)),
            (-INF, 0.25): (np.log(0.75), (0, -4 / 3)),
        },
    ),
    Row(
        function=kernels.divergence_from_mixture,
        truth=divergence_from_mixture,
        points=grid((-80.0, -3.0, -0.5), (-60.0, -2.5, -0.25), SHARE),
        edges={
            (-INF, -INF, 0.5): (0, (0, 0, 0), 0),
            (-INF, 0.0, 0.5): (np.log(2) / 2, (0, np.log(2) / 2, None)),
            (-0.5, -0.5, 0.25): (0, (0, 0, 0)),
        },
    ),
    Row(
        function=over_classes.soft_cap,
        truth=lambda x, cap: cap * mp.tanh(x / cap),
        points=grid((-3.0, 0.75, 20.0), (0.5, 1.0)),
        tolerance=24,  # tanh u - u·tanh' u, where u = x / cap
        edges={
            (0.0, 3.0): (0, (1, 0), 0),
            (-INF, 3.0): (-INF, (1, 0), 0),
            (INF, 3.0): (3, (0, None)),
        },
    ),
]


def derivative(f, point, orders):
    """∂f by nested central differences, whose steps are 1e-30 of the arguments: 60 digits."""
    if not any(orders):
        return f(*point)
    k = next(i for i, order in enumerate(orders) if order)
    fewer = tuple(order - (i == k) for i, order in enumerate(orders))
    h = abs(point[k]) * mp.mpf(10) ** -30
    up, down = (
        derivative(f, tuple(x + s * h * (i == k) for i, x in enumerate(point)), fewer)
        for s in (1, -1)
    )
    return (up - down) / (2 * h)


def check(got, row, point, orders, dtype):
    """`got` is within a few units of ∂f, and the unit is what an ulp of every argument does."""
    want = derivative(row.truth, point, orders)
    further = [tuple(n + (i == k) for i, n in enumerate(orders)) for k in range(len(point))]
    moves = [abs(x * derivative(row.truth, point, o)) for x, o in zip(point, further, strict=True)]
    info = np.finfo(dtype)
    if abs(want) <= float(info.max) / 4:
        unit = float(info.eps) * (abs(want) + mp.fsum(moves))
        error = abs(mp.mpf(float(got)) - want)
        what = (*map(float, point), orders, float(got), float(want), float(error / (unit or 1)))
        assert error <= row.tolerance * unit + float(info.tiny), what


@functools.cache
def everything(function, dtype, *columns):
    """Value, gradient and Hessian at many points (or rows) at once, in one program."""
    every = tuple(range(len(columns)))
    slope = jax.jacrev(function, every)
    program = jax.jit(jax.vmap(lambda *x: (function(*x), slope(*x), jax.jacfwd(slope, every)(*x))))
    return jax.tree.map(np.asarray, program(*(jnp.array(c, dtype) for c in columns)))


def evaluated(row, dtype):
    points = [tuple(float(x) for x in np.array(p, dtype)) for p in (*row.points, *row.edges)]
    return points, everything(row.function, dtype, *zip(*points, strict=True))


@DTYPES
@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.function.__name__)
def test_derivatives_of_every_order(row, dtype):
    points, (value, slope, curve) = evaluated(row, dtype)
    assert value.dtype == dtype
    one = np.eye(len(points[0]), dtype=int).tolist()
    for n, point in enumerate(points[: len(row.points)]):
        exact = tuple(mp.mpf(x) for x in point)
        check(value[n], row, exact, (0,) * len(one), dtype)
        for i, j in itertools.product(range(len(one)), repeat=2):
            check(slope[i][n], row, exact, tuple(one[i]), dtype)
            both = tuple(a + b for a, b in zip(one[i], one[j], strict=True))
            check(curve[i][j][n], row, exact, both, dtype)


@DTYPES
@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.function.__name__)
def test_edges(row, dtype):
    """At 0 and ±∞ the limit, or the convention that the docstring names; None is anything."""
    _, (value, slope, curve) = evaluated(row, dtype)
    for n, (point, wanted) in enumerate(row.edges.items(), start=len(row.points)):
        of_value, of_slope, *of_curve = wanted
        got = [value[n], *(each[n] for each in slope)]
        want = [of_value, *(got[i] if w is None else w for i, w in enumerate(of_slope, start=1))]
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=str(point))
        for each in jax.tree.leaves(curve) if of_curve else ():
            np.testing.assert_allclose(each[n], of_curve[0], rtol=1e-6, err_msg=str(point))


# ---- functions of a row of classes, or of a vector

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


def agree(got, want, dtype, tolerance=TOLERANCE, floor=0.0):
    """Entry by entry, in ulps of the entry (and of `floor`)."""
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    for g, w in zip(np.ravel(got), np.ravel(np.array(want, object)), strict=True):
        if mp.isfinite(w):
            error = abs(mp.mpf(float(g)) - w)
            assert error <= tolerance * eps * (abs(w) + floor) + tiny, (g, w)
        else:
            assert g == float(w), (g, w)


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
    for row, p, q, (value, (slope,), ((curve,),)) in classes_of(over_classes.softmax, dtype):
        agree(value, p, dtype)
        agree(slope, moves(p, q), dtype)
        agree(curve, turns(p, q), dtype, floor=1)
        rest = everything(over_classes.complement_of_softmax, dtype, (row,))
        agree(rest[0], q, dtype)
        np.testing.assert_array_equal(rest[1][0][0], -slope)
        np.testing.assert_array_equal(rest[2][0][0][0], -curve)


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


def at_label(label):
    return lambda logits: over_classes.cross_entropy_at(logits, jnp.array(label))


@DTYPES
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_at(label, dtype):
    three = tuple(row for row in LOGITS if len(row) == 3)
    value, (slope,), ((curve,),) = everything(at_label(label), dtype, three)
    for i, row in enumerate(three):
        p, q = probabilities(row)
        agree(value[i], [-log(p[label], q[label])], dtype, 64)  # exp of a rounded exponent
        agree(slope[i], [-q[k] if k == label else p[k] for k in range(3)], dtype, 64)
        agree(curve[i], moves(p, q), dtype, floor=1)


@DTYPES
@pytest.mark.parametrize(
    "function", [over_classes.cross_entropy, over_classes.spread_cross_entropy]
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
def test_a_row_without_classes_and_infinite_logits(dtype):
    empty, won = jnp.full(3, -INF, dtype), jnp.array([0.0, INF, -INF], dtype)
    assert over_classes.logsumexp(empty) == -INF
    assert not jax.grad(over_classes.logsumexp)(empty).any()
    assert (
        np.isnan(over_classes.softmax(empty)).all()
        and np.isnan(over_classes.log_softmax(empty)).all()
    )
    np.testing.assert_array_equal(over_classes.softmax(won), [0, 1, 0])
    np.testing.assert_array_equal(over_classes.complement_of_softmax(won), [1, 0, 1])
    np.testing.assert_array_equal(over_classes.log_softmax(won), [-INF, 0, -INF])
    assert over_classes.cross_entropy_at(won, jnp.array(1)) == 0
    assert over_classes.cross_entropy_at(won, jnp.array(0)) == INF
    for f in (over_classes.softmax, over_classes.log_softmax):
        assert np.isfinite(jax.jacrev(f)(won)).all() and np.isfinite(jax.jacfwd(f)(won)).all()


VECTORS = ((3.0, -4.0, 12.0), (1e-30, 1e-30, -1e-30), (1e30, -2e30, 1e30), (0.0, 5.0, 0.0))


@DTYPES
def test_norm_and_direction(dtype):
    norms, directions = (
        everything(f, dtype, VECTORS) for f in (numerics.safe_norm, numerics.normalized)
    )
    for i, vector in enumerate(np.array(VECTORS, dtype)):
        x = [mp.mpf(float(z)) for z in vector]
        norm = mp.sqrt(mp.fsum(z**2 for z in x))
        u = [z / norm for z in x]
        across = [((j == k) - u[j] * u[k]) / norm for j in range(3) for k in range(3)]
        agree(norms[0][i], [norm], dtype)
        agree(directions[0][i], u, dtype)
        agree(norms[1][0][i], u, dtype)
        agree(norms[2][0][0][i], across, dtype, floor=1 / norm)
        agree(directions[1][0][i], across, dtype, floor=1 / norm)


@DTYPES
def test_the_zero_vector_has_no_direction(dtype):
    zero, beyond = jnp.zeros(3, dtype), jnp.array([INF, 1.0, 0.0], dtype)
    for f in (numerics.safe_norm, numerics.normalized):
        for g in (f, jax.jacfwd(f), jax.jacrev(f), jax.jacfwd(jax.jacrev(f))):
            assert not np.any(g(zero))
    assert numerics.safe_norm(beyond) == INF
    np.testing.assert_array_equal(numerics.normalized(beyond), [1, 0, 0])


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


def test_closed_form_evaluates_what_is_differentiated():
    """A partial of an argument that is not differentiated would be NaN · 0 here."""

    @numerics.closed_form(lambda x, y: y, lambda x, y: x * jnp.nan)
    def product(x, y):
        return x * y

    assert jax.grad(product)(2.0, 3.0) == 3
    assert np.isnan(jax.grad(product, 1)(2.0, 3.0))
    assert product.__name__ == "product"


LOGIT = st.floats(-120, 120, width=32)


@given(st.lists(LOGIT, min_size=4, max_size=4), st.floats(-1000, 1000, width=32))
def test_probabilities_of_any_row(logits, shift):
    x = jnp.array(logits, jnp.float32)
    p, q = over_classes.softmax(x), over_classes.complement_of_softmax(x)
    np.testing.assert_allclose(p + q, 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(p), 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(over_classes.log_softmax(x)), p, rtol=2e-5, atol=1e-37)
    away = jnp.max(x) - x + shift  # a shift of exact logits changes nothing
    exact = jnp.round(16 * away) / 16
    np.testing.assert_array_equal(over_classes.softmax(-exact), over_classes.softmax(-exact + 64))


@given(st.floats(0, 700), st.floats(2**-10, 1 - 2**-10))
def test_mixtures_are_between_their_ends(x, share):
    for end in (x, -x):
        value = float(numerics.log_mixture(jnp.float64(end), jnp.float64(share)))
        assert min(0, end) <= value <= max(0, end)
    divergence = kernels.divergence_from_mixture(
        jnp.float64(-x), jnp.float64(0), jnp.float64(share)
    )
    assert divergence >= -1e-16


def test_every_public_function_is_here():
    text = Path(__file__).read_text()
    for module in (numerics, kernels, over_classes):
        for name, function in vars(module).items():
            if callable(function) and getattr(function, "__module__", "") == module.__name__:
                tested = f"{module.__name__.split('.')[-1]}.{name}" in text
                assert tested or name.startswith("_"), f"{name} is not tested"
