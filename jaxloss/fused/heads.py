"""From hidden states, heads and options to a loss, by whatever schedule."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core import class_options, inputs, kernels, numerics, over_classes
from jaxloss.core.checks import observing, require
from jaxloss.core.reductions import R, Reduction, adds_up, reduce, reduce_total
from jaxloss.core.statistics import Mean, kept
from jaxloss.fused import blocks, products, tokens
from jaxloss.fused.blocks import Options, Statistics, Tile
from jaxloss.fused.placement import over_rows
from jaxloss.fused.schedules import Name, Plan, plan

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


def headed(
    where: ArrayLike | None, hidden: ArrayLike, head: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array, Array]:
    """Checked, and both operands of the product in one dtype: theirs, or else a wide one."""
    one_dtype = jnp.result_type(hidden) == jnp.result_type(head)
    h, w, labels = inputs.headed(where, labels=labels, hidden=hidden, head=head)
    dtype = jnp.result_type(hidden) if one_dtype else h.dtype
    return h.astype(dtype), w.astype(dtype), labels


def options(head: Array, **given: ArrayLike | None) -> dict[str, Array]:
    """Those that are in use, checked, as arrays without axes or with one entry per class."""
    like = jnp.zeros((head.shape[1],), products.wide(head.dtype))
    used = {}
    for name, value in given.items():
        one = name == "temperature" and isinstance(value, numbers.Real) and value == 1
        if value is not None and inputs.given(value) and not one:
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
        values, counts = _cost(blocks.scores(_logits(hidden, head), options), labels, options)
        return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
    rows = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    if how.schedule == "tokens":
        counts = counts_of(labels, options, products.wide(hidden.dtype))
        heads = ((rows[0], head),)
        return by_tokens(
            how, _of_chunk, heads, rows[1], (), options, counts, where, weights, reduction
        )
    spread = "label_smoothing" in options
    found = statistics(how, rows[0], head, rows[1], options, spread=spread)
    values, counts = _cost_of(found, rows[1], head.shape[1], options)
    counts = None if counts is None else counts.reshape(labels.shape)
    values = values.reshape(labels.shape)
    return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)


def _cost(x: Array, labels: Array, options: Options) -> tuple[Array, Array | None]:
    smoothing, z_loss = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    return class_options.cost_of_labels(x, labels, options.get("class_weights"), smoothing, z_loss)


def _of_chunk(logits: tuple[Array, ...], labels: Array, rows: Any, options: Options) -> Array:
    return _cost(blocks.scores(logits[0], options), labels, options)[0]


def counts_of(labels: Array, options: Options, dtype: Any) -> Array:
    """What each label adds to the denominator."""
    weights = options.get("class_weights")
    if weights is None:
        return jnp.ones(labels.shape, dtype)
    if not weights.ndim:
        return jnp.broadcast_to(weights, labels.shape)
    return over_classes.shared_at(weights.reshape((1,) * labels.ndim + (-1,)), labels)


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


def _cost_of(
    found: Statistics, labels: Array, classes: int, options: Options
) -> tuple[Array, Array | None]:
    """`class_options.cost_of_labels`, of the statistics."""
    values = numerics.softplus(found.others - found.own)
    lse = numerics.log_add(found.others, found.own)
    weighted = "class_weights" in options
    counts = counts_of(labels, options, values.dtype) if weighted else None
    if counts is not None:
        values = counts * values
    if found.spread is not None:
        bias = jnp.broadcast_to(options.get("bias", jnp.zeros((), lse.dtype)), (classes,))
        present = (~jnp.isneginf(bias)).astype(lse.dtype)
        number = jnp.sum(present)
        mass = jnp.sum(options["class_weights"] * present) if weighted else number
        even = numerics.ratio(mass * lse - found.spread, number)
        values = numerics.blend(options["label_smoothing"], values, even)
    if "z_loss" in options:
        penalty = options["z_loss"] * lse**2
        values = values + (penalty if counts is None else counts * penalty)
    return values, counts


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
        values = _over_rows(tokens.values, how, loss, *operands).reshape(counts.shape)
        return reduce(values, counts=counts, where=where, weights=weights, reduction=reduction)
    total = jnp.sum(_over_rows(_total, how, loss, *operands, times.reshape(-1)))
    number = Mean.of(counts, where, weights).total
    return reduce_total(total, Mean.of(ones, where).weight, number, reduction=reduction)


def _total(*operands: Any) -> Array:
    return tokens.total(*operands)[None]


def _over_rows(
    compute: Callable[..., Array],
    how: Plan,
    loss: tokens.Loss,
    heads: tokens.Heads,
    labels: Any,
    rows: Any,
    options: Options,
    *masks: Array,
) -> Array:
    def run(each: Any, shared: Any) -> Array:
        (hidden, labels, rows, masks), (matrices, used) = each, shared
        pairs = tuple(zip(hidden, matrices, strict=True))
        return compute(loss, how.rows, pairs, labels, rows, used, *masks)

    hidden, matrices = [h for h, _ in heads], [w for _, w in heads]
    with observing(None):
        return over_rows(run, (hidden, labels, rows, masks), (matrices, options))


def log_probs(
    how: Plan, hidden: Array, head: Array, labels: Array, options: Options, entropy: bool
) -> tuple[Array, Array | None]:
    """log p of the labels, and if asked for the entropy of each p."""
    if how.schedule == "plain":
        x = blocks.scores(_logits(hidden, head), options)
        values = -over_classes.cross_entropy_at(x, labels)
        terms = numerics.xtimes(over_classes.softmax(x), -over_classes.log_softmax(x))
        return values, jnp.sum(terms, axis=-1) if entropy else None
    rows = hidden.reshape(-1, hidden.shape[-1])
    found = statistics(how, rows, head, labels.reshape(-1), options, entropy=entropy)
    odds = found.own - found.others
    values = -numerics.softplus(-odds).reshape(labels.shape)
    if found.entropy is None:
        return values, None
    of_label = numerics.softplus(-odds) * numerics.sigmoid(odds)
    others = numerics.sigmoid(-odds) * (numerics.softplus(odds) + found.entropy)
    return values, (of_label + others).reshape(labels.shape)


def _logits(hidden: Array, head: Array) -> Array:
    return jnp.matmul(hidden, head, preferred_element_type=products.wide(hidden.dtype))


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
    return student, one(where, teacher_hidden=teacher_hidden, teacher_head=teacher_head)


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
        values = loss(tuple(_logits(h, w) for h, w in pairs), (), (), options)
        return reduce(values, where=where, weights=weights, reduction=reduction)
    flat = tuple((h.reshape(-1, h.shape[-1]), w) for h, w in pairs)
    counts = jnp.ones_like(pairs[0][0][..., 0], dtype=products.wide(pairs[0][0].dtype))
    return by_tokens(how, loss, flat, (), (), options, counts, where, weights, reduction)


def _both(logits: tuple[Array, ...], options: Options) -> list[Array]:
    shared = {k: v for k, v in options.items() if k == "temperature"}
    biases = [options.get("student_bias"), options.get("teacher_bias")]
    return [
        blocks.scores(x, shared if bias is None else {**shared, "bias": bias})
        for x, bias in zip(logits, biases, strict=True)
    ]


def divergence(logits: tuple[Array, ...], labels: Any, rows: Any, options: Options) -> Array:
    """Σ q·log(q / p) of a student's p and a teacher's q."""
    return over_classes.divergence(*_both(logits, options))


def js_divergence(logits: tuple[Array, ...], labels: Any, rows: Any, options: Options) -> Array:
    """Of the two from their mixture."""
    x, y = map(over_classes.log_softmax, _both(logits, options))
    return jnp.sum(kernels.divergence_from_mixture(x, y, options["beta"]), axis=-1)


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
    require((y >= 0) & (y <= 1), "labels", y, "a probability is in [0, 1]")
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
        x = blocks.scores(_logits(hidden, head), options)
        values = kernels.logistic_loss(x, labels.astype(x.dtype))
        return reduce(values, where=where, weights=weights, reduction=reduction)
    dtype, examples = products.wide(hidden.dtype), labels.shape[:-1]
    exact = jnp.issubdtype(labels.dtype, jnp.floating)
    number, kept_units = (_number(labels, dtype, where, each) for each in (weights, None))
    masks = {} if where is None else {"where": jnp.asarray(where)}
    numbers = {} if weights is None else {"weights": jnp.asarray(weights).astype(dtype)}
    (numbers if exact else masks)["labels"] = labels.astype(dtype) if exact else labels

    def flat(tree: dict[str, Array]) -> dict[str, Array]:
        full = {
            name: a if a.ndim == labels.ndim else inputs.spread(name, a, examples)
            for name, a in tree.items()
        }
        return {name: a.reshape(-1, *a.shape[len(examples) :]) for name, a in full.items()}

    masks, numbers = flat(masks), flat(numbers)
    pairs = ((hidden.reshape(-1, hidden.shape[-1]), head),)
    every = jnp.ones_like(pairs[0][0][:, 0], dtype)
    operands = pairs, masks, numbers, options, every > 0, every
    total = jnp.sum(_over_rows(_total, how, _bits_of_chunk, *operands))
    return reduce_total(total, kept_units, number, reduction=reduction)


def _number(labels: Array, dtype: Any, where: ArrayLike | None, weights: ArrayLike | None) -> Array:
    """Σ weights over the labels kept; those of an example times how many labels it has."""
    full = any(a is not None and jnp.ndim(a) == labels.ndim for a in (where, weights))
    ones = jnp.ones(labels.shape if full else labels.shape[:-1], dtype)
    return Mean.of(ones, where, weights).weight * (1 if full else labels.shape[-1])


def _bits_of_chunk(
    logits: tuple[Array, ...], masks: dict[str, Array], numbers: dict[str, Array], options: Options
) -> Array:
    x, each = blocks.scores(logits[0], options), {**masks, **numbers}
    values = kernels.logistic_loss(x, each["labels"].astype(x.dtype))
    values, times = kept(values, masks.get("where"), numbers.get("weights"))
    return jnp.sum(times * values, axis=-1)
