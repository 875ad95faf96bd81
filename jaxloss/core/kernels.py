"""The losses of one unit whose derivatives have a closed form of their own.

What `numerics` says of values, derivatives and `jnp.where` holds here: one pass over the data each
way, and nothing stored between them. XLA on CPU stores what a sum and an array have in common, so a
value and its derivative are written in different words: y - x in one and x - y in the other, a
square of halves instead of a whole.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxloss.core.numerics import (
    apart,
    closed_form,
    expm1,
    finite,
    log1p,
    log_cosh,
    log_mixture,
    positive_part,
    priced,
    ratio,
    second_order,
    sigmoid,
    slope_of_sigmoid,
    tanh,
    xlog1py,
    xlogy,
    xtimes,
)


@closed_form(lambda x, y: slope_of_sigmoid(x), lambda x, y: -jnp.ones_like(x))
def _slope_of_logistic_loss(x: Array, y: Array) -> Array:
    tail = jnp.exp(jnp.minimum(x, -x))
    yes, no = jnp.where(x < -x, tail, 1), jnp.where(x < -x, 1, tail)
    return ((1 - y) * yes - y * no) / (1 + tail)


@closed_form(_slope_of_logistic_loss, lambda x, y: -x)
def logistic_loss(x: Array, y: Array) -> Array:
    """y · log(1 + exp -x) + (1 - y) · log(1 + exp x), for y in [0, 1]."""
    most = jnp.finfo(x.dtype).max  # what ∞ is while it is multiplied by 0, before it is ∞ again
    size, above = jnp.minimum(jnp.abs(x) / 2, most), jnp.minimum(jnp.maximum(x, 0) / 2, most)
    wrong = y * (size - above) - (y - 1) * above
    return jnp.log1p(jnp.exp(-jnp.abs(x))) + wrong * (2 + jnp.maximum(size - most / 2, 0))


@closed_form(lambda x, y: (1 - 2 * y) * slope_of_sigmoid(x), lambda x, y: -tanh(x / 2))
def miss(x: Array, y: Array) -> Array:
    """Probability that labels drawn from sigmoid(x) and from y differ."""
    return (1 - y) * sigmoid(x) + y * sigmoid(-x)


def _focal_in_miss(miss: Array, loss: Array, gamma: Array) -> Array:
    most = jnp.finfo(loss.dtype).max / (1 + gamma)
    return gamma * focal(miss, jnp.minimum(ratio(finite(loss), miss), most), gamma)


def _focal_in_loss(miss: Array, loss: Array, gamma: Array) -> Array:
    return focal(miss, jnp.ones_like(loss), gamma)


def _focal_in_gamma(miss: Array, loss: Array, gamma: Array) -> Array:
    return focal(miss, xlogy(finite(loss), miss), gamma)


@closed_form(_focal_in_miss, _focal_in_loss, _focal_in_gamma)
def focal(miss: Array, loss: Array, gamma: Array) -> Array:
    """miss ** gamma · loss, where both are 0 together, and the miss stands still at loss = ∞."""
    return jnp.power(miss, gamma) * loss


def _sigmoid_focal_in_logits(x: Array, y: Array, gamma: Array) -> Array:
    wrong, loss = miss(x, y), logistic_loss(x, y)
    turn = (1 - 2 * y) * slope_of_sigmoid(x)
    return _focal_in_miss(wrong, loss, gamma) * turn + jnp.power(
        wrong, gamma
    ) * _slope_of_logistic_loss(x, y)


def _sigmoid_focal_in_labels(x: Array, y: Array, gamma: Array) -> Array:
    wrong, loss = miss(x, y), logistic_loss(x, y)
    turn = _focal_in_miss(wrong, loss, gamma) * tanh(x / 2)
    return -turn - xtimes(jnp.power(wrong, gamma), x)


def _sigmoid_focal_in_gamma(x: Array, y: Array, gamma: Array) -> Array:
    return _focal_in_gamma(miss(x, y), logistic_loss(x, y), gamma)


@closed_form(_sigmoid_focal_in_logits, _sigmoid_focal_in_labels, _sigmoid_focal_in_gamma)
def sigmoid_focal(x: Array, y: Array, gamma: Array) -> Array:
    """The focal loss of a logit; a label that is right at ±∞ has the slope 0."""
    return focal(miss(x, y), logistic_loss(x, y), gamma)


@closed_form(lambda x, q: (q - 0.5) + jnp.sign(x) / 2, lambda x, q: x)
def pinball(x: Array, q: Array) -> Array:
    """max(q·x, (q - 1)·x), with the middle of its slopes at 0."""
    return xtimes(q, positive_part(x)) + xtimes(1 - q, positive_part(-x))


@closed_form(lambda x, y: 2 * (x - y), lambda x, y: 2 * (y - x))
def squared_error(x: Array, y: Array) -> Array:
    """(x - y)²; the difference that it shares with its slope is stored in that one's place."""
    return (x - y) ** 2


