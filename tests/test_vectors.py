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


@DTYPES
@pytest.mark.parametrize("features", [3, vectors.SHORT, vectors.SHORT + 1, 1000])
@pytest.mark.parametrize("size", [1, 1e-30, 1e30])
def test_cosine_and_its_slopes(size, features, dtype):
    """However long: of any two vectors, and of two whose angle is small."""
    rng = np.random.default_rng(features)
    x, away = rng.normal(size=(2, 2, features))
    y = np.stack([away[0], x[1] + 1e-2 * away[1]])
    both = [np.asarray(z, dtype) for z in (size * x, y)]
    slopes_of = jax.vmap(jax.value_and_grad(vectors.cosine, (0, 1)))
    values, slopes = jax.jit(slopes_of)(*map(jnp.asarray, both))
    for i, (x, y) in enumerate(zip(*both, strict=True)):
        rows = [[mp.mpf(float(z)) for z in vector] for vector in (x, y)]
        norms = [mp.sqrt(mp.fsum(z**2 for z in vector)) for vector in rows]
        u, w = ([z / n for z in vector] for vector, n in zip(rows, norms, strict=True))
        value = mp.fsum(a * b for a, b in zip(u, w, strict=True))
        agree(values[i], [value], dtype, floor=1)
        for slope, one, other, norm in zip(slopes, (u, w), (w, u), norms, strict=True):
            want = [(b - value * a) / norm for a, b in zip(one, other, strict=True)]
            agree(slope[i], want, dtype, floor=max(map(abs, other)) / norm)
