"""What a cross entropy needs to know of each row, by blocks of classes (and chunks of rows).

`statistics` returns `[rows]` vectors as values; whatever follows is ordinary JAX. They merge over
any partition of the classes, so a device may hold a part of the vocabulary (see `sharded`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint

from jaxloss.core import class_options, inputs, numerics
from jaxloss.fused import products
from jaxloss.fused.placement import together, zeros
from jaxloss.fused.tokens import chunked, joined

#: Those in use of bias and class_weights, `[classes]` or `()`, logit_softcap and temperature, `()`.
Options = Mapping[str, Array]


class Statistics(NamedTuple):
    """Of the scores x of a row over the classes of a head, one number per row each.

    others: log Σ exp x over the classes that are not the label; -inf if there is none.
    own: x of the label; -inf if the head does not hold it.
    spread: Σ class_weights·x over the classes that are present, if asked for.
    entropy: -Σ q·log q of q = exp(x - others), of the classes that are not the label, if asked for.
    rest: What is to be added to others, for which a float has no more digits; its derivative is
        that of others already.
    """

    others: Array
    own: Array
    spread: Array | None = None
    entropy: Array | None = None
    rest: Array | None = None

    def ahead(self) -> Array:
        """others - own, with all digits."""
        apart = self.others - self.own
        return apart if self.rest is None else apart + self.rest


@dataclasses.dataclass(frozen=True)
class Tile:
    """How much is worked on at a time, and which statistics are asked for."""

    rows: int
    classes: int
    spread: bool = False
    entropy: bool = False


class Kernel(Protocol):
    """Statistics and their gradient, in one implementation.

    `backward` returns the gradients of hidden, in its dtype or wider, of head and of the options.
    """

    def forward(
        self, tile: Tile, hidden: Array, head: Array, labels: Array, options: Options
    ) -> Statistics: ...

    def backward(
        self,
        tile: Tile,
        hidden: Array,
        head: Array,
        labels: Array,
        options: Options,
        found: Statistics,
        change: Statistics,
    ) -> tuple[Array, Array, Options]: ...


def scores(logits: Array, options: Options) -> Array:
    """x: the logits with their bias, capped and tempered."""
    if "bias" in options:
        bias = options["bias"]
        logits = logits + inputs.option("bias", bias, logits, must_be="a number", entries=True)
    x = class_options.capped(logits, options.get("logit_softcap"))
    if "temperature" not in options:
        return x
    t = inputs.option("temperature", options["temperature"], logits, must_be="positive")
    return class_options.tempered(x, t)


def forward(tile: Tile, hidden: Array, head: Array, labels: Array, options: Options) -> Statistics:
    """The statistics; of the scores one tile at a time is there."""
    classes = head.shape[1]

    def chunk(each: tuple[Array, Array]) -> Statistics:
        hidden, labels = each
        dtype = inputs.wide_dtype(hidden.dtype)

        def block(sums: _Sums, index: Array) -> tuple[_Sums, None]:
            part = _part(tile, head, options, index)
            x = _scores(products.scores(hidden, part.head), part.options)
            return _add(tile, sums, x, part, labels), None

        zero = zeros(jax.ShapeDtypeStruct(labels.shape, dtype), (each, head, options))
        start = _Sums(zero - jnp.inf, zero, zero, zero, zero)
        count = -(-classes // tile.classes)
        sums, _ = jax.lax.scan(block, start, jnp.arange(count, dtype=labels.dtype))
        return _finish(tile, sums, (labels >= 0) & (labels < classes))

    found = jax.lax.map(chunk, chunked((hidden, labels), tile.rows))
    return joined(found, labels.shape[0])


def backward(
    tile: Tile,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    found: Statistics,
    change: Statistics,
) -> tuple[Array, Array, Options]:
    """The gradients; the scores are computed again, and the head's gradient is written once.

    The last block of classes may overlap the one before, which is written after it.
    """
    rows = chunked((hidden, labels, found, change), tile.rows)
    turned = jnp.swapaxes(rows[0], 1, 2)
    count = -(-head.shape[1] // tile.classes)

    def block(sums: tuple[Array, Array, Options], index: Array) -> tuple[Any, None]:
        of_hidden, of_head, of_options = sums
        part = _part(tile, head, options, index)
        chunk = functools.partial(_chunk_of_gradients, part)
        wide = jax.ShapeDtypeStruct(part.head.shape, inputs.wide_dtype(head.dtype))
        start = zeros((wide, part.options), (rows, head, options))
        (more_head, more_options), more_hidden = jax.lax.scan(chunk, start, (turned, *rows))
        write = functools.partial(_write, start=part.start)
        of_classes = jax.tree.map(write, (of_head, of_options), (more_head, more_options))
        return (of_hidden + more_hidden, *of_classes), None

    wide = jax.ShapeDtypeStruct(rows[0].shape, inputs.wide_dtype(hidden.dtype))
    start = zeros((wide, head, options), (rows, head, options))
    order = jnp.arange(count - 1, -1, -1, dtype=labels.dtype)
    (of_hidden, of_head, of_options), _ = jax.lax.scan(block, start, order)
    return joined(of_hidden, labels.shape[0]), of_head, of_options


def _chunk_of_gradients(part: _Part, sums: tuple[Array, Options], each: Any) -> tuple[Any, Array]:
    turned, hidden, labels, found, change = each
    x, pull = jax.vjp(_scores, products.scores(hidden, part.head), part.options)
    slopes, of_options = pull(_slopes(x, part, labels, found, change))
    of_options = _add_spread(of_options, x, part, change)
    of_head = products.to_head(hidden, slopes, turned)
    sums = jax.tree.map(jnp.add, sums, (of_head, of_options))
    return sums, products.to_hidden(slopes, part.head)


def _scores(logits: Array, options: Options) -> Array:
    x = scores(logits, options)
    return numerics.finite(x) if "bias" in options else x


class _Sums(NamedTuple):
    """The largest score, Σ and Σ · (x - top) of exp(x - top) without the label; own; spread."""

    top: Array
    total: Array
    moment: Array
    own: Array
    spread: Array


class _Part(NamedTuple):
    """A block of classes: which it starts at, and which of them no earlier block holds."""

    head: Array
    options: Options
    start: Array
    fresh: Array | None


def _part(tile: Tile, head: Array, options: Options, index: Array) -> _Part:
    size, classes = tile.classes, head.shape[1]
    start = jnp.minimum(index * size, classes - size)

    def cut(array: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, start, size, axis=-1) if array.ndim else array

    column = start + jax.lax.broadcasted_iota(start.dtype, (1, size), 1)
    fresh = column >= index * size if classes % size else None
    return _Part(cut(head), jax.tree.map(cut, options), start, fresh)


def _write(array: Array, block: Array, start: Array) -> Array:
    """The gradient with that of a block of classes, or of what all blocks share."""
    if not array.ndim:
        return array + block
    updated = jax.lax.dynamic_update_slice_in_dim(array, block.astype(array.dtype), start, axis=-1)
    # else a TPU turns it as its product likes it, and turns a copy back in the end
    return with_layout_constraint(updated, Layout(tuple(range(updated.ndim))))


def _masks(x: Array, part: _Part, labels: Array) -> tuple[Array, Array]:
    """The scores, -inf where an earlier block holds the class, and which is the label's."""
    column = part.start + jax.lax.broadcasted_iota(labels.dtype, (1, x.shape[1]), 1)
    hit = column == labels[:, None]
    if part.fresh is None:
        return x, hit
    return jnp.where(part.fresh, x, -jnp.inf), hit & part.fresh


