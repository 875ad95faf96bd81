"""Contrastive losses by blocks: the unit is an anchor, and no array holds all pairs at once.

Their public names are in `jaxloss.losses.contrastive`, with `schedule` and `memory_budget`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import numerics, over_classes, vectors
from jaxloss.core.statistics import total
from jaxloss.fused.pairs import Ways, log_sums_of_others
from jaxloss.fused.placement import over_rows
from jaxloss.fused.row_blocks import Pairs, by_rows, operands, product, varying
from jaxloss.fused.sigmoids import sums_of_softplus, total_of_softplus


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of `reduce_rows`: all pairs at once, or by blocks, as its arguments need it.

    `blocks` takes the number of rows of a block and whether operands are halves first; so does
    `totals`, which is Σ weights·values together with its derivatives.
    """

    pairs: Pairs
    plain: Callable[..., tuple[Array, Array]]
    blocks: Callable[..., tuple[Array, Array]]
    totals: Callable[..., Array] | None = None

    def __call__(self, *arguments: Array) -> tuple[Array, Array]:
        block = self.pairs.block(arguments[0], arguments[0])
        if block is None:
            return self.plain(*arguments)
        return self.blocks(block, self.pairs.half, *varying(arguments, *arguments))

    def total(self, *arguments: Array) -> Array | None:
        """Σ weights·values; None where it is not quicker than by the values."""
        block, totals = self.pairs.block(arguments[0], arguments[0]), self.totals
        if block is None or totals is None:
            return None
        return totals(block, self.pairs.half, *varying(arguments, *arguments))


def info_nce(
    block: int, half: bool, anchors: Array, positives: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    columns = positives if half else from_mean(positives, where)

    def values(index: Array, anchors: Array) -> Array:
        s = product(*operands(half, anchors, columns), over=(1, 1)) / temperature
        return over_classes.cross_entropy_at(jnp.where(where[None], s, -jnp.inf), index)

    return by_rows(values, (anchors,), block), where


def by_units(
    pairs: Pairs,
    entries: int,
    loss: Callable[..., Array],
    rows: tuple[Array, ...],
    shared: tuple[Array, ...],
) -> Array:
    """`loss(*rows, *shared)`, whose units see no other: as many at a time as `pairs` says.

    `rows[0]` is `[*units, features]`, and `entries` is how many numbers a unit takes.
    """
    units, dtype = rows[0].shape[:-1], rows[0].dtype
    number = math.prod(units)
    whole = jax.ShapeDtypeStruct((number, rows[-1].size // max(1, number)), dtype)
    block = pairs.block(whole, jax.ShapeDtypeStruct((entries,), dtype))
    if block is None:
        return loss(*rows, *shared)
    flat = tuple(a.reshape(-1, *a.shape[len(units) :]) for a in rows)

    def blocks(rows: tuple[Array, ...], shared: tuple[Array, ...]) -> Array:
        own = min(block, rows[0].shape[0])
        return by_rows(lambda _, *rows: loss(*rows, *shared), rows, own)

    return over_rows(blocks, flat, shared).reshape(units)


def supcon(
    block: int, half: bool, embeddings: Array, labels: Array, temperature: Array, where: Array
) -> tuple[Array, Array]:
    unit = vectors.normalized(embeddings)

    def values(index: Array, rows: Array, own: Array, here: Array) -> tuple[Array, Array]:
        s = product(rows, unit, (1, 1)) / temperature
        others = here[:, None] & where[None] & ~over_classes.hit(s, index)
        positive = others & (own[:, None] == labels[None])
        counts = jnp.any(positive, axis=-1)
        present = others | ~counts[:, None]  # all of a row that does not count
        number = jnp.maximum(jnp.sum(positive, axis=-1, keepdims=True, dtype=s.dtype), 1)
        share = positive.astype(s.dtype) / number
        return over_classes.cross_entropy(jnp.where(present, s, -jnp.inf), share), counts

    return by_rows(values, (unit, labels, where), block)


def clip(
    block: int, half: bool, images: Array, texts: Array, scale: Array, where: Array
) -> tuple[Array, Array]:
    own, columns, lift = clip_sides(half, images, texts, scale, where)
    logs = log_sums_of_others(block, half, images, columns, scale, lift, where)
    return clip_values(own, lift, cast(Ways, logs)), where


def clip_sides(
    half: bool,
    images: Array,
    texts: Array,
    scale: Array,
    where: Array,
    axes: tuple[str, ...] = (),
) -> tuple[Array, Array, Array]:
    """The own logit of each row, what the images are multiplied by, and the lift of each row.

    `axes` are those of `jax.shard_map` over which the rows are spread.
    """
    shift = jnp.zeros_like(texts[0]) if half else _shift(texts, where, axes)
    columns = texts - shift[None]
    lift = scale * jnp.sum((images - mean(images, where, axes)[None]) * shift[None], axis=1)
    return scale * jnp.sum(images * columns, axis=1), columns, lift


def _shift(rows: Array, where: Array, axes: tuple[str, ...]) -> Array:
    """The mean, or 0 where it outweighs a row, whose digits would drown in those of others."""
    common = mean(rows, where, axes)
    sizes = jnp.max(jnp.abs(jax.lax.stop_gradient(rows)), axis=1, initial=0)
    least = jnp.min(sizes, where=where, initial=jnp.inf)
    least = jax.lax.pmin(least, axes) if axes else least
    return jnp.where(jnp.max(jnp.abs(common), initial=0) <= 2 * least, common, 0)


def clip_values(own: Array, lift: Array, logs: Ways) -> Array:
    to_texts = numerics.softplus(logs[0] - own)
    return (to_texts + numerics.softplus((logs[1] - lift) - own)) / 2


def siglip(
    block: int, half: bool, images: Array, texts: Array, scale: Array, bias: Array, where: Array
) -> tuple[Array, Array]:
    values = sums_of_softplus(block, half, images, texts, scale, bias, where)
    return cast(Array, values), where


def siglip_total(block: int, half: bool, *arguments: Array) -> Array:
    return cast(Array, total_of_softplus(block, half, *arguments))


def from_mean(rows: Array, where: Array) -> Array:
    """The rows, less what all have in common."""
    return rows - mean(rows, where)[None]


def mean(rows: Array, where: Array, axes: tuple[str, ...] = ()) -> Array:
    """What all rows have in common; a constant, as no shift by it changes a loss."""
    rows = jax.lax.stop_gradient(rows)
    sums = total(rows, where, None), jnp.sum(where, dtype=rows.dtype)
    return numerics.ratio(*(jax.lax.psum(sums, axes) if axes else sums))
