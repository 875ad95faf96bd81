"""A vocabulary that is split over devices: what each knows of its part becomes what all know.

Everything here is inside of `jax.shard_map`, and only vectors with one number per row travel. A
gradient that is taken inside of the map is right whether or not the map checks what varies
(`check_vma`), which JAX does not see to by itself; one of the map, from outside, if it checks.
"""

from __future__ import annotations

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import class_options, numerics, over_classes
from jaxloss.fused import heads
from jaxloss.fused.blocks import Options, Statistics, rounded_off
from jaxloss.sharded.meshes import Axes


def own_labels(labels: Array, classes: int, axes: Axes) -> Array:
    """Labels as indices of this device's part of the classes, -1 where another device has it."""
    local = labels - jax.lax.axis_index(axes).astype(labels.dtype) * classes
    return jnp.where((local >= 0) & (local < classes), local, -1)


@jax.custom_jvp
def logits_of(hidden: Array, head: Array) -> Array:
    """Scores of hidden states that are wide for the sake of their gradient alone."""
    return heads.logits_of(hidden.astype(head.dtype), head)


@logits_of.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (hidden, head), (of_hidden, of_head) = primals, tangents
    change = heads.logits_of(of_hidden, numerics.wide(head))
    return logits_of(hidden, head), change + heads.logits_of(hidden.astype(head.dtype), of_head)


def of_logits(x: Array, labels: Array, options: Options, spread: bool) -> Statistics:
    """`blocks.statistics` of scores that are all there."""
    hit = over_classes.hit(x, labels)
    others = over_classes.logsumexp(jnp.where(hit, -jnp.inf, x))
    own = jnp.where(labels < 0, -jnp.inf, jnp.sum(jnp.where(hit, x, 0), axis=-1))
    if not spread:
        return Statistics(others, own)
    c, there = class_options.per_class(options.get("class_weights"), x), jnp.where(_absent(x), 0, x)
    return Statistics(others, own, jnp.sum(there if c is None else c * there, axis=-1))


def present(x: Array, options: Options, axes: Axes) -> tuple[Array, Array]:
    """How many classes of a row are present, and the sum of their weights."""
    there = (~_absent(x)).astype(x.dtype)
    c = class_options.per_class(options.get("class_weights"), x)
    counts = jnp.sum(there, axis=-1), jnp.sum(there if c is None else c * there, axis=-1)
    return summed(counts[0], axes), summed(counts[1], axes)


def _absent(x: Array) -> Array:
    return jnp.isneginf(jax.lax.stop_gradient(x))


def weights_of(labels: Array, options: Options, axes: Axes) -> Array | None:
    """The weight of each label's class, which the device that has the class knows."""
    weights = options.get("class_weights")
    if weights is None or not weights.ndim:
        return None if weights is None else jnp.broadcast_to(weights, labels.shape)
    here = heads.counts_of(jnp.maximum(labels, 0), options, weights.dtype)
    return summed(jnp.where(labels < 0, 0, here), axes)


def merged(found: Statistics, labels: Array, axes: Axes) -> Statistics:
    """The statistics of the whole vocabulary, of which each device holds a part."""
    most = jax.lax.pmax(jax.lax.stop_gradient(found.others), axes)
    level = jnp.where(jnp.isneginf(most), 0, most)
    away = found.others - level
    total = summed(jnp.exp(away if found.rest is None else away + found.rest), axes)
    own = summed(jnp.where(labels < 0, 0, found.own), axes)
    spread = None if found.spread is None else summed(found.spread, axes)
    log = jnp.log(total)
    rest = jax.lax.stop_gradient(rounded_off(level, log))
    return Statistics(level + log, own, spread, rest=rest)


def summed(array: Array, axes: Axes) -> Array:
    """The sum over the devices, whose gradient each of them has already."""
    return cast(Array, _summed(array, axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _summed(array: Array, axes: Axes) -> Array:
    return jax.lax.psum(array, axes)


_summed.defvjp(
    lambda array, axes: (jax.lax.psum(array, axes), None),
    lambda axes, _, change: (_apart(change, axes),),
)


def shared(array: Array, axes: Axes) -> Array:
    """What all devices have alike: its gradient is the sum of what each finds."""
    return cast(Array, _shared(array, axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _shared(array: Array, axes: Axes) -> Array:
    return _apart(array, axes)


_shared.defvjp(
    lambda array, axes: (_apart(array, axes), None),
    lambda axes, _, change: (jax.lax.psum(change, axes),),
)


def _apart(array: Array, axes: Axes) -> Array:
    """The same, for JAX an array that may differ between devices."""
    return array + jnp.zeros_like(jax.lax.axis_index(axes), array.dtype)
