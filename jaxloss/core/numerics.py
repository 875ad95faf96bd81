"""Functions that are right at their edges, in value and in every derivative.

A class is the last axis. A logit of -inf is an absent class: its probability is 0 and it takes
part in nothing; a row without classes is NaN. Custom rules live here and nowhere in a loss.

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
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Gives an elementwise function its partial derivatives, in the order of its arguments.

    What is not differentiated is not evaluated, so an infinite partial never meets a zero
    tangent. None stands for an argument without a derivative, such as an index. A function that
    takes the last axis away has partials that keep it.
    """

    def decorate(function: Callable[..., Array]) -> Callable[..., Array]:
        rule = jax.custom_jvp(function)

        def jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
            value, change = rule(*primals), None
            for partial, tangent in zip(partials, tangents, strict=True):
                if partial is not None and not isinstance(tangent, SymbolicZero):
                    term = partial(*primals) * tangent
                    term = jnp.sum(term, axis=-1) if jnp.ndim(term) > jnp.ndim(value) else term
                    change = term if change is None else change + term
            return value, jnp.zeros_like(value) if change is None else change

        rule.defjvp(jvp, symbolic_zeros=True)
        return functools.wraps(function)(rule)

    return decorate


def xlogy(x: Array, y: Array) -> Array:
    """x · log y, and 0 · log 0 = 0 · log ∞ = 0 with derivatives 0."""
    return x * jnp.log(jnp.where((x == 0) & ((y == 0) | jnp.isposinf(y)), 1, y))


def xlog1py(x: Array, y: Array) -> Array:
    """x · log(1 + y), and 0 · log 0 = 0 · log ∞ = 0 with derivatives 0."""
    return x * jnp.log1p(jnp.where((x == 0) & ((y == -1) | jnp.isposinf(y)), 0, y))


def xtimes(x: Array, y: Array) -> Array:
    """x · y, and 0 · ±∞ = 0."""
    return x * jnp.where((x == 0) & jnp.isinf(y), 0, y)


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


@jax.custom_jvp
def safe_norm(x: Array) -> Array:
    """√Σx² over the last axis: no overflow, no underflow, derivatives 0 at 0."""
    scale, scaled = _scaled(x)
    return jnp.sqrt(jnp.sum(scaled**2, axis=-1)) * scale[..., 0]


safe_norm.defjvps(lambda t, norm, x: jnp.sum(normalized(x) * t, axis=-1))


@jax.custom_jvp
def normalized(x: Array) -> Array:
    """x / ‖x‖ over the last axis, 0 with derivatives 0 where x = 0; ∞ outweighs what is finite."""
    _, scaled = _scaled(x)
    return _ratio(scaled, jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True)))


@normalized.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    direction = normalized(x)
    across = t
    for _ in range(2):  # once leaves the rounding of t along a direction that t is close to
        across = across - direction * jnp.sum(direction * across, axis=-1, keepdims=True)
    return direction, _ratio(across, safe_norm(x)[..., None])


def _scaled(x: Array) -> tuple[Array, Array]:
    """The largest entry of the last axis, and the entries as shares of it."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0)
    return largest, jnp.where(jnp.isinf(x), jnp.sign(x), _ratio(x, largest))


@closed_form(lambda x: -_slope_of_sigmoid(x) * _tanh(x / 2))
def _slope_of_sigmoid(x: Array) -> Array:
    return sigmoid(x) * sigmoid(-x)


@closed_form(_slope_of_sigmoid)
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp -x)."""
    return jax.nn.sigmoid(x)


@closed_form(lambda x: sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp x)."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@closed_form(lambda x: -1 / (jnp.expm1(x) * -jnp.expm1(-x)))
def _slope_of_log1mexp(x: Array) -> Array:
    return 1 / jnp.expm1(x)


@closed_form(lambda x: _slope_of_log1mexp(x))
def log1mexp(x: Array) -> Array:
    """log(1 - exp -x) for x ≥ 0."""
    near = x < 1.1  # beyond it log1p is accurate: XLA's of float64 is not below -0.35
    small = jnp.log(-jnp.expm1(-jnp.where(near, x, 1)))
    return jnp.where(near, small, jnp.log1p(-jnp.exp(-jnp.where(near, 1, x))))


@closed_form(lambda x: 4 * sigmoid(2 * x) * sigmoid(-2 * x))
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