@closed_form(lambda x, y: jnp.sign(x - y), lambda x, y: jnp.sign(y - x))
def absolute_error(x: Array, y: Array) -> Array:
    """|x - y|, with derivative 0 at 0."""
    return jnp.abs(x - y)


@closed_form(lambda x, y: x - y, lambda x, y: y - x)
def half_squared_error(x: Array, y: Array) -> Array:
    """(x - y)² / 2, which overflows no earlier than it must."""
    return 2 * ((y - x) / 2) ** 2


@closed_form(lambda x, y: tanh(x - y), lambda x, y: tanh(y - x))
def log_cosh_error(x: Array, y: Array) -> Array:
    """log cosh(x - y)."""
    return log_cosh(y - x)


@closed_form(
    lambda x, y: jnp.sign(x - y) / jnp.abs(y),
    lambda x, y: -jnp.sign(x - y) * jnp.sign(y) * (x / y) / y,
)
def relative_error(x: Array, y: Array) -> Array:
    """|x - y| / |y|."""
    return jnp.abs((y - x) / y)


@closed_form(
    lambda x, y, delta: jnp.clip(x - y, -delta, delta),
    lambda x, y, delta: jnp.clip(y - x, -delta, delta),
    lambda x, y, delta: jnp.maximum(jnp.abs(x - y) - delta, 0),
)
def huber(x: Array, y: Array, delta: Array) -> Array:
    """c·(|x - y| - c/2) with c = min(|x - y|, delta), in halves to share no constant."""
    error = jnp.abs(y - x)
    half = jnp.minimum(error / 2, delta / 2)
    return 2 * half * (error - half)


def _share_of_beta(x: Array, y: Array, beta: Array) -> Array:
    return jnp.clip((x - y) / jnp.maximum(beta, jnp.finfo(x.dtype).tiny), -1, 1)


@closed_form(
    _share_of_beta,
    lambda x, y, beta: _share_of_beta(y, x, beta),
    lambda x, y, beta: -(_share_of_beta(x, y, beta) ** 2) / 2,
)
def smooth_l1(x: Array, y: Array, beta: Array) -> Array:
    """r·(|x - y| - r·beta/2) with r = min(|x - y| / beta, 1), in halves to share no constant."""
    error = jnp.abs(y - x)
    half = jnp.minimum(error / 2 / jnp.maximum(beta, jnp.finfo(x.dtype).tiny), 0.5)
    return 2 * half * (error - half * beta)


def _deviation(mean: Array, variance: Array, target: Array) -> Array:
    return ratio(mean - target, _variance(variance))


def _variance(variance: Array) -> Array:
    return jnp.where(variance > 0, variance, jnp.nan)


@closed_form(
    _deviation,
    lambda mean, variance, target: (
        ratio(1 - (mean - target) * _deviation(mean, variance, target), _variance(variance)) / 2
    ),
    lambda mean, variance, target: _deviation(target, variance, mean),
)
def gaussian_nll(mean: Array, variance: Array, target: Array) -> Array:
    """(log variance + (mean - target)² / variance) / 2, where no square overflows.

    It is NaN, in value and derivatives, for a variance of 0 or less.
    """
    error = target - mean
    return jnp.log(variance) / 2 + (error / 2) * (error / variance)


@closed_form(
    lambda x, y: jnp.exp(x) - y,
    lambda x, y: -jnp.where((y == 0) & jnp.isinf(x), 0, x),
)
def poisson_nll(x: Array, y: Array) -> Array:
    """exp x - y·x, and 0 · ±∞ = 0; the derivative has the exp x that is a square here."""
    return jnp.exp(x / 2) ** 2 - priced(y, x)


@closed_form(
    lambda rate, y: 1 - ratio(y, jnp.where((y == 0) & (rate == 0), 1, rate), empty=jnp.inf),
    lambda rate, y: -jnp.log(jnp.where((y == 0) & (rate == 0), 1, rate)),
)
def poisson_nll_of_rate(rate: Array, y: Array) -> Array:
    """rate - y·log rate, and 0 · ±∞ = 0; NaN for a rate below 0."""
    return jnp.sqrt(rate) ** 2 + priced(y, -jnp.log(rate))  # of a rate below 0, NaN