def _add(tile: Tile, sums: _Sums, x: Array, part: _Part, labels: Array) -> _Sums:
    x, hit = _masks(x, part, labels)
    top = jnp.maximum(sums.top, jnp.max(x, axis=1))
    level = jnp.where(jnp.isneginf(top), 0, top)
    shares = jnp.where(hit, 0, jnp.exp(x - level[:, None]))
    shrink = jnp.exp(sums.top - level)
    total = shrink * sums.total + jnp.sum(shares, axis=1)
    own = sums.own + jnp.sum(jnp.where(hit, x, 0), axis=1)
    moment, spread = sums.moment, sums.spread
    if tile.entropy:
        fall = jnp.where(jnp.isneginf(sums.top), 0, sums.top - level)
        away = jnp.where(shares == 0, 0, x - level[:, None])
        moment = shrink * (moment + fall * sums.total) + jnp.sum(shares * away, axis=1)
    if tile.spread:
        present = jnp.where(jnp.isneginf(x), 0, x)
        spread = spread + jnp.sum(_weights(part, x) * present, axis=1)
    return _Sums(top, total, moment, own, spread)


def _weights(part: _Part, x: Array) -> Array:
    weights = class_options.per_class(part.options.get("class_weights"), x)
    return jnp.ones((1, 1), x.dtype) if weights is None else weights


