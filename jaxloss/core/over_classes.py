"""Softmax and what follows from it, over the class axis, which is the last.

A logit of -inf is an absent class: its probability is 0 and it takes part in nothing; a row
without classes is NaN.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxloss.core.numerics import closed_form, softplus, wide, xtimes

#: Classes, from which on a row is stored on its way into a sum; see `_rest`.
LONG = 2**16


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
    p = softmax(logits)
    return p, _change_of_softmax(p, logits, t)


def _change_of_softmax(p: Array, logits: Array, t: Array) -> Array:
    top = hit(logits, largest(logits))
    away = _from(top, t)
    change = jnp.where(top, 0, p * (away - jnp.sum(p * away, axis=-1, keepdims=True)))
    return jnp.where(top, -jnp.sum(change, axis=-1, keepdims=True), change)


@jax.custom_jvp
def softmax_and_complement(logits: Array) -> tuple[Array, Array]:
    """p and 1 - p, both exact where one class takes nearly everything."""
    top, shares = largest(logits), _shares(logits)
    rest = _rest(shares, top)[..., None]
    return softmax(logits), jnp.where(hit(logits, top), rest, 1 + rest - shares) / (1 + rest)


@softmax_and_complement.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (logits,), (t,) = primals, tangents
    p, complement = softmax_and_complement(logits)
    change = _change_of_softmax(p, logits, t)
    return (p, complement), (change, -change)


def complement_of_softmax(logits: Array) -> Array:
    """1 - softmax(logits), exact where one class takes nearly everything."""
    return softmax_and_complement(logits)[1]


@jax.custom_jvp
def log_softmax(logits: Array) -> Array:
    """log p, exact where one class takes nearly everything (log p near 0)."""
    top = largest(logits)
    still = hit(logits, top) | jnp.isposinf(logits)
    away = jnp.where(still, 0, logits - _top(logits)[..., None])
    return away - jnp.log1p(_rest(_shares(logits), top))[..., None]


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
    return _cross_entropy_of_rest(logits, labels, _top(logits), _rest(_shares(logits), labels))


def _cross_entropy_of_rest(logits: Array, labels: Array, top: Array, rest: Array) -> Array:
    own = at(logits, labels)
    behind = jnp.where(jnp.isposinf(own), 0, top - own)
    return softplus(jnp.log(rest + 0 * rest) + behind)  # XLA makes ∞ of a NaN in a large sum


def _slope_at(logits: Array, labels: Array) -> Array:
    shares = _shares(logits)
    rest, total = _rest(shares, labels), jnp.sum(shares, axis=-1)
    return _slope_of_rest(logits, labels, shares, rest, total)


def _slope_of_rest(logits: Array, labels: Array, shares: Array, rest: Array, total: Array) -> Array:
    own, others = -rest / total, shares / total[..., None]
    return jnp.where(hit(logits, labels), own[..., None], others)


def lone_cross_entropy_at(logits: Array, labels: Array) -> Array:
    """`cross_entropy_at`, cheaper to differentiate where nothing else asks for the shares.

    It takes halves: XLA on CPU stores them in float32 on their way into a sum, and a largest one
    that is told before that reads half as much.
    """
    return _lone_cross_entropy_at(wide(logits), labels, _top(logits))


def _lone_slope_at(logits: Array, labels: Array, top: Array) -> Array:
    others = _others(logits, labels, top)
    rest = jnp.sum(others, axis=-1)
    return _slope_of_rest(logits, labels, others, rest, rest + _share_at(logits, labels, top))


@closed_form(_lone_slope_at, None, None)
def _cross_entropy_beside_slope(logits: Array, labels: Array, top: Array) -> Array:
    rest = jnp.sum(_others(logits, labels, top), axis=-1)
    return _cross_entropy_of_rest(logits, labels, top, rest)


@closed_form(_lone_slope_at, None, None, beside=_cross_entropy_beside_slope)
def _lone_cross_entropy_at(logits: Array, labels: Array, top: Array) -> Array:
    shares = jnp.exp(_behind(logits, top))
    return _cross_entropy_of_rest(logits, labels, top, _rest(shares, labels))


def _others(logits: Array, labels: Array, top: Array) -> Array:
    """The shares, and 0 at the label: stored where the gradient will be, and summed from there."""
    return jnp.where(hit(logits, labels), 0, jnp.exp(_behind(logits, top)))


@closed_form(
    lambda logits, targets: _slope_of_cross_entropy(logits, targets),
    lambda logits, targets: _slope_in_targets(logits, targets),
)
def cross_entropy_of_logs(logits: Array, targets: Array) -> Array:
    """`cross_entropy`, cheaper where it is differentiated or more is made of the logits."""
    return -jnp.sum(xtimes(targets, log_softmax(logits)), axis=-1)


@closed_form(
    lambda logits, targets: _slope_of_cross_entropy(logits, targets),
    lambda logits, targets: _slope_in_targets(logits, targets),
    beside=cross_entropy_of_logs,
)
def cross_entropy(logits: Array, targets: Array) -> Array:
    """-Σ targets · log softmax(logits), of which `cross_entropy_at` is one term.

    The targets need not sum to one; an absent class with target 0 costs 0. The largest class has
    the share exp 0 = 1. Where the shares sum to less than 1.5, only it exceeds 1/2: it is left out
    of the sum by its size, with no need of its index; elsewhere the sum less 1 keeps its digits.
    Comparisons are arithmetic, since XLA on CPU stores what a select gives. From 4,096 rows on it
    then makes one loop of all; of fewer rows it stores what sums share, so that they share no
    constant and no difference, and all of them the shares only.
    """
    most, steep = jnp.finfo(logits.dtype).max, 16 / float(jnp.finfo(logits.dtype).eps)
    top, _, rest, even = _told_by_size(logits)
    behind = -(jnp.maximum(-top, -most)[..., None] + logits)
    away = jnp.maximum(jnp.minimum(behind, steep * (behind - (0.5 - even))), 0)
    half = jnp.minimum(away / 2, 0.75 * most)  # see `numerics.priced`
    costs = targets * (half + jnp.log1p(rest) / 2) * (2 + jnp.maximum(half - most / 2, 0))
    return jnp.sum(costs, axis=-1)


def _told_by_size(logits: Array) -> tuple[Array, Array, Array, Array]:
    """Largest, shares, their sum less 1, and, where the largest is not alone, 1; see there."""
    steep = 4 / float(jnp.finfo(logits.dtype).eps)
    top = _top(logits)
    shares = jnp.exp(_behind(logits, top))
    total, few = jnp.sum(shares, axis=-1, keepdims=True), 0.625 - shares
    rest = jnp.sum(jnp.minimum(shares, steep * (few + jnp.abs(few))), axis=-1, keepdims=True)
    even = jnp.minimum(steep * jnp.maximum(total - 1.5, 0), 1)
    return top, shares, rest + even * (total - 1 - rest) + 0 * total, even  # a NaN is ∞ in the sum


def _slope_of_cross_entropy(logits: Array, targets: Array) -> Array:
    top, shares, mass = largest(logits), _shares(logits), jnp.sum(targets, axis=-1, keepdims=True)
    rest = _rest(shares, top)[..., None]
    total = _share_of_top(logits, top)[..., None] + rest
    of_top = (mass - targets) - mass * (rest / total)
    return jnp.where(hit(logits, top), of_top, mass * (shares / total) - targets)


def _misses_beside_slope(logits: Array, targets: Array) -> Array:
    top, shares = largest(logits), _shares(logits)
    rest, total = _rest(shares, top), jnp.sum(shares, axis=-1)
    others = _rest(targets, top) - _rest(targets * shares, top) / total
    return others + at(targets, top) * (rest / total)


@closed_form(
    lambda logits, targets: _slope_of_misses(logits, targets),
    lambda logits, targets: complement_of_softmax(logits),
    beside=_misses_beside_slope,
)
def misses(logits: Array, targets: Array) -> Array:
    """Σ targets · (1 - softmax(logits)), exact where one class takes nearly everything."""
    steep = 8 / float(jnp.finfo(logits.dtype).eps)
    _, shares, rest, even = _told_by_size(logits)
    lack = jnp.abs(1 - shares)
    some = lack - (0.25 - even)
    lack = jnp.minimum(lack, steep * (some + jnp.abs(some)))
    return jnp.sum(targets * ((rest + lack) / (1 + rest)), axis=-1)


def _slope_of_misses(logits: Array, targets: Array) -> Array:
    top, shares, own = largest(logits), _shares(logits), at(targets, largest(logits))
    first, rest, hits = _share_of_top(logits, top), _rest(shares, top), _rest(targets * shares, top)
    total = first + rest
    of_top = first * (hits - own * rest) / total**2
    of_others = (shares / total[..., None]) * (((hits + own * first) / total)[..., None] - targets)
    return jnp.where(hit(logits, top), of_top[..., None], of_others)


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
    shares = _shares(logits)
    p = shares / jnp.sum(shares, axis=-1, keepdims=True)
    return jnp.sum(targets, axis=-1, keepdims=True) * p - targets


@closed_form(lambda array, index: hit(array, index).astype(array.dtype), None)
def at(array: Array, index: Array) -> Array:
    """The entry of the last axis that `index` names; its derivative needs no scatter."""
    if jax.typeof(array).sharding.spec[-1] is not None:  # a gather takes no split classes
        return jnp.sum(jnp.where(hit(array, index), array, 0), axis=-1)
    index = index[..., None]
    return jnp.take_along_axis(array, index, axis=-1, mode="promise_in_bounds")[..., 0]


@jax.custom_jvp
def shared_at(array: Array, index: Array) -> Array:
    """`at`, for an array that all units share: its leading axes have length 1."""
    sharding = jax.typeof(index).sharding  # a gather cannot tell it, where the mesh is explicit
    split = any(axis is not None for axis in sharding.spec)
    return array.reshape(-1).at[index].get(out_sharding=sharding if split else None)


@shared_at.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (array, index), (t, _) = primals, tangents
    return shared_at(array, index), jnp.sum(jnp.where(hit(array, index), t, 0), axis=-1)


def hit(array: Array, index: Array) -> Array:
    """Whether an entry of the last axis is the one that `index` names."""
    return _numbers_of(array, index.dtype) == index[..., None]


def _numbers_of(array: Array, dtype: DTypeLike) -> Array:
    """0, 1, 2, ... along the last axis, split over devices as the array is."""
    sharding = jax.typeof(array).sharding
    return jax.lax.broadcasted_iota(dtype, array.shape, array.ndim - 1, out_sharding=sharding)


def largest(logits: Array) -> Array:
    """Index of the largest class, by a plain comparison, which XLA on CPU does faster than argmax.

    A class is told by its index and never by `logits == max`: XLA may compute the logits twice,
    rounded differently, and then nothing equals the maximum.
    """
    logits = jax.lax.stop_gradient(logits)
    least = jnp.full((), -jnp.inf, logits.dtype), jnp.zeros((), int)
    return jax.lax.reduce((logits, _numbers_of(logits, int)), least, _larger, (logits.ndim - 1,))[1]


def _larger(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    taken = other[0] > one[0]
    return jnp.where(taken, other[0], one[0]), jnp.where(taken, other[1], one[1])


def _from(top: Array, t: Array) -> Array:
    """t less that of the top class, and exactly 0 there: rounded, it would drown the others."""
    return jnp.where(top, 0, t - jnp.sum(jnp.where(top, t, 0), axis=-1, keepdims=True))


def _top(logits: Array) -> Array:
    return wide(jax.lax.stop_gradient(jnp.max(logits, axis=-1, initial=-jnp.inf)))


@jax.custom_jvp
def _behind(logits: Array, top: Array) -> Array:
    """Logits less the largest, which counts as a constant: whatever it is, it cancels."""
    most = jnp.finfo(logits.dtype).max
    return jnp.minimum(logits, most) - jnp.minimum(top, most)[..., None]


_behind.defjvps(lambda t, behind, logits, top: t, None)


def _shares(logits: Array) -> Array:
    """exp(logits) as shares of the largest one, which is 1; their sum is not."""
    return jnp.exp(_behind(logits, _top(logits)))


def _share_at(logits: Array, labels: Array, top: Array) -> Array:
    most = jnp.finfo(logits.dtype).max
    own = jnp.minimum(at(logits, labels), most)
    return jnp.exp(own - jnp.minimum(top, most))


def _slope_of_share(logits: Array, top: Array) -> Array:
    return jnp.where(hit(logits, top), _share_of_top(logits, top)[..., None], 0)


@closed_form(_slope_of_share, None)
def _share_of_top(logits: Array, top: Array) -> Array:
    """1, and yet its derivative is that of a share."""
    return jnp.ones_like(top, logits.dtype)


def _rest(shares: Array, index: Array) -> Array:
    """Σ shares of all classes but one, told by arithmetic because a select would be stored.

    A long row is better stored: what XLA on CPU computes of it within a sum leaves the cache.
    """
    if shares.shape[-1] > LONG:
        return jnp.sum(jnp.where(hit(shares, index), 0, shares), axis=-1)
    classes = _numbers_of(shares, shares.dtype)
    others = jnp.minimum(jnp.abs(classes - index[..., None].astype(shares.dtype)), 1)
    return jnp.sum(shares * others, axis=-1)
