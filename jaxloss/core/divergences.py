"""How far the distributions of two rows of logits are apart: p = softmax(x), q = softmax(y).

The normalisers of the two cancel here, and not where they are subtracted first, so these take
logits. They are over the class axis, which is the last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import kernels
from jaxloss.core.numerics import apart, closed_form, finite, log_mixture, xtimes
from jaxloss.core.over_classes import hit, largest, log_softmax, softmax


def _slope_in_prediction(x: Array, y: Array) -> Array:
    p, q, change = softmax(x), softmax(y), _log_ratio(x, y)
    return jnp.where(jnp.abs(change) < 1, q * jnp.expm1(jnp.clip(change, -1, 1)), p - q)


def _slope_in_truth(x: Array, y: Array) -> Array:
    gap = _log_ratio(x, y) + kullback_leibler(x, y)[..., None]
    return _centred(-xtimes(softmax(y), gap), y)


def _centred(slopes: Array, logits: Array) -> Array:
    """Slopes that sum to 0, of which that of the largest class follows from the others."""
    top = hit(logits, largest(logits))
    others = jnp.where(top, 0, slopes)
    return jnp.where(top, -jnp.sum(others, axis=-1, keepdims=True), others)


@closed_form(_slope_in_prediction, _slope_in_truth)
def kullback_leibler(x: Array, y: Array) -> Array:
    """Σ q·log(q / p), as Σ of q·log(q / p) - q + p.

    No term is negative, and where x = y all are 0.
    """
    gains = kernels.information_gain(softmax(x), softmax(y), _log_ratio(x, y))
    return jnp.sum(gains, axis=-1)


def _slope_from_mixture(x: Array, y: Array, own: Array, other: Array) -> Array:
    """own·p·(d - Σ p·d), d = log(p / m) less that of the largest class of p, m = own·p + other·q.

    Where p and q share nothing, log(p / m) is -log(own) for every class of p, and a difference of
    two would have no digits: d is found from differences of q / p, which is large only where p
    is next to nothing.
    """
    odds = _log_ratio(y, x)
    near = odds < 50
    known = jnp.where(near, odds, 0)
    of_top = jnp.sum(jnp.where(hit(x, largest(x)), odds, 0), axis=-1, keepdims=True)
    rise, whole = apart(known, of_top), own + other * jnp.exp(of_top)
    gap = jnp.exp(jnp.maximum(known, of_top)) * -jnp.expm1(-jnp.abs(rise))
    change = other * jnp.where(rise < 0, -gap, gap) / whole
    small = change < -1 / 3  # XLA's log1p of float64 is not accurate below -0.35
    part = jnp.where(small, (own + other * jnp.exp(known)) / whole, 1)
    ahead = jnp.where(small, jnp.log(part), jnp.log1p(jnp.where(small, 0, change)))
    far = log_mixture(odds, other, own) - log_mixture(of_top, other, own)
    d = -jnp.where(near, ahead, far)
    p = softmax(x)
    return own * _centred(xtimes(p, d - jnp.sum(xtimes(p, d), axis=-1, keepdims=True)), x)


def _gains_from_mixture(x: Array, y: Array, beta: Array) -> tuple[Array, Array]:
    return kernels.gains_from_mixture(softmax(x), softmax(y), _log_ratio(y, x), beta)


def _slope_in_beta(x: Array, y: Array, beta: Array) -> Array:
    of_p, of_q = _gains_from_mixture(x, y, beta)
    return of_q - of_p


@closed_form(
    lambda x, y, beta: _slope_from_mixture(x, y, 1 - beta, beta),
    lambda x, y, beta: _slope_from_mixture(y, x, beta, 1 - beta),
    _slope_in_beta,
)
def jensen_shannon(x: Array, y: Array, beta: Array) -> Array:
    """Σ β·q·log(q / m) + (1 - β)·p·log(p / m), m = β·q + (1 - β)·p."""
    of_p, of_q = _gains_from_mixture(x, y, beta)
    return jnp.sum((1 - beta) * of_p + beta * of_q, axis=-1)


@jax.custom_jvp
def _log_ratio(x: Array, y: Array) -> Array:
    """log(p / q), with all its digits where x and y are close, and exactly 0 where they agree.

    Both counted from their maxima, it is x - y less the logarithm of 1 + `growth` = Σ q·exp(x - y).
    """
    tops = (jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf) for logits in (x, y))
    x, y = (finite(logits) - finite(top) for logits, top in zip((x, y), tops, strict=True))
    total_x, total_y = jnp.sum(jnp.exp(x), axis=-1), jnp.sum(jnp.exp(y), axis=-1)
    change = apart(x, y)
    small = jnp.clip(change, -1, 1)
    gain = jnp.where(change == small, jnp.exp(y) * jnp.expm1(small), jnp.exp(x) - jnp.exp(y))
    growth = jnp.sum(gain, axis=-1) / total_y
    far = jnp.log(total_x) - jnp.log(total_y)
    near = jnp.abs(growth) < 1 / 3  # XLA's log1p of float64 is not accurate below -0.35
    return change - jnp.where(near, jnp.log1p(growth), far)[..., None]


@_log_ratio.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    of_p, of_q = (
        jax.jvp(log_softmax, (logits,), (t,))[1]
        for logits, t in zip(primals, tangents, strict=True)
    )
    return _log_ratio(*primals), of_p - of_q