def _slope_of_binary_cross_entropy(p: Array, y: Array) -> Array:
    never, ever = (y == 0) & (p == 0), (y == 1) & (p == 1)
    return (1 - y) / jnp.where(ever, 1, 1 - p) - y / jnp.where(never, 1, p)


def _log_odds_against(p: Array, y: Array) -> Array:
    no = log1p(-jnp.where((y == 1) & (p == 1), 0, p))
    return no - jnp.log(jnp.where((y == 0) & (p == 0), 1, p))


@closed_form(_slope_of_binary_cross_entropy, _log_odds_against)
def binary_cross_entropy(p: Array, y: Array) -> Array:
    """-y·log p - (1 - y)·log(1 - p), and 0 · ∞ = 0; NaN for a p outside [0, 1]."""
    cost = -xlogy(y, p) - xlog1py(1 - y, -p)
    return jnp.where((p < 0) | (p > 1), jnp.nan, cost)  # last, so that one pass makes it all


def _relative_entropy_in_share(log_p: Array, q: Array) -> Array:
    none = q == 0
    own = jnp.where(none, 0, 1 + jnp.log(jnp.where(none, 1, q)))
    return own - jnp.where(none & jnp.isinf(log_p), 0, log_p)


@closed_form(lambda log_p, q: -q, _relative_entropy_in_share)
def relative_entropy(log_p: Array, q: Array) -> Array:
    """q · (log q - log_p) of shares q, and 0 · ∞ = 0, without a select; see `numerics.priced`."""
    most, least = jnp.finfo(q.dtype).max, jnp.finfo(q.dtype).tiny
    half = (jnp.log(q + least) - log_p) / 2
    known = jnp.minimum(half, most)
    nan = 0 * jnp.sign(half)  # which XLA's minimum loses in a large sum
    return (q * known) * (2 + jnp.maximum(known - most / 2, 0) + nan)


def information_gain(p: Array, q: Array, change: Array) -> Array:
    """q·log(q / p) - q + p, 0 or more, with change = log(p / q); 0 · ∞ = 0."""
    small = jnp.clip(change, -1, 1)
    near, far = q * small**2 * second_order(small), p - xtimes(q, 1 + change)
    return jnp.where(change == small, near, far)


def gains_from_mixture(p: Array, q: Array, odds: Array, beta: Array) -> tuple[Array, Array]:
    """Those of p and of q over m = β·q + (1 - β)·p, with odds = log(q / p)."""
    m = beta * q + (1 - beta) * p
    of_p = information_gain(m, p, log_mixture(odds, beta, 1 - beta))
    return of_p, information_gain(m, q, log_mixture(-odds, 1 - beta, beta))


def _slope_from_mixture(x: Array, y: Array, own: Array, other: Array) -> Array:
    return -own * xtimes(jnp.exp(x), log_mixture(apart(y, x), other, own))


def _slope_in_beta(x: Array, y: Array, beta: Array) -> Array:
    of_p, of_q = gains_from_mixture(jnp.exp(x), jnp.exp(y), apart(y, x), beta)
    return of_q - of_p


@closed_form(
    lambda x, y, beta: _slope_from_mixture(x, y, 1 - beta, beta),
    lambda x, y, beta: _slope_from_mixture(y, x, beta, 1 - beta),
    _slope_in_beta,
)
def divergence_from_mixture(x: Array, y: Array, beta: Array) -> Array:
    """β·q·log(q/m) + (1 - β)·p·log(p/m), p = exp x, q = exp y, m = β·q + (1 - β)·p."""
    of_p, of_q = gains_from_mixture(jnp.exp(x), jnp.exp(y), apart(y, x), beta)
    return (1 - beta) * of_p + beta * of_q


def _box_cox_in_x(x: Array, power: Array) -> Array:
    return jnp.minimum(jnp.power(x, power - 1), jnp.finfo(x.dtype).max)


def _box_cox_in_power(x: Array, power: Array) -> Array:
    log = jnp.log(x)
    u = xtimes(power, log)
    near = u > -1
    small = jnp.where(near, u, 0)
    by_series = jnp.where(near, log, 0) ** 2 * jnp.exp(small) * second_order(-small)
    rest = xtimes(jnp.exp(u), u) - expm1(u)
    return jnp.where(near, by_series, ratio(ratio(rest, power), power))


@closed_form(_box_cox_in_x, _box_cox_in_power)
def box_cox(x: Array, power: Array) -> Array:
    """(x ** power - 1) / power, at power 0 the logarithm; its slope is finite at x = 0."""
    log = jnp.log(x)
    return jnp.where(power == 0, log, ratio(jnp.expm1(xtimes(power, log)), power))
