"""Lengths and directions of vectors against mpmath, with the vectors that have none."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from ulps import DTYPES, INF, agree, everything

from jaxloss.core import vectors

pytestmark = pytest.mark.usefixtures("wide")

VECTORS = ((3.0, -4.0, 12.0), (1e-30, 1e-30, -1e-30), (1e30, -2e30, 1e30), (0.0, 5.0, 0.0))
ZERO, BEYOND = (0.0, 0.0, 0.0), (INF, 1.0, 0.0)


def of_vectors(function, dtype):
    return everything(function, dtype, (*VECTORS, ZERO, BEYOND))


@DTYPES
def test_norm_and_direction(dtype):
    norms, directions = (of_vectors(f, dtype) for f in (vectors.safe_norm, vectors.normalized))
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
    for function, beyond in (vectors.safe_norm, INF), (vectors.normalized, [1, 0, 0]):
        results = of_vectors(function, dtype)
        assert not any(np.any(leaf[-2]) for leaf in jax.tree.leaves(results))
        np.testing.assert_array_equal(results[0][-1], beyond)


@DTYPES
def test_a_row_whose_squares_lose_digits_changes_no_other(dtype):
    """The plain formula is left for all rows if one needs the careful one."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 5, 3))
    exact = {
        vectors.distance: np.sqrt(((x - y) ** 2).sum(-1)),
        vectors.cosine: (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)),
    }
    for function, want in exact.items():
        for size in (1, 1e-30, 1e30, 0):
            scale = np.array([[1]] * 4 + [[size]])
            got = jax.jit(function)(jnp.asarray(x * scale, dtype), jnp.asarray(y * scale, dtype))
            last = want[-1] * (size if function is vectors.distance else size > 0)
            eps = float(np.finfo(dtype).eps)
            np.testing.assert_allclose(got, [*want[:-1], last], rtol=16 * eps)