def _finish(tile: Tile, sums: _Sums, here: Array) -> Statistics:
    level = jnp.where(jnp.isneginf(sums.top), 0, sums.top)
    log = jnp.log(sums.total)
    empty = sums.total == 0
    entropy = jnp.where(empty, 0, log - sums.moment / jnp.where(empty, 1, sums.total))
    return Statistics(
        level + log,
        jnp.where(here, sums.own, -jnp.inf),
        sums.spread if tile.spread else None,
        entropy if tile.entropy else None,
        rounded_off(level, log),
    )


def rounded_off(x: Array, y: Array) -> Array:
    """What x + y is more than a float can hold; 0 where the sum is not finite."""
    total = x + y
    part = total - x
    rest = (x - (total - part)) + (y - part)
    return jnp.where(jnp.isfinite(total), rest, 0)


def _slopes(x: Array, part: _Part, labels: Array, found: Statistics, change: Statistics) -> Array:
    """The derivative by the scores; each is exp(x - others) times something, but for the label."""
    x, hit = _masks(x, part, labels)
    least = jnp.finfo(x.dtype).min
    away = x - jnp.maximum(found.others, least)[:, None]
    away = away if found.rest is None else away - found.rest[:, None]
    q = jnp.exp(jnp.minimum(away, 0))
    times = change.others[:, None]
    if found.entropy is not None and change.entropy is not None:
        bend = jnp.where(q == 0, 0, away + found.entropy[:, None])
        times = times - change.entropy[:, None] * bend
    slopes = jnp.where(hit, change.own[:, None], q * times)
    if change.spread is None:
        return slopes
    each = _weights(part, x) * change.spread[:, None]
    return slopes + jnp.where(jnp.isneginf(x), 0, each)


def _add_spread(options: Options, x: Array, part: _Part, change: Statistics) -> Options:
    """The options' gradients with that of the class weights, which only `spread` knows."""
    if change.spread is None or "class_weights" not in options:
        return options
    there = ~jnp.isneginf(x) if part.fresh is None else part.fresh & ~jnp.isneginf(x)
    of_weights = jnp.sum(jnp.where(there, x, 0) * change.spread[:, None], axis=0)
    weights = options["class_weights"]
    return {
        **options,
        "class_weights": weights + (of_weights if weights.ndim else of_weights.sum()),
    }


def statistics(
    kernel: Kernel, tile: Tile, hidden: Array, head: Array, labels: Array, options: Options
) -> Statistics:
    """The statistics of `hidden·head`, differentiable by hidden, head and options.

    Hidden is multiplied in the dtype of head, and may be wide, so that its gradient is.
    """
    dtype = hidden.dtype

    @jax.custom_vjp
    def rule(hidden: Array, *others: Any) -> Statistics:
        return kernel.forward(tile, hidden.astype(head.dtype), *others)

    def pass_on(hidden: Array, *others: Any) -> tuple[Statistics, Any]:
        operands = hidden.astype(head.dtype), *others
        found = kernel.forward(tile, *operands)
        return found, (operands, found)

    def pull_back(saved: Any, change: Statistics) -> tuple[Any, ...]:
        operands, found = saved
        of_hidden, of_head, of_options = kernel.backward(
            tile, *operands, found=found, change=change
        )
        return of_hidden.astype(dtype), of_head, None, of_options

    rule.defvjp(pass_on, pull_back)
    return rule(*together((hidden, head, labels, options)))
