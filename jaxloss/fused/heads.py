"""From hidden states, heads and options to a loss, by whatever schedule."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from jaxloss.core import class_options, inputs, numerics, over_classes
from jaxloss.core.checks import observing
from jaxloss.core.reductions import R, Reduction, adds_up, reduce, reduce_total
from jaxloss.core.statistics import Mean, kept
from jaxloss.fused import blocks, tokens
from jaxloss.fused.blocks import Options, Statistics, Tile
from jaxloss.fused.placement import beside, flat, over_rows
from jaxloss.fused.schedules import Plan

RANGES = {
    "bias": "a number",
    "logit_softcap": "positive",
    "temperature": "positive",
    "class_weights": "0 or more",
    "label_smoothing": "in [0, 1]",
    "z_loss": "0 or more",
    "beta": "in (0, 1)",
}
PER_CLASS = ("bias", "class_weights")
#: The numbers that change nothing.
NEUTRAL = {
    "bias": 0,
    "label_smoothing": 0,
    "z_loss": 0,
    "temperature": 1,
    "logit_softcap": math.inf,
}


def headed(
    where: ArrayLike | None, hidden: ArrayLike, head: ArrayLike, labels: ArrayLike, parts: int = 1
) -> tuple[Array, Array, Array]:
    """Checked, and both operands of the product in one dtype: theirs, or else a wide one."""
    one_dtype = jnp.result_type(hidden) == jnp.result_type(head)
    h, w, labels = inputs.headed(where, labels=labels, hidden=hidden, head=head, parts=parts)
    dtype = jnp.result_type(hidden) if one_dtype else h.dtype
    return h.astype(dtype), w.astype(dtype), labels


def with_present_labels(labels: Array, options: Options, where: ArrayLike | None) -> Array:
    """Labels of classes that are there, where `where` deletes: no label may cost ∞."""
    if where is None or not options.get("bias", jnp.zeros(())).ndim:
        return labels
    there = over_classes.largest(options["bias"]).astype(labels.dtype)
    return jnp.where(inputs.spread("where", where, labels.shape), labels, there)


def options(head: Array, **given: ArrayLike | None) -> dict[str, Array]:
    """Those that are in use, checked, as arrays without axes or with one entry per class."""
    like = jnp.zeros(head.shape[-1:], inputs.wide_dtype(head.dtype))
    used = {}
    for name, value in given.items():
        neutral = isinstance(value, numbers.Real) and value == NEUTRAL.get(name)
        if value is not None and not neutral:
            if name in PER_CLASS:
                value = inputs.with_a_class(jnp.asarray(value), 0)
            used[name] = inputs.option(
                name, value, like, must_be=RANGES[name], entries=name in PER_CLASS
            )
    return used


def cross_entropy(
    how: Plan,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """Class indices against the scores of one head."""
    if how.schedule == "plain":
        options = beside(hidden, options)
        values, counts = _cost(blocks.scores(logits_of(hidden, head), options), labels, options)
        return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
    rows = flat(hidden, labels.ndim), labels.reshape(-1)
    if how.schedule == "tokens":
        counts = counts_of(labels, options, inputs.wide_dtype(hidden.dtype))
        heads = ((rows[0], head),)
        return by_tokens(
            how, _of_chunk, heads, rows[1], (), options, counts, where, weights, reduction
        )
    spread = "label_smoothing" in options
    found = statistics(how, rows[0], head, rows[1], options, spread=spread)
    weighted, weights_of = "class_weights" in options, options.get("class_weights", 1)
    counts = counts_of(rows[1], options, found.own.dtype) if weighted else None
    bias = jnp.broadcast_to(options.get("bias", jnp.zeros((), found.own.dtype)), head.shape[1:])
    present = (~jnp.isneginf(bias)).astype(bias.dtype)
    even = jnp.sum(present), jnp.sum(weights_of * present)
    values = cost_of(found, options, counts, *even).reshape(labels.shape)
    counts = None if counts is None else counts.reshape(labels.shape)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)


def _cost(x: Array, labels: Array, options: Options) -> tuple[Array, Array | None]:
    smoothing, z_loss = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    return class_options.cost_of_labels(x, labels, options.get("class_weights"), smoothing, z_loss)


def _of_chunk(logits: tuple[Array, ...], labels: Array, rows: Any, options: Options) -> Array:
    return _cost(blocks.scores(logits[0], options), labels, options)[0]


def counts_of(labels: Array, options: Options, dtype: Any) -> Array:
    """What each label adds to the denominator; its gradient compares a few labels at a time."""
    weights = options.get("class_weights")
    if weights is None:
        return jnp.ones_like(labels, dtype)
    if not weights.ndim:
        return weights * jnp.ones_like(labels, weights.dtype)
    flat = labels.reshape(-1)
    few = Plan("tokens", max(1, min(64, len(flat) // 8)), len(weights))
    every = flat == flat
    counts = run(tokens.values, few, _weight_of_chunk, (), flat, (), {"w": weights}, every)
    return counts.reshape(labels.shape)


def _weight_of_chunk(logits: Any, labels: Array, rows: Any, shared: Options) -> Array:
    return over_classes.shared_at(shared["w"][None], labels)


def statistics(
    how: Plan,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    *,
    spread: bool = False,
    entropy: bool = False,
) -> Statistics:
    """Of the rows, by blocks of classes."""
    names = ("bias", "logit_softcap", "temperature", *(("class_weights",) if spread else ()))
    used = {name: value for name, value in options.items() if name in names}

    def of_rows(rows: tuple[Array, Array], shared: tuple[Array, Options]) -> Statistics:
        (hidden, labels), (head, used) = rows, shared
        tile = Tile(min(how.rows, len(labels)), min(how.classes, head.shape[1]), spread, entropy)
        return blocks.statistics(how.kernel(), tile, hidden, head, labels, used)

    with observing(None):
        return over_rows(of_rows, (hidden, labels), (head, used))


def cost_of(
    found: Statistics, options: Options, counts: Array | None, number: Array, mass: Array
) -> Array:
    """`class_options.cost_of_labels`, of the statistics.

    `number` of the classes are present, and `mass` is the sum of their weights.
    """
    values = numerics.softplus(found.ahead())
    lse = numerics.log_add(found.others, found.own)
    times = 1 if counts is None else counts
    values = times * values
    if found.spread is not None:
        even = numerics.ratio(mass * lse - found.spread, number)
        values = numerics.blend(options["label_smoothing"], values, even)
    if "z_loss" in options:
        values = values + times * options["z_loss"] * lse**2
    return values


def by_tokens(
    how: Plan,
    loss: tokens.Loss,
    heads: tokens.Heads,
    labels: Any,
    rows: Any,
    options: Options,
    counts: Array,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """A loss over chunks of rows, with its gradient where the reduction adds up."""
    ones = jnp.ones_like(counts)
    there, times = kept(ones, where, weights)
    operands = heads, labels, rows, options, there.reshape(-1) > 0
    if not adds_up(reduction):
        values = run(tokens.values, how, loss, *operands).reshape(counts.shape)
        return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
    total = jnp.sum(run(total_of, how, loss, *operands, times.reshape(-1)))
    number, units = Mean.of(counts, where, weights).total, Mean.of(ones, where).weight
    given = {"units": counts.shape, "where": where, "weights": weights}
    return reduce_total(total, units, number, **given, reduction=reduction)


def total_of(*operands: Any) -> Array:
    """`tokens.total`, with an axis for devices to have one each."""
    return tokens.total(*operands)[None]


def run(
    compute: Callable[..., Array],
    how: Plan,
    loss: tokens.Loss,
    heads: tokens.Heads,
    labels: Any,
    rows: Any,
    options: Options,
    *masks: Array,
) -> Array:
    """`tokens.values`, or what else takes its arguments, wherever the rows are."""

    def of_each(each: Any, shared: Any) -> Array:
        (hidden, labels, rows, masks), (matrices, used) = each, shared
        pairs = tuple(zip(hidden, matrices, strict=True))
        return compute(loss, how.rows, pairs, labels, rows, used, *masks)

    hidden, matrices = [h for h, _ in heads], [w for _, w in heads]
    with observing(None):
        return over_rows(of_each, (hidden, labels, rows, masks), (matrices, options))


def log_probs(
    how: Plan, hidden: Array, head: Array, labels: Array, options: Options, entropy: bool
) -> tuple[Array, Array | None]:
    """log p of the labels, and if asked for the entropy of each p."""
    if how.schedule == "plain":
        options = beside(hidden, options)
        x = blocks.scores(logits_of(hidden, head), options)
        values = -over_classes.cross_entropy_at(x, labels)
        terms = numerics.xtimes(over_classes.softmax(x), -over_classes.log_softmax(x))
        return values, jnp.sum(terms, axis=-1) if entropy else None
    rows = flat(hidden, labels.ndim)
    found = statistics(how, rows, head, labels.reshape(-1), options, entropy=entropy)
    odds = -found.ahead()
    values = -numerics.softplus(-odds).reshape(labels.shape)
    if found.entropy is None:
        return values, None
    of_label = numerics.xtimes(numerics.sigmoid(odds), numerics.softplus(-odds))
    others = numerics.xtimes(numerics.sigmoid(-odds), numerics.softplus(odds) + found.entropy)
    return values, (of_label + others).reshape(labels.shape)


def logits_of(hidden: Array, head: Array) -> Array:
    """All scores at once."""
    *units, features = jax.typeof(hidden).sharding.spec
    if features is not None:  # which a product cannot tell on an explicit mesh
        hidden = jax.sharding.reshard(hidden, PartitionSpec(*units, None))
    head = beside(hidden, head)
    return jnp.matmul(hidden, head, preferred_element_type=inputs.wide_dtype(hidden.dtype))
