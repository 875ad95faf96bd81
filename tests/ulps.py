"""What the tests of core share: derivatives of every order at once, and comparison in ulps."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from effort import users_jit

INF, NAN = float("inf"), float("nan")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)


@functools.cache
def everything(function, dtype, *columns):
    """Value, gradient and Hessian at many points (or rows) at once, in one program."""
    every = tuple(range(len(columns)))
    slope = jax.jacrev(function, every)
    program = users_jit(
        jax.vmap(lambda *x: (function(*x), slope(*x), jax.jacfwd(slope, every)(*x)))
    )
    return jax.tree.map(np.asarray, program(*(jnp.array(c, dtype) for c in columns)))


def agree(got, want, dtype, tolerance=8, floor=0.0):
    """Entry by entry, in ulps of the entry (and of `floor`)."""
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    for g, w in zip(np.ravel(got), np.ravel(np.array(want, object)), strict=True):
        if mp.isfinite(w):
            error = abs(mp.mpf(float(g)) - w)
            assert error <= tolerance * eps * (abs(w) + floor) + tiny, (g, w)
        else:
            assert g == float(w), (g, w)
