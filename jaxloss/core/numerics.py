"""Functions that are right at their edges, in value and in every derivative.

Custom rules live in core and nowhere in a loss: here what any mathematics needs, in `kernels` the
losses of one unit, in `over_classes` what has a class axis.

A value and its derivative are written to share no expensive subexpression, and values avoid
`jnp.where`: XLA on CPU stores whatever two fusions share, and a select before a reduction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def closed_form(
    *partials: Callable[..., Array] | None,
    beside: Callable[..., Array] | None = None,
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Gives an elementwise function its partial derivatives, in the order of its arguments.

    What is not differentiated is not evaluated, so an infinite partial never meets a zero
    tangent. None stands for an argument without a derivative, such as an index. A function that
    takes the last axis away has partials that keep it. Where the function has another form that
    is cheaper next to its derivative, that is `beside`. Halves are computed in float32.
    """

    def decorate(function: Callable[..., Array]) -> Callable[..., Array]:
        @jax.custom_jvp
        @functools.wraps(function)
        def rule(*operands: Array) -> Array:
            return function(*map(wide, operands))

        def jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
            value, change = (beside or rule)(*primals), None
            operands = [_wide_again(primal) for primal in primals]
            for partial, tangent in zip(partials, tangents, strict=True):
                if partial is not None and not isinstance(tangent, SymbolicZero):
                    term = partial(*operands) * wide(tangent)
                    term = jnp.sum(term, axis=-1) if jnp.ndim(term) > jnp.ndim(value) else term
                    change = term if change is None else change + term
            return value, jnp.zeros_like(value) if change is None else change

        rule.defjvp(jvp, symbolic_zeros=True)
        return functools.wraps(function)(rule)

    return decorate


def wide(x: Array) -> Array:
    """Halves in float32, and what is not half as it is."""
    return x.astype(jnp.float32) if jnp.result_type(x) in (jnp.bfloat16, jnp.float16) else x


def _wide_again(x: Array) -> Array:
    """`wide` in other words, so that a value and its derivative do not share a wide copy."""
    return _wide_by_bits(x) if jnp.result_type(x) == jnp.bfloat16 else wide(x)


