"""Losses that see all classes of a row at once: of two heads, or of a label for every class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core import divergences, inputs, kernels
from jaxloss.core.reductions import R, Reduction, adds_up, reduce, reduce_total
from jaxloss.core.statistics import Mean, kept
from jaxloss.fused import blocks, tokens
from jaxloss.fused.blocks import Options
from jaxloss.fused.heads import by_tokens, logits_of, options, run, total_of
from jaxloss.fused.placement import beside, flat
from jaxloss.fused.schedules import Name, Plan, plan


def one(where: ArrayLike | None, **arrays: ArrayLike) -> tuple[Array, Array]:
    """Hidden states and a head, checked, in one dtype: theirs, or else a wide one."""
    hidden, head = map(jnp.result_type, arrays.values())
    h, w = inputs.projected(where, class_axis=1, **arrays)
    dtype = hidden if hidden == head else h.dtype
    return h.astype(dtype), w.astype(dtype)


def two(
    where: ArrayLike | None,
    student_hidden: ArrayLike,
    student_head: ArrayLike,
    teacher_hidden: ArrayLike,
    teacher_head: ArrayLike,
) -> tokens.Heads:
    """A student's and a teacher's hidden states and heads."""
    student = one(where, student_hidden=student_hidden, student_head=student_head)
    shape, classes = jnp.shape(student_hidden)[:-1], jnp.shape(student_head)[-1]
    if jnp.shape(teacher_hidden)[:-1] != shape or jnp.shape(teacher_head)[-1] != classes:
        raise ValueError(
            "teacher_hidden and teacher_head must have the units of student_hidden and the "
            f"classes of student_head, got {jnp.shape(teacher_hidden)} and "
            f"{jnp.shape(teacher_head)} for {jnp.shape(student_hidden)} and "
            f"{jnp.shape(student_head)}."
        )
    h, w = one(where, teacher_hidden=teacher_hidden, teacher_head=teacher_head)
    wide = inputs.wide_dtype(student[0].dtype)
    if inputs.wide_dtype(h.dtype) != wide:
        h, w = h.astype(wide), w.astype(wide)
    return student, (h, w)


def options_of_two(
    pairs: tokens.Heads, student_bias: ArrayLike | None, teacher_bias: ArrayLike | None
) -> dict[str, Array]:
    """The biases in use, by whose they are."""
    each = zip(("student_bias", "teacher_bias"), pairs, (student_bias, teacher_bias), strict=True)
    return {
        name: options(pair[1], bias=bias)["bias"] for name, pair, bias in each if bias is not None
    }


def plan_of_rows(pairs: tokens.Heads, schedule: Name | Plan | None, budget: int | None) -> Plan:
    """What is done with losses that see all classes of a row at once."""
    (hidden, head), features = pairs[0], sum(h.shape[-1] for h, _ in pairs)
    made = plan(
        jax.ShapeDtypeStruct((*hidden.shape[:-1], features), hidden.dtype),
        jax.ShapeDtypeStruct((features, head.shape[-1]), head.dtype),
        schedule=schedule,
        memory_budget=budget,
        by_rows=True,
    )
    if made.schedule not in ("plain", "tokens"):
        raise ValueError(
            f"schedule must be None, 'plain' or 'tokens' here, got {made.schedule!r}: this loss "
            "sees all classes of a token at once."
        )
    return made


def of_rows(
    how: Plan,
    loss: tokens.Loss,
    pairs: tokens.Heads,
    options: Options,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """A loss of the scores of several heads."""
    if how.schedule == "plain":
        options = beside(pairs[0][0], options)
        values = loss(tuple(logits_of(h, w) for h, w in pairs), (), (), options)
        return reduce(values, where=where, weights=weights, reduction=reduction)
    rows = tuple((flat(h, h.ndim - 1), w) for h, w in pairs)
    counts = jnp.ones_like(pairs[0][0][..., 0], dtype=inputs.wide_dtype(pairs[0][0].dtype))
    return by_tokens(how, loss, rows, (), (), options, counts, where, weights, reduction)


def _both(logits: tuple[Array, ...], options: Options) -> list[Array]:
    shared = {k: v for k, v in options.items() if k == "temperature"}
    biases = [options.get("student_bias"), options.get("teacher_bias")]
    return [
        blocks.scores(x, shared if bias is None else {**shared, "bias": bias})
        for x, bias in zip(logits, biases, strict=True)
    ]


def divergence(logits: tuple[Array, ...], labels: Any, rows: Any, options: Options) -> Array:
    """Σ q·log(q / p) of a student's p and a teacher's q."""
    return divergences.kullback_leibler(*_both(logits, options))


def js_divergence(logits: tuple[Array, ...], labels: Any, rows: Any, options: Options) -> Array:
    """Of the two from their mixture."""
    return divergences.jensen_shannon(*_both(logits, options), options["beta"])


def multi_labelled(
    where: ArrayLike | None, hidden: ArrayLike, head: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array, Array]:
    """Hidden states, a head, and a label of every class for each of the examples."""
    labels = jnp.asarray(labels)
    shape = (*jnp.shape(hidden)[:-1], *jnp.shape(head)[-1:])
    if labels.shape != shape:
        raise ValueError(
            "labels must have the leading axes of hidden and the classes of head, got "
            f"{labels.shape}, {jnp.shape(hidden)} and {jnp.shape(head)}."
        )
    examples = where
    if where is not None and jnp.ndim(where) == len(shape):
        examples = inputs.units_kept(where, shape, units=len(shape) - 1)
    h, w = one(examples, hidden=hidden, head=head)
    y = inputs.blank(labels, where)
    if y.dtype != bool:
        inputs.require_probabilities(labels=y)
    return h, w, y


def binary(
    how: Plan,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction[R],
) -> R:
    """A label of every class; where and weights are of each, or of an example."""
    if how.schedule == "plain" or not adds_up(reduction):
        x = blocks.scores(logits_of(hidden, head), beside(hidden, options))
        values = kernels.logistic_loss(x, labels.astype(x.dtype))
        return reduce(values, where=where, weights=weights, reduction=reduction)
    dtype, examples = inputs.wide_dtype(hidden.dtype), labels.shape[:-1]
    exact = jnp.issubdtype(labels.dtype, jnp.floating)
    number, kept_units = (_number(labels, dtype, where, each) for each in (weights, None))
    masks = {} if where is None else {"where": jnp.asarray(where)}
    numbers = {} if weights is None else {"weights": jnp.asarray(weights).astype(dtype)}
    (numbers if exact else masks)["labels"] = labels.astype(dtype) if exact else labels

    def joined(tree: dict[str, Array]) -> dict[str, Array]:
        full = {
            name: a if a.ndim == labels.ndim else inputs.spread(name, a, examples)
            for name, a in tree.items()
        }
        return {name: flat(a, len(examples)) for name, a in full.items()}

    masks, numbers = joined(masks), joined(numbers)
    pairs = ((flat(hidden, len(examples)), head),)
    every = jnp.ones_like(pairs[0][0][:, 0], dtype)
    operands = pairs, masks, numbers, options, every > 0, every
    total = jnp.sum(run(total_of, how, _bits_of_chunk, *operands))
    given = {"units": labels.shape, "where": where, "weights": weights}
    return reduce_total(total, kept_units, number, **given, reduction=reduction)


def _number(labels: Array, dtype: Any, where: ArrayLike | None, weights: ArrayLike | None) -> Array:
    """Σ weights over the labels kept; that of an example counts for each of its labels."""
    if jnp.ndim(0 if weights is None else weights) == labels.ndim:
        return Mean.of(jnp.ones(labels.shape, dtype), where, weights).weight
    each = jnp.full(labels.shape[:-1], labels.shape[-1], dtype)
    if jnp.ndim(True if where is None else where) == labels.ndim:
        each = jnp.sum(jnp.asarray(where), axis=-1, dtype=jnp.int32).astype(dtype)
        where = each > 0
    return Mean.of(each, where, weights).total


def _bits_of_chunk(
    logits: tuple[Array, ...], masks: dict[str, Array], numbers: dict[str, Array], options: Options
) -> Array:
    x, each = blocks.scores(logits[0], options), {**masks, **numbers}
    values = kernels.logistic_loss(x, each["labels"].astype(x.dtype))
    values, times = kept(values, masks.get("where"), numbers.get("weights"))
    return jnp.sum(times * values, axis=-1)
