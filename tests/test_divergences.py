"""Divergences of two rows of logits against mpmath: value, first and second derivatives, edges."""

import itertools

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from test_over_classes import THREE, log, moves, probabilities
from ulps import DTYPES, INF, agree, everything

from jaxloss.core import divergences, kernels

pytestmark = pytest.mark.usefixtures("wide")

# student, teacher
PAIRS = (
    ((0.5, 0.5, 0.5), (0.25, -1.5, 2.0)),
    ((0.375, -0.125, 1.6875), (0.5, 0.5625, -0.125)),
    ((0.25, -1.5, 2.0), (0.3125, -1.5, 2.0)),
    ((0.25, -1.5 + 2.0**-9, 2.0), (0.25, -1.5, 2.0)),
    ((20.0, 0.0, -1.0), (80.0, 80.0, 0.0)),
    ((80.0, 0.0, -1.0), (81.5, 0.0, -1.0)),
    ((0.0, 100.0, 3.0), (100.0, 0.0, 3.0)),
    ((10000.25, 9998.5, 10002.0), (0.25, -1.5, 2.5)),
    ((1.0, -INF, 3.0), (3.0, -INF, 1.5)),
    ((1.0, 0.5, 3.0), (3.0, -INF, 1.5)),
)
SAME = (*zip(THREE, THREE, strict=True), *((row, tuple(x + 64 for x in row)) for row in THREE))
BEYOND = (1.0, -INF, 3.0), (0.0, 2.0, -INF)


def of_pairs(function, dtype):
    pairs = zip(*(*PAIRS, *SAME, BEYOND), strict=True)
    return everything(function, dtype, *pairs)


def shrinkage(p, q, x, y):
    """p - q, which are close, without a subtraction."""
    norm = mp.log(mp.fsum(map(mp.exp, y)) / mp.fsum(map(mp.exp, x)))
    return [b * mp.expm1(c - d + norm) if b else a for a, b, c, d in zip(p, q, x, y, strict=True)]


@DTYPES
def test_kullback_leibler(dtype):
    values, slopes, curves = of_pairs(divergences.kullback_leibler, dtype)
    for i, (x, y) in enumerate(PAIRS):
        (p, off), (q, of_q) = probabilities(x), probabilities(y)
        logs = zip(map(log, q, of_q), map(log, p, off), strict=True)
        change = [b and of_q - of_p for b, (of_q, of_p) in zip(q, logs, strict=True)]
        value = mp.fsum(b * c for b, c in zip(q, change, strict=True))
        gaps = [c - value for c in change]
        agree(values[i], [value], dtype)
        agree(slopes[0][i], shrinkage(p, q, x, y), dtype)
        agree(slopes[1][i], [b * gap for b, gap in zip(q, gaps, strict=True)], dtype)
        agree(curves[0][0][i], moves(p, off), dtype, floor=1)
        agree(curves[0][1][i], [-move for move in moves(q, of_q)], dtype, floor=1)
        agree(curves[1][0][i], [-move for move in moves(q, of_q)], dtype, floor=1)
        pairs = itertools.product(range(3), repeat=2)
        turned = [
            move * (1 + gaps[j]) - q[j] * q[k] * gaps[k]
            for move, (j, k) in zip(moves(q, of_q), pairs, strict=True)
        ]
        agree(curves[1][1][i], turned, dtype, floor=1 + max(map(abs, gaps)))


@DTYPES
def test_the_divergence_of_equals_is_exactly_nothing(dtype):
    values, slopes, _ = of_pairs(divergences.kullback_leibler, dtype)
    for each in values, *slopes:
        assert not each[len(PAIRS) : -1].any()


@DTYPES
def test_the_divergence_from_an_absent_class_is_infinite(dtype):
    values, slopes, _ = of_pairs(divergences.kullback_leibler, dtype)
    assert values[-1] == INF
    (p, _), (q, _) = map(probabilities, BEYOND)
    agree(slopes[0][-1], [a - b for a, b in zip(p, q, strict=True)], dtype)