@closed_form(lambda x: _tanh(x))
def log_cosh(x: Array) -> Array:
    """log cosh x: near 0 as -log(1 - tanh² x) / 2, far away as |x| - log 2 and what is left."""
    size = jnp.abs(x)
    near = -jnp.log1p(-(jnp.tanh(jnp.minimum(size, 0.5)) ** 2)) / 2
    return jnp.where(size < 0.5, near, size + (jnp.log1p(jnp.exp(-2 * size)) - math.log(2)))


@closed_form(lambda x, y: _slope_of_sigmoid(x), lambda x, y: -jnp.ones_like(x))
def _slope_of_logistic_loss(x: Array, y: Array) -> Array:
    tail = jnp.exp(jnp.minimum(x, -x))
    yes, no = jnp.where(x < -x, tail, 1), jnp.where(x < -x, 1, tail)
    return ((1 - y) * yes - y * no) / (1 + tail)


@closed_form(_slope_of_logistic_loss, lambda x, y: -x)
def logistic_loss(x: Array, y: Array) -> Array:
    """y · log(1 + exp -x) + (1 - y) · log(1 + exp x), for y in [0, 1]."""
    no = _product(y - 1, jnp.maximum(x, 0))
    yes = _product(y, jnp.minimum(x, 0))
    return jnp.log1p(jnp.exp(-jnp.abs(x))) - no + yes


@closed_form(lambda x, y: (1 - 2 * y) * _slope_of_sigmoid(x), lambda x, y: -_tanh(x / 2))
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


def _product(share: Array, x: Array) -> Array:
    """share · |x| with 0 · ∞ = 0, and no select or clamp: ∞ is large, twice, as factors."""
    most = jnp.finfo(x.dtype).max
    half = jnp.minimum(jnp.abs(x) / 2, most)
    return half * share * (2 + jnp.maximum(half - most / 2, 0))


@closed_form(jnp.sign)
def absolute(x: Array) -> Array:
    """|x| with derivative 0 at 0."""
    return jnp.abs(x)


@closed_form(lambda x, q: (q - 0.5) + jnp.sign(x) / 2, lambda x, q: x)
def pinball(x: Array, q: Array) -> Array:
    """max(q·x, (q - 1)·x), with the middle of its slopes at 0."""
    return jnp.maximum(q * x, (q - 1) * x)


@closed_form(
    lambda x, y: jnp.sign(x - y) / jnp.abs(y),
    lambda x, y: -jnp.sign(x - y) * jnp.sign(y) * (x / y) / y,
)
def relative_error(x: Array, y: Array) -> Array:
    """|x - y| / |y|."""
    return jnp.abs(x - y) / jnp.abs(y)


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


@closed_form(
    lambda x, y, beta: ratio(x - y, jnp.maximum(jnp.abs(x - y), beta)),
    lambda x, y, beta: ratio(y - x, jnp.maximum(jnp.abs(x - y), beta)),
    lambda x, y, beta: -(ratio(x - y, jnp.maximum(jnp.abs(x - y), beta)) ** 2) / 2,
)
def smooth_l1(x: Array, y: Array, beta: Array) -> Array:
    """r·(|x - y| - r·beta/2) with r = min(|x - y| / beta, 1)."""
    error = jnp.abs(y - x)
    share = ratio(error, jnp.maximum(error, beta))
    return share * (error - share * beta / 2)


@closed_form(
    lambda mean, variance, target: ratio(mean - target, variance),
    lambda mean, variance, target: (
        ratio(1 - (mean - target) * ratio(mean - target, variance), variance) / 2
    ),
    lambda mean, variance, target: ratio(target - mean, variance),
)
def gaussian_nll(mean: Array, variance: Array, target: Array) -> Array:
    """(log variance + (mean - target)² / variance) / 2, where no square overflows."""
    error = mean - target
    return jnp.log(variance) / 2 + (error / 2) * (error / variance)


@closed_form(lambda n: jax.lax.digamma(n + 1))
def log_factorial(n: Array) -> Array:
    """log n!, exactly 0 for 0 and 1."""
    return jnp.where((n == 0) | (n == 1), 0, jax.lax.lgamma(n + 1))


def _odds(x: Array, share: Array) -> Array:
    return sigmoid(x + (jnp.log(share) - jnp.log1p(-share)))


@closed_form(jnp.exp)
def _expm1(x: Array) -> Array:
    return jnp.expm1(x)


def _log_mixture_in_share(x: Array, share: Array) -> Array:
    above, below = _expm1(-jnp.where(x > 0, x, 0)), _expm1(jnp.where(x > 0, 0, x))
    return below / (1 + share * below) - above / (1 + (1 - share) * above)


