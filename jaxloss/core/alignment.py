"""Connectionist temporal classification: all the ways in which steps can spell out labels.

A path names one class per step; repeats merge and then blanks go, and what is left are the
labels. `classes` `[*units, length + 1]` is the blank followed by the labels, `lengths` `[*units]`
how many of the labels there are, and `kept` `[*units, steps]` which steps there are. Everything is
a logarithm, -∞ is what cannot be, and no label is the blank.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import over_classes
from jaxloss.core.numerics import log_add

#: Of each prefix of the labels, log Σ p of the paths that spell it: ended by a blank, by a label.
Alphas: TypeAlias = tuple[Array, Array]


@jax.custom_jvp
def ctc(logits: Array, classes: Array, lengths: Array, kept: Array | None) -> Array:
    """-log Σ p of the paths that spell the labels; +∞, with derivatives 0, where there is none."""
    log_probs = _log_probs(logits, classes, lengths)
    return _cost(_log_likelihood(log_probs, classes, lengths, kept))


@ctc.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    logits, classes, lengths, kept = primals
    log_likelihood, posterior = jax.vjp(
        lambda log_probs: _log_likelihood(log_probs, classes, lengths, kept),
        _log_probs(logits, classes, lengths),
    )
    (mass,) = posterior(jnp.ones_like(log_likelihood))
    possible = ~jnp.isneginf(log_likelihood)[..., None, None]
    slope = jnp.where(possible, _softmax_less(mass, classes, logits), 0)
    return _cost(log_likelihood), jnp.sum(slope * tangents[0], axis=(-2, -1))


def _cost(log_likelihood: Array) -> Array:
    """What is left of a probability; by rounding it may be above 1."""
    return jnp.where(log_likelihood > 0, 0, -log_likelihood)


def _softmax_less(mass: Array, classes: Array, logits: Array) -> Array:
    """p minus the posterior `mass` of each class; a row sums to 0, which gives that of the top."""
    among = jax.lax.broadcasted_iota(
        classes.dtype, (*classes.shape, logits.shape[-1]), classes.ndim
    )
    of_class = (among == classes[..., None]).astype(mass.dtype)
    of_step = jnp.moveaxis(mass, 0, -2)
    top = over_classes.hit(logits, over_classes.largest(logits))
    gap = over_classes.softmax(logits) - jnp.matmul(of_step, of_class, precision="highest")
    others = jnp.where(top, 0, gap)
    return jnp.where(top, -jnp.sum(others, axis=-1, keepdims=True), others)


def forward_log_probs(logits: Array, classes: Array, lengths: Array, kept: Array | None) -> Alphas:
    """The alphas after every step, `[steps, *units, length + 1]` and `[steps, *units, length]`.

    After the last step a prefix may end either way, and the first of the two has them both.
    """
    log_probs = _log_probs(logits, classes, lengths)
    _, (blanks, labels), shifts = _forward(log_probs, classes, kept)
    shift = jnp.cumsum(shifts, axis=0)
    last = log_add(blanks[-1:], labels[-1:])
    blanks = jnp.concatenate([blanks[:-1], last]) + shift
    return blanks, labels[..., 1:] + shift


def _log_probs(logits: Array, classes: Array, lengths: Array) -> Array:
    """log softmax of the classes, `[steps, *units, length + 1]`; -∞ of what is no label."""
    place = jax.lax.broadcasted_iota(lengths.dtype, classes.shape, classes.ndim - 1)
    log_probs = over_classes.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, classes[..., None, :], axis=-1)
    there = (place <= lengths[..., None])[..., None, :]
    return jnp.moveaxis(jnp.where(there, picked, -jnp.inf), -2, 0)


def _log_likelihood(log_probs: Array, classes: Array, lengths: Array, kept: Array | None) -> Array:
    alphas, _, shifts = _forward(log_probs, classes, kept)
    whole = over_classes.hit(classes, lengths)
    return jnp.sum(jnp.where(whole, log_add(*alphas), 0), axis=-1) + jnp.sum(shifts[..., 0], axis=0)


def _forward(log_probs: Array, classes: Array, kept: Array | None) -> tuple[Alphas, Alphas, Array]:
    """The last alphas, all of them, and what every step took off them so that the top is 0."""
    there = None if kept is None else jnp.moveaxis(kept, -1, 0)[..., None]
    repeats = classes == _shifted(classes, -1, -1)

    def step(
        alphas: Alphas, now: tuple[Array, Array | None]
    ) -> tuple[Alphas, tuple[Alphas, Array]]:
        (blanks, labels), (log_prob, there) = alphas, now
        either = log_add(blanks, labels)
        before = _shifted(jnp.where(repeats, blanks, either), 1, -jnp.inf)
        after = either + log_prob[..., :1], log_add(labels, before) + log_prob
        top = jax.lax.stop_gradient(jnp.max(jnp.maximum(*after), axis=-1, keepdims=True))
        shift = jnp.where(jnp.isneginf(top), 0, top)
        after = after[0] - shift, after[1] - shift
        if there is not None:
            shift = jnp.where(there, shift, 0)
            after = jax.tree.map(lambda new, old: jnp.where(there, new, old), after, alphas)
        return after, (after, shift)

    none = jnp.full_like(classes, -jnp.inf, dtype=log_probs.dtype)
    start = jnp.where(over_classes.hit(none, jnp.zeros_like(classes[..., 0])), 0, none), none
    last, (every, shifts) = jax.lax.scan(step, start, (log_probs, there))
    return last, every, shifts


def _shifted(x: Array, by: int, fill: float) -> Array:
    """The last axis moved on by one place, or back by one."""
    places = [*[(0, 0, 0)] * (x.ndim - 1), (by, -by, 0)]
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), places)