APART = (
    ((8.0, 6.0, -20.0), (-16.0, -12.0, 5.0)),
    ((0.0, -3.0, -60.0), (-70.0, -64.0, 0.0)),
    ((1.0, -INF, 3.0), (0.0, 2.0, -INF)),
)


def js(x, y, beta):
    """The value; the slopes by x, by y and by β."""
    p, q = probabilities(x)[0], probabilities(y)[0]
    mixed = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
    of_p, of_q = (
        [each and mp.log(each / m) for each, m in zip(r, mixed, strict=True)] for r in (p, q)
    )
    from_p, from_q = (mp.fsum(map(mp.fmul, *pair)) for pair in ((p, of_p), (q, of_q)))
    sides = (1 - beta, p, of_p, from_p), (beta, q, of_q, from_q)
    slopes = [
        share * each * (gap - mean)
        for share, r, gaps, mean in sides
        for each, gap in zip(r, gaps, strict=True)
    ]
    return beta * from_q + (1 - beta) * from_p, [*slopes, from_q - from_p]


def js_slopes(numbers):
    return js(numbers[:3], numbers[3:6], numbers[6])[1]


def curves_of(numbers):
    """The change of every slope by every number, of 30 digits."""
    step, changes = mp.mpf(2) ** -100, []
    for i, number in enumerate(numbers):
        up, down = (js_slopes([*numbers[:i], number + s, *numbers[i + 1 :]]) for s in (step, -step))
        changes.append([(a - b) / (2 * step) for a, b in zip(up, down, strict=True)])
    return np.array(changes, object).T


def gain(q, change):
    return q * (mp.expm1(change) - change)


@DTYPES
@pytest.mark.parametrize("beta", [0.5, 2.0**-30])
def test_gains(dtype, beta):
    """No one is negative, and each has its digits however close the two are."""
    changes = jnp.array([-80.0, -3.0, -1.0, -(2.0**-20), 0.0, 2.0**-9, 1.0, 2.5, 70.0], dtype)
    with mp.workdps(120):
        exact = [mp.mpf(float(c)) for c in changes]
        p, share = [mp.exp(c) / 4 for c in exact], mp.mpf(beta)
        over = [(mp.log1p(share * mp.expm1(-c)), p) for c, p in zip(exact, p, strict=True)]
        of_p = [gain(p, change) for change, p in over]
        of_q = [gain(0.25, change + c) for c, (change, _) in zip(exact, over, strict=True)]
        wanted = [gain(0.25, c) for c in exact]
    p, q = np.array(p, dtype), np.full_like(changes, 0.25)
    got = kernels.information_gain(jnp.asarray(p), jnp.asarray(q), changes)
    agree(got, wanted, dtype)
    share = jnp.asarray(beta, dtype)
    of_both = kernels.gains_from_mixture(jnp.asarray(p), jnp.asarray(q), -changes, share)
    for each, want in zip(of_both, (of_p, of_q), strict=True):
        agree(each, want, dtype)


@DTYPES
@pytest.mark.parametrize("beta", [0.5, 0.125, 1 - 2.0**-10, 2.0**-20])
def test_jensen_shannon(dtype, beta):
    pairs = *PAIRS, *SAME[:3], *APART
    points = [(*x, *y, beta) for x, y in pairs]
    columns = *zip(*pairs, strict=True), (beta,) * len(pairs)
    values, slopes, curves = everything(divergences.jensen_shannon, dtype, *columns)
    for i, point in enumerate(points):
        with mp.workdps(120):
            numbers = [mp.mpf(each) for each in point]
            value, wanted = js(numbers[:3], numbers[3:6], numbers[6])
            turned = curves_of(numbers)
        agree(values[i], [value], dtype)
        for side in range(2):  # the slopes of a row sum to 0
            want = wanted[3 * side : 3 * side + 3]
            agree(slopes[side][i], want, dtype, floor=max(map(abs, want)))
        agree(slopes[2][i], wanted[-1:], dtype, floor=value / min(beta, 1 - beta))
        rows = zip((3, 3, 1), curves, strict=True)
        got = [[np.reshape(each[i], (size, -1)) for each in row] for size, row in rows]
        agree(np.block(got), turned, dtype, floor=1)