@closed_form(_odds, _log_mixture_in_share)
def log_mixture(x: Array, share: Array) -> Array:
    """log(1 - share + share · exp x) for a share in (0, 1), near 0 where x is."""
    change, top = share * jnp.expm1(x), jnp.maximum(x, 0)
    near = (change > -1 / 3) & (x < 50)
    far = top + jnp.log(share * jnp.exp(jnp.minimum(x, 0)) + (1 - share) * jnp.exp(-top))
    return jnp.where(near, jnp.log1p(change), far)


def _apart(x: Array, y: Array) -> Array:
    return jnp.where(x == y, 0, x - y)


def _above_mixture(x: Array, y: Array, share: Array) -> Array:
    """exp x · (x - log of (1 - share) · exp x + share · exp y)."""
    return -xtimes(jnp.exp(x), log_mixture(_apart(y, x), share))


@closed_form(
    lambda x, y, beta: (1 - beta) * _above_mixture(x, y, beta),
    lambda x, y, beta: beta * _above_mixture(y, x, 1 - beta),
    lambda x, y, beta: (
        (_above_mixture(y, x, 1 - beta) - _above_mixture(x, y, beta)) + (jnp.exp(x) - jnp.exp(y))
    ),
)
def divergence_from_mixture(x: Array, y: Array, beta: Array) -> Array:
    """β·q·log(q/m) + (1 - β)·p·log(p/m), p = exp x, q = exp y, m = β·q + (1 - β)·p."""
    of_p = (1 - beta) * _above_mixture(x, y, beta)
    return of_p + beta * _above_mixture(y, x, 1 - beta)


def soft_cap(logits: Array, cap: Array) -> Array:
    """cap · tanh(logits / cap), and an absent class stays absent."""
    absent = jnp.isneginf(logits)
    return jnp.where(absent, logits, cap * _tanh(jnp.where(absent, 0, logits) / cap))


@closed_form(lambda logits: jnp.where(jnp.isneginf(_top(logits))[..., None], 0, softmax(logits)))
def logsumexp(logits: Array) -> Array:
    """log Σ exp: -inf, with derivatives 0, where every class is absent."""
    top, total = _top(logits), jnp.sum(_shares(logits), axis=-1)
    return jnp.where(jnp.isneginf(top), -jnp.inf, top + jnp.log(total))


@jax.custom_jvp
def softmax(logits: Array) -> Array:
    """p = exp(logits) / Σ exp: 0 for an absent class, NaN if all are."""
    shares = _shares(logits)
    return shares / jnp.sum(shares, axis=-1, keepdims=True)


@softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (logits,), (t,) = primals, tangents
    p, top = softmax(logits), hit(logits, largest(logits))
    away = _from(top, t)
    change = jnp.where(top, 0, p * (away - jnp.sum(p * away, axis=-1, keepdims=True)))
    return p, jnp.where(top, -jnp.sum(change, axis=-1, keepdims=True), change)


@jax.custom_jvp
def complement_of_softmax(logits: Array) -> Array:
    """1 - softmax(logits), exact where one class takes nearly everything."""
    top, total = largest(logits), jnp.sum(_shares(logits), axis=-1, keepdims=True)
    of_top = _rest(logits, top)[..., None] / total
    return jnp.where(hit(logits, top), of_top, 1 - _shares(logits) / total)


@complement_of_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return complement_of_softmax(*primals), -jax.jvp(softmax, primals, tangents)[1]


@jax.custom_jvp
def log_softmax(logits: Array) -> Array:
    """log p, exact where one class takes nearly everything (log p near 0)."""
    top = largest(logits)
    still = hit(logits, top) | jnp.isposinf(logits)
    away = jnp.where(still, 0, logits - _top(logits)[..., None])
    return away - jnp.log1p(_rest(logits, top))[..., None]


@log_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (logits,), (t,) = primals, tangents
    away = _from(hit(logits, largest(logits)), t)
    return log_softmax(logits), away - jnp.sum(softmax(logits) * away, axis=-1, keepdims=True)


@closed_form(lambda logits, labels: _slope_at(logits, labels), None)
def cross_entropy_at(logits: Array, labels: Array) -> Array:
    """-log softmax(logits) at the label, as softplus(log Σ over the others - the label's logit).

    It is a sum of what is not negative: a shift of the logits changes nothing, and a confident
    row keeps its digits in value and gradient.
    """
    own = at(logits, labels)
    behind = jnp.where(jnp.isposinf(own), 0, _top(logits) - own)
    return softplus(jnp.log(_rest(logits, labels)) + behind)


