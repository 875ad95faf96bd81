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
import test_divergences
import test_over_classes
import test_vectors
from hypothesis import given
from hypothesis import strategies as st
from ulps import DTYPES, INF, NAN, everything

from jaxloss.core import (
    class_options,
    divergences,
    kernels,
    margins,
    numerics,
    over_classes,
    sparsemax,
    vectors,
)

pytestmark = pytest.mark.usefixtures("wide")

REAL = (-300.0, -40.0, -3.0, -0.7, -1e-3, 1e-4, 0.4, 1.5, 20.0, 90.0)
POSITIVE = (1e-15, 1e-3, 0.2, 1.0, 7.0, 60.0, 1e12)
SHARE = (0.0625, 0.5, 0.9)
TINY = 2.0**-126


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One function of numbers, its truth, and where it is compared with it."""

    function: Callable[..., Any]
    truth: Callable[..., Any]
    points: tuple[tuple[float, ...], ...]
    tolerance: float = 6  # units
    cancelling: float = 0  # size of terms that cancel, whose ulp the unit has too
    # arguments -> (value, gradient) or (value, gradient, Hessian)
    edges: dict[tuple[float, ...], tuple[Any, ...]] = dataclasses.field(default_factory=dict)


def grid(*axes):
    return tuple(itertools.product(*axes))


def sign(x):
    return mp.mpf(x > 0) - mp.mpf(x < 0)


def of_entries(function):
    """The function of vectors of two entries as one of numbers; an odd one out stays a number."""

    @functools.wraps(function)
    def of_numbers(*x):
        whole = len(x) // 2 * 2
        return function(*(jnp.stack(x[n : n + 2]) for n in range(0, whole, 2)), *x[whole:])

    return of_numbers


def cosine(a, b, c, d):
    return (a * c + b * d) / mp.sqrt((a * a + b * b) * (c * c + d * d))


def box_cox(x, power):
    return mp.expm1(power * mp.log(x)) / power


def sparse_plus(x):
    return mp.mpf(0) if x < -1 else x if x > 1 else (x + 1) ** 2 / 4


def xlogy(x, y):
    return x * mp.log(y)


def of_shares(x, share):
    return numerics.log_mixture(x, share, 1 - share)


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
        function=numerics.expm1,
        truth=mp.expm1,
        points=grid((-40.0, -3.0, -1e-3, 1e-4, 0.4, 20.0)),
        edges={(0.0,): (0, (1,), 1), (INF,): (INF, (INF,), INF), (-INF,): (-1, (0,), 0)},
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
        function=numerics.positive_part,
        truth=lambda x: max(x, mp.mpf(0)),
        points=grid(REAL),
        edges={
            (0.0,): (0, (0,), 0),
            (INF,): (INF, (1,), 0),
            (-INF,): (0, (0,), 0),
            (NAN,): (NAN, (1,)),
        },
    ),
    Row(
        function=numerics.apart,
        truth=lambda x, y: x - y,
        points=grid(REAL, (-2.5, 1e-4, 40.0)),
        edges={
            (2.0, 2.0): (0, (1, -1), 0),
            (INF, INF): (0, (0, 0), 0),
            (-INF, -INF): (0, (0, 0), 0),
            (INF, -INF): (INF, (1, -1), 0),
            (2.0, INF): (-INF, (1, -1), 0),
        },
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
        function=numerics.log_add,
        truth=lambda x, y: mp.log(mp.exp(x) + mp.exp(y)),
        points=grid(REAL[1:-1:2], REAL[1:-1]),
        edges={
            (-INF, -INF): (-INF, (0.5, 0.5), 0),
            (INF, INF): (INF, (0.5, 0.5), 0),
            (-INF, 3.0): (3, (0, 1), 0),
            (3.0, INF): (INF, (0, 1), 0),
            (1.5, 1.5): (1.5 + np.log(2), (0.5, 0.5)),
        },
    ),
    Row(
        function=numerics.second_order,
        truth=lambda x: (mp.expm1(x) - x) / x**2,
        points=grid((-1.0, -0.7, -1e-3, 1e-12, 0.4, 1.0)),
        edges={(0.0,): (0.5, (1 / 6,), 1 / 12)},
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
        function=kernels.sigmoid_focal,
        truth=lambda x, y, gamma: miss(x, y) ** gamma * logistic_loss(x, y),
        points=grid(REAL[2:-2], SHARE, (0.5, 2.0)),
        edges={
            (INF, 1.0, 2.0): (0, (0, 0, 0)),
            (-INF, 0.0, 2.0): (0, (0, 0, 0)),
            (INF, 0.0, 2.0): (INF, (1, -INF, 0)),
        },
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
        function=of_shares,
        truth=log_mixture,
        points=grid((-70.0, -3.0, -0.5, -1e-6, 1e-6, 0.5, 1.2, 30.0, 80.0), SHARE),
        edges={
            (0.0, 0.25): (0, (0.25, 0)),
            (INF, 0.25): (INF, (1, 4)),
            (-INF, 0.25): (np.log(0.75), (0, -4 / 3)),
        },
    ),
    Row(
        function=kernels.relative_entropy,
        truth=lambda log_p, q: q * (mp.log(q) - log_p),
        points=grid((-80.0, -3.0, -0.5), SHARE),
        cancelling=1,
        edges={
            (-INF, 0.0): (0, (0, 0)),
            (-INF, 0.5): (INF, (-0.5, INF)),
            (-1.0, 0.0): (0, (0, 1)),
            (-1.0, -0.5): (NAN, (0.5, NAN)),
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
        function=margins.sparse_margin,
        truth=lambda x, y: sparse_plus((1 - 2 * y) * x),
        points=grid((*REAL, -1.1, -0.999, 0.999, 1.1), (0.0625, 0.9)),
        cancelling=1,
        edges={
            (-1.0, 0.0): (0, (0, 0)),
            (-1.0, 1.0): (1, (-1, 2)),
            (0.0, 0.0): (0.25, (0.5, 0)),
            (INF, 0.0): (INF, (1, None)),
            (INF, 1.0): (0, (0, 0)),
        },
    ),
    Row(
        function=margins.hinge,
        truth=lambda x, y: max(0, 1 - x * y),
        points=grid((*REAL, 0.999, 1.001), (-1.0, 1.0)),
        edges={
            (1.0, 1.0): (0, (-0.5, -0.5)),
            (INF, 1.0): (0, (0, 0)),
            (-INF, 1.0): (INF, (-1, None)),
        },
    ),
    Row(
        function=margins.squared_hinge,
        truth=lambda x, y: max(0, 1 - x * y) ** 2,
        points=grid((*REAL, 0.999, 1.001), (-1.0, 1.0)),
        cancelling=1,
        edges={(1.0, 1.0): (0, (0, 0)), (INF, 1.0): (0, (0, 0)), (-INF, 1.0): (INF, (-INF, None))},
    ),
    Row(
        function=margins.perceptron,
        truth=lambda x, y: max(0, -x * y),
        points=grid(REAL, (-1.0, 1.0)),
        edges={
            (0.0, 1.0): (0, (-0.5, 0)),
            (INF, 1.0): (0, (0, 0)),
            (-INF, 1.0): (INF, (-1, None)),
        },
    ),
    Row(
        function=margins.soft_margin,
        truth=lambda x, y: mp.log1p(mp.exp(-x * y)),
        points=grid(REAL[1:-1], (-1.0, 1.0)),
        edges={(INF, 1.0): (0, (0, 0)), (-INF, 1.0): (INF, (-1, None))},
    ),
    Row(
        function=kernels.squared_error,
        truth=lambda x, y: (x - y) ** 2,
        points=grid(REAL, (0.25, 80.0)),
        edges={(2.0, 2.0): (0, (0, 0)), (INF, 2.0): (INF, (INF, -INF))},
    ),
    Row(
        function=kernels.absolute_error,
        truth=lambda x, y: abs(x - y),
        points=grid(REAL, (0.25, 80.0)),
        edges={(2.0, 2.0): (0, (0, 0)), (INF, 2.0): (INF, (1, -1))},
    ),
    Row(
        function=kernels.half_squared_error,
        truth=lambda x, y: (x - y) ** 2 / 2,
        points=grid(REAL, (0.25, 80.0)),
        edges={(2.0, 2.0): (0, (0, 0)), (2.5e19, 0.0): (3.125e38, (2.5e19, -2.5e19))},
    ),
    Row(
        function=kernels.log_cosh_error,
        truth=lambda x, y: mp.log(mp.cosh(x - y)),
        points=grid(REAL[1:-1], (0.25, 7.0)),
        edges={(2.0, 2.0): (0, (0, 0)), (INF, 2.0): (INF, (1, -1))},
    ),
    Row(
        function=kernels.poisson_nll,
        truth=lambda x, y: mp.exp(x) - y * x,
        points=grid(REAL[1:-1], (0.5, 3.0, 250.0)),
        cancelling=1,
        edges={
            (-INF, 0.0): (0, (0, 0)),
            (-INF, 1.0): (INF, (-1, INF)),
            (INF, 0.0): (INF, (INF, 0)),
        },
    ),
    Row(
        function=kernels.poisson_nll_of_rate,
        truth=lambda rate, y: rate - y * mp.log(rate),
        points=grid(POSITIVE, (0.5, 3.0, 250.0)),
        cancelling=1,
        edges={
            (0.0, 0.0): (0, (1, 0)),
            (0.0, 2.0): (INF, (-INF, INF)),
            (-1.0, 2.0): (NAN, (None, NAN)),
        },
    ),
    Row(
        function=kernels.binary_cross_entropy,
        truth=lambda p, y: -y * mp.log(p) - (1 - y) * mp.log1p(-p),
        points=grid((1e-9, 0.125, 0.4, 0.9), SHARE),
        cancelling=1,
        edges={
            (0.0, 0.0): (0, (1, 0)),
            (1.0, 1.0): (0, (-1, 0)),
            (0.0, 1.0): (INF, (-INF, INF)),
            (1.0, 0.25): (INF, (INF, -INF)),
            (-0.5, 1.0): (NAN, (None, NAN)),
            (1.5, 1.0): (NAN, (None, NAN)),
        },
    ),
    Row(
        function=numerics.priced,
        truth=lambda share, cost: share * cost,
        points=grid((0.25, 3.0, 1e6), (*REAL, 1e30)),
        edges={
            (0.0, INF): (0, (None, None)),
            (0.0, -INF): (0, (None, None)),
            (0.5, INF): (INF, (None, None)),
            (0.5, -INF): (-INF, (None, None)),
        },
    ),
    Row(
        function=numerics.log1p,
        truth=mp.log1p,
        points=grid((-0.99, -0.4, -0.3, -1e-9, 1e-9, 0.5, 80.0)),
        edges={(0.0,): (0, (1,)), (-1.0,): (-INF, (INF,)), (INF,): (INF, (0,))},
    ),
    Row(
        function=kernels.box_cox,
        truth=box_cox,
        points=grid((1e-9, 0.01, 0.5, 0.999, 1.0), (1e-6, 0.25, 1.0, 2.0)),
        edges={
            (0.5, 0.0): (np.log(0.5), (2, np.log(0.5) ** 2 / 2)),
            (0.0, 0.5): (-2, (None, 4)),
            (1.0, 0.0): (0, (1, 0)),
        },
    ),
    Row(
        function=of_entries(vectors.cosine),
        truth=cosine,
        points=(*grid((3.0, 0.25), (-4.0, 1.0), (0.5,), (2.0, -1e-6)), (1.0, 2.0, 2.0, 4.0)),
        cancelling=1,
        edges={
            (0.0, 0.0, 3.0, 1.0): (0, (0, 0, 0, 0), 0),
            (0.0, 0.0, 0.0, 0.0): (0, (0, 0, 0, 0), 0),
            (3e-30, 4e-30, 5e30, 0.0): (0.6, (0.64 / 5e-30, -0.48 / 5e-30, None, 0.8 / 5e30)),
            (INF, 1.0, -2.0, 0.0): (-1, (0, 0, 0, None)),
        },
    ),
    Row(
        function=of_entries(vectors.p_norm),
        truth=lambda x, y, p: (abs(x) ** p + abs(y) ** p) ** (1 / p),
        points=grid((-3.0, 0.5, 4.0), (0.25, 4.0), (1.0, 1.5, 2.0, 7.5)),
        cancelling=1,
        edges={
            (0.0, 0.0, 2.0): (0, (0, 0, 0), 0),
            (0.0, 0.0, 1.5): (0, (0, 0, 0), 0),
            (0.0, 0.0, 1.0): (0, (0, 0, 0), 0),
            (0.0, -5.0, 2.0): (5, (0, -1, 0)),
            (3e30, -4e30, 2.0): (5e30, (0.6, -0.8, None)),
            (3e-30, 3e-37, 2.0): (3e-30, (1, 1e-7, None)),
            (3.0, -4.0, INF): (4, (0, -1, 0)),
            (INF, 1.0, 2.0): (INF, (1, 0, None)),
        },
    ),
    Row(
        function=class_options.tempered,
        truth=lambda x, temperature: x / temperature,
        points=grid(REAL, (0.05, 0.5, 4.0)),
        edges={
            (0.0, 4.0): (0, (0.25, 0)),
            (-INF, 4.0): (-INF, (1, 0), 0),
            (INF, 4.0): (INF, (0.25, -INF)),
        },
    ),
    Row(
        function=class_options.soft_cap,
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
        unit = float(info.eps) * (abs(want) + mp.fsum(moves) + row.cancelling)
        error = abs(mp.mpf(float(got)) - want)
        what = (*map(float, point), orders, float(got), float(want), float(error / (unit or 1)))
        assert error <= row.tolerance * unit + float(info.tiny), what


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
        for i in range(len(one)):
            check(slope[i][n], row, exact, tuple(one[i]), dtype)
        for i, j in itertools.product(range(len(one)), repeat=2):
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


def test_closed_form_evaluates_what_is_differentiated():
    """A partial of an argument that is not differentiated would be NaN · 0 here."""

    @numerics.closed_form(lambda x, y: y, lambda x, y: x * jnp.nan)
    def product(x, y):
        return x * y

    assert jax.grad(product)(2.0, 3.0) == 3
    assert np.isnan(jax.grad(product, 1)(2.0, 3.0))
    assert product.__name__ == "product"


@given(st.floats(0, 700), st.floats(2**-10, 1 - 2**-10))
def test_mixtures_are_between_their_ends(x, share):
    for end in (x, -x):
        value = float(of_shares(jnp.float64(end), jnp.float64(share)))
        assert min(0, end) <= value <= max(0, end)
    divergence = kernels.divergence_from_mixture(
        jnp.float64(-x), jnp.float64(0), jnp.float64(share)
    )
    assert divergence >= -1e-16


@DTYPES
def test_the_slope_of_a_power_is_finite_at_zero(dtype):
    slope = jax.grad(kernels.box_cox)(jnp.zeros((), dtype), jnp.array(0.5, dtype))
    assert slope == np.finfo(dtype).max


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_wide(dtype):
    """Halves in float32, every one of them exactly, and everything else as it is."""
    halves = jax.lax.bitcast_convert_type(jnp.arange(2**16).astype(jnp.uint16), dtype)
    np.testing.assert_array_equal(numerics.wide(halves), np.asarray(halves).astype(np.float32))
    assert numerics.wide(halves).dtype == jnp.float32
    for other in (np.float64(1), np.float32(1), np.int8(1)):
        assert numerics.wide(jnp.asarray(other)).dtype == other.dtype


def test_every_public_function_is_here():
    """Of the modules of mathematics; the rest of core has tests of its own."""
    here = (
        __file__,
        *(each.__file__ for each in (test_over_classes, test_divergences, test_vectors)),
    )
    text = "".join(Path(str(path)).read_text() for path in here)
    for module in (numerics, vectors, kernels, margins, over_classes, divergences, sparsemax):
        for name, function in vars(module).items():
            if callable(function) and getattr(function, "__module__", "") == module.__name__:
                tested = f"{module.__name__.split('.')[-1]}.{name}" in text
                assert tested or name.startswith("_"), f"{name} is not tested"