@jax.custom_jvp
def _wide_by_bits(x: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(bits << 16, jnp.float32)


_wide_by_bits.defjvps(lambda t, wide, x: wide(t))


@closed_form(lambda x: jnp.where(x <= 0, 0, 1).astype(x.dtype))
def positive_part(x: Array) -> Array:
    """max(0, x) with derivative 0 at 0, and the NaN that XLA's maximum loses in a large sum."""
    return jnp.maximum(x, 0) + 0 * jnp.sign(x)


def xlogy(x: Array, y: Array) -> Array:
    """x · log y, and 0 · log 0 = 0 · log ∞ = 0 with derivatives 0."""
    return x * jnp.log(jnp.where((x == 0) & ((y == 0) | jnp.isposinf(y)), 1, y))


def xlog1py(x: Array, y: Array) -> Array:
    """x · log(1 + y), and 0 · log 0 = 0 · log ∞ = 0 with derivatives 0."""
    return x * log1p(jnp.where((x == 0) & ((y == -1) | jnp.isposinf(y)), 0, y))


@closed_form(lambda x: 1 / (1 + x))
def log1p(x: Array) -> Array:
    """log(1 + x)."""
    if x.dtype != jnp.float64:
        return jnp.log1p(x)
    near = x > -0.35  # below it XLA's of float64 is off by 120 eps
    return jnp.where(near, jnp.log1p(jnp.where(near, x, 0)), jnp.log(1 + jnp.where(near, 0, x)))


@closed_form(jnp.exp)
def expm1(x: Array) -> Array:
    """exp x - 1, whose derivative is not from 1 less what is nearly 1."""
    return jnp.expm1(x)


def xtimes(x: Array, y: Array) -> Array:
    """x · y, and 0 · ±∞ = 0."""
    return x * jnp.where((x == 0) & jnp.isinf(y), 0, y)


def priced(share: Array, cost: Array) -> Array:
    """share · cost, and 0 · ±∞ = 0, as `xtimes`, but without a select, which XLA on CPU stores.

    The cost is halved and made at most the largest number, so that a share of 0 makes it 0. The
    last factor is 2 for a finite cost; of an infinite one it is so large that the product
    overflows.
    """
    most = jnp.finfo(cost.dtype).max
    half = jnp.minimum(2 * jnp.maximum(cost / 4, -most / 2), most)
    return share * half * (3 + jnp.maximum(jnp.abs(half) - most / 2, -1))


def blend(share: Array, x: Array, y: Array) -> Array:
    """(1 - share) · x + share · y, and 0 · ±∞ = 0."""
    return xtimes(1 - share, x) + xtimes(share, y)


def _ratio_in_x(x: Array, y: Array) -> Array:
    return _ratio(jnp.ones_like(x), y)


def _ratio_in_y(x: Array, y: Array) -> Array:
    return -_ratio(_ratio(x, y), y)


@closed_form(_ratio_in_x, _ratio_in_y)
def _ratio(x: Array, y: Array) -> Array:
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


def ratio(x: Array, y: Array, *, empty: float = 0) -> Array:
    """x / y, and `empty` with derivatives 0 where y = 0; no derivative squares y."""
    return _ratio(x, y) if empty == 0 else jnp.where(y == 0, empty, _ratio(x, y))


@closed_form(
    lambda x, y: ratio(ratio(y, x + y), x + y),
    lambda x, y: -ratio(ratio(x, x + y), x + y),
)
def fraction(x: Array, y: Array) -> Array:
    """x / (x + y) for x and y of 0 or more, and 0 with derivatives 0 where both are 0."""
    return ratio(x, x + y)


def safe_sqrt(x: Array) -> Array:
    """√x with derivatives 0 at 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


@closed_form(lambda x: jnp.ones_like(x))
def finite(x: Array) -> Array:
    """+∞ as the largest float; the derivative does not notice."""
    return jnp.minimum(x, jnp.finfo(x.dtype).max)


@closed_form(
    lambda x, sign: sign,
    lambda x, sign: jnp.clip(x, jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max),
)
def signed(x: Array, sign: Array) -> Array:
    """x · sign; the derivative in the sign is finite, so that a slope of 0 ends it."""
    return x * sign


def _curve_of_sigmoid(x: Array) -> Array:
    return -slope_of_sigmoid(x) * tanh(x / 2)


@closed_form(_curve_of_sigmoid)
def slope_of_sigmoid(x: Array) -> Array:
    """sigmoid x · sigmoid -x."""
    return sigmoid(x) * sigmoid(-x)


@closed_form(slope_of_sigmoid)
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp -x)."""
    return jax.nn.sigmoid(x)


@closed_form(lambda x: sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp x)."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def apart(x: Array, y: Array) -> Array:
    """x - y, and 0 of two infinities that are equal."""
    return jnp.where((x == y) & jnp.isinf(x), 0, x - y)


@closed_form(lambda x, y: sigmoid(apart(x, y)), lambda x, y: sigmoid(apart(y, x)))
def log_add(x: Array, y: Array) -> Array:
    """log(exp x + exp y): -∞, with finite derivatives, where both are -∞."""
    return jnp.maximum(x, y) + jnp.log1p(jnp.exp(-jnp.abs(apart(x, y))))


def _slope_of_tanh(x: Array) -> Array:
    return 4 * slope_of_sigmoid(2 * x)


@closed_form(_slope_of_tanh)
def tanh(x: Array) -> Array:
    """tanh x, with derivatives that keep their digits far away."""
    return jnp.tanh(x)


@closed_form(lambda x: tanh(x))
def log_cosh(x: Array) -> Array:
    """log cosh x: near 0 as -log(1 - tanh² x) / 2, and beyond as what is added to that."""
    size = jnp.abs(x)
    near = jnp.minimum(size, 0.5)
    beyond, odds = size - near, 1 / (1 + math.e)
    rise = beyond + jnp.log1p(odds * jnp.expm1(-2 * beyond))  # from near to size
    return rise - jnp.log1p(-(jnp.tanh(near) ** 2)) / 2


@closed_form(jnp.sign)
def absolute(x: Array) -> Array:
    """|x| with derivative 0 at 0."""
    return jnp.abs(x)


@closed_form(lambda n: jax.lax.digamma(n + 1))
def log_factorial(n: Array) -> Array:
    """log n!, exactly 0 for 0 and 1."""
    return jnp.where((n == 0) | (n == 1), 0, jax.lax.lgamma(n + 1))


def second_order(x: Array) -> Array:
    """(exp x - 1 - x) / x² for |x| ≤ 1, where a difference would have lost its digits."""
    total = jnp.zeros_like(x)
    for n in range(20, 1, -1):
        total = total * x + 1 / math.factorial(n)
    return total


def _odds(x: Array, share: Array, rest: Array) -> Array:
    return sigmoid(x + (jnp.log(share) - jnp.log(rest)))


def _log_mixture_in_share(x: Array, share: Array, rest: Array) -> Array:
    below, above = jnp.where(x > 0, 0, x), -jnp.where(x > 0, x, 0)
    of_below = expm1(below) * jnp.exp(-log_mixture(below, share, rest))
    return of_below - expm1(above) * jnp.exp(-log_mixture(above, rest, share))


@closed_form(_odds, _log_mixture_in_share, None)
def log_mixture(x: Array, share: Array, rest: Array) -> Array:
    """log(rest + share · exp x), near 0 where x is, for shares in (0, 1) that sum to 1.

    Both are given, as one may be less than an eps; the derivative in `share` moves both.
    """
    change, top = share * jnp.expm1(x), jnp.maximum(x, 0)
    near = (change > -1 / 3) & (x < 50)
    far = top + jnp.log(share * jnp.exp(jnp.minimum(x, 0)) + rest * jnp.exp(-top))
    return jnp.where(near, jnp.log1p(change), far)