def _slope_at(logits: Array, labels: Array) -> Array:
    total = jnp.sum(_shares(logits), axis=-1)
    own = -_rest(logits, labels) / total
    return jnp.where(hit(logits, labels), own[..., None], _p(logits, total))


@closed_form(
    lambda logits, targets: _slope_of_cross_entropy(logits, targets),
    lambda logits, targets: _slope_in_targets(logits, targets),
)
def cross_entropy(logits: Array, targets: Array) -> Array:
    """-Σ targets · log softmax(logits), of which `cross_entropy_at` is one term.

    The targets need not sum to one; an absent class with target 0 costs 0.
    """
    return -jnp.sum(xtimes(targets, log_softmax(logits)), axis=-1)


def _slope_of_cross_entropy(logits: Array, targets: Array) -> Array:
    top, total = largest(logits), jnp.sum(_shares(logits), axis=-1)
    mass = jnp.sum(targets, axis=-1, keepdims=True)
    of_top = (mass - targets) - mass * (_rest(logits, top) / total)[..., None]
    return jnp.where(hit(logits, top), of_top, mass * _p(logits, total) - targets)


@closed_form(
    lambda logits, targets: _slope_of_spread(logits, targets),
    lambda logits, targets: _slope_in_targets(logits, targets),
)
def spread_cross_entropy(logits: Array, targets: Array) -> Array:
    """`cross_entropy`, cheaper, for targets that leave no class nearly everything."""
    top, total = _top(logits), jnp.sum(_shares(logits), axis=-1)
    behind = jnp.where(jnp.isposinf(logits), 0, top[..., None] - logits)
    return jnp.sum(xtimes(targets, behind), axis=-1) + jnp.sum(targets, axis=-1) * jnp.log(total)


def _slope_in_targets(logits: Array, targets: Array) -> Array:
    absent = jnp.isneginf(logits) & (targets == 0)
    return jnp.where(absent, 0, -log_softmax(logits))


def _slope_of_spread(logits: Array, targets: Array) -> Array:
    total = jnp.sum(_shares(logits), axis=-1)
    return jnp.sum(targets, axis=-1, keepdims=True) * _p(logits, total) - targets


@closed_form(lambda array, index: hit(array, index).astype(array.dtype), None)
def at(array: Array, index: Array) -> Array:
    """The entry of the last axis that `index` names; its derivative needs no scatter."""
    return jnp.take_along_axis(array, index[..., None], axis=-1)[..., 0]


@closed_form(lambda array, index: hit(array, index).astype(array.dtype), None)
def shared_at(array: Array, index: Array) -> Array:
    """`at`, for an array that all units share: its leading axes have length 1."""
    sharding = jax.typeof(index).sharding  # a gather cannot tell it, where the mesh is explicit
    split = any(axis is not None for axis in sharding.spec)
    return array.reshape(-1).at[index].get(out_sharding=sharding if split else None)


def hit(array: Array, index: Array) -> Array:
    """Whether an entry of the last axis is the one that `index` names."""
    return jax.lax.broadcasted_iota(index.dtype, array.shape, array.ndim - 1) == index[..., None]


def largest(logits: Array) -> Array:
    """Index of the largest class.

    A class is told by its index and never by `logits == max`: XLA may compute the logits twice,
    rounded differently, and then nothing equals the maximum.
    """
    return jnp.argmax(logits, axis=-1)


def _from(top: Array, t: Array) -> Array:
    """t less that of the top class, and exactly 0 there: rounded, it would drown the others."""
    return jnp.where(top, 0, t - jnp.sum(jnp.where(top, t, 0), axis=-1, keepdims=True))


def _top(logits: Array) -> Array:
    return jax.lax.stop_gradient(jnp.max(logits, axis=-1, initial=-jnp.inf))


def _shares(logits: Array) -> Array:
    return jnp.exp(finite(logits) - finite(_top(logits))[..., None])


def _rest(logits: Array, index: Array) -> Array:
    """Σ shares of all classes but one, told by arithmetic because a select would be stored."""
    classes = jax.lax.broadcasted_iota(logits.dtype, logits.shape, logits.ndim - 1)
    others = jnp.minimum(jnp.abs(classes - index[..., None].astype(logits.dtype)), 1)
    return jnp.sum(_shares(logits) * others, axis=-1)


def _p(logits: Array, total: Array) -> Array:
    return jnp.exp((finite(logits) - finite(_top(logits))[..., None]) - jnp.log(total)[..., None])
