"""Chunks of rows: any loss of the scores of linear heads, a few rows at a time, gradient and all.

The loss of a chunk is the plain loss, so every option means what it means there. What it is given:

    loss(scores, labels, rows, shared) -> one value per row

`scores` has `[rows, classes]` for each of the heads; `labels` is a tree of integers and `rows` one
of floats, with one entry per row; `shared` is a tree of floats that all rows share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss.core import inputs
from jaxloss.fused import products
from jaxloss.fused.placement import together, zeros

Heads = tuple[tuple[Array, Array], ...]
Loss = Callable[[tuple[Array, ...], Any, Any, Any], Array]


def values(
    loss: Loss, size: int, heads: Heads, labels: Any, rows: Any, shared: Any, kept: Array
) -> Array:
    """One value per row, 0 where it is not kept; the gradient computes the scores again."""
    dtypes = jax.tree.map(jnp.result_type, (heads, rows, shared))

    @jax.custom_vjp
    def rule(*operands: Any) -> Array:
        return _values(loss, size, *operands)

    def forward(*operands: Any) -> tuple[Array, Any]:
        return _values(loss, size, *operands), operands

    def backward(operands: Any, change: Array) -> tuple[Any, ...]:
        _, slopes = _with_gradients(loss, size, *operands, change=change)
        of_heads, of_rows, of_shared = jax.tree.map(jnp.astype, slopes, dtypes)
        return of_heads, None, of_rows, of_shared, None

    rule.defvjp(forward, backward)
    return rule(*together((heads, labels, rows, shared, kept)))


def total(
    loss: Loss, size: int, heads: Heads, labels: Any, rows: Any, shared: Any, kept: Array, t: Array
) -> Array:
    """Σ t·loss over the rows that are kept; its gradient is computed with it, where one is asked.

    The gradient waits for its cotangent in float32, so that a narrow one is rounded only once.
    """
    dtypes = jax.tree.map(jnp.result_type, (heads, rows, shared))

    @jax.custom_vjp
    def rule(*operands: Any) -> Array:
        *others, t = operands
        return jnp.sum(t * _values(loss, size, *others))

    def forward(*operands: Any) -> tuple[Array, Any]:
        each, slopes = _with_gradients(loss, size, *operands)
        return jnp.sum(operands[-1] * each), (each, slopes)

    def backward(saved: Any, change: Array) -> tuple[Any, ...]:
        each, slopes = saved
        scaled = jax.tree.map(lambda s, dtype: (change * s).astype(dtype), slopes, dtypes)
        of_heads, of_rows, of_shared = scaled
        return of_heads, None, of_rows, of_shared, None, change * each

    rule.defvjp(forward, backward)
    return rule(*together((heads, labels, rows, shared, kept, t)))


def _values(
    loss: Loss, size: int, heads: Heads, labels: Any, rows: Any, shared: Any, kept: Array
) -> Array:
    matrices = [head for _, head in heads]

    def chunk(each: Any) -> Array:
        hidden, labels, rows, kept = each
        x = tuple(map(products.scores, hidden, matrices))
        return jnp.where(kept, loss(x, labels, rows, shared), 0)

    hidden = tuple(hidden for hidden, _ in heads)
    return joined(jax.lax.map(chunk, chunked((hidden, labels, rows, kept), size)), kept.shape[0])


def _with_gradients(
    loss: Loss,
    size: int,
    heads: Heads,
    labels: Any,
    rows: Any,
    shared: Any,
    kept: Array,
    change: Array,
) -> tuple[Array, Any]:
    """The values, and in float32 the gradients of Σ change·values by heads, rows and shared."""
    matrices = [head for _, head in heads]

    def chunk(sums: Any, each: Any) -> tuple[Any, Any]:
        hidden, labels, rows, kept, change = each
        x = tuple(map(products.scores, hidden, matrices))
        values, pull = jax.vjp(lambda x, *floats: loss(x, labels, *floats), x, rows, shared)
        of_x, of_rows, of_shared = pull(jnp.where(kept, change, 0))
        of_hidden = list(map(products.to_hidden, of_x, matrices))
        of_heads = list(map(products.add_to_head, sums[0], hidden, of_x))
        sums = of_heads, jax.tree.map(jnp.add, sums[1], of_shared)
        return sums, (jnp.where(kept, values, 0), of_hidden, of_rows)

    hidden = tuple(hidden for hidden, _ in heads)
    wide = [jax.ShapeDtypeStruct(m.shape, inputs.wide_dtype(m.dtype)) for m in matrices]
    split = chunked((hidden, labels, rows, kept, change), size)
    start = zeros((wide, shared), split)
    (of_heads, of_shared), each = jax.lax.scan(chunk, start, split)
    values, of_hidden, of_rows = joined(each, kept.shape[0])
    return values, (tuple(zip(of_hidden, of_heads, strict=True)), of_rows, of_shared)


def chunked(tree: Any, size: int) -> Any:
    """Arrays `[chunks, rows, ...]` of at most `size` rows, which are zeros at the end.

    Each of n chunks takes every n-th row: where devices share the rows, all work on every chunk.
    """

    def split(array: Array) -> Array:
        count = -(-array.shape[0] // size)
        rows = -(-array.shape[0] // count)
        missing = [(0, rows * count - array.shape[0]), *[(0, 0)] * (array.ndim - 1)]
        padded = jnp.pad(array, missing) if missing[0][1] else array
        return jnp.swapaxes(padded.reshape(rows, count, *array.shape[1:]), 0, 1)

    return jax.tree.map(split, tree)


def joined(tree: Any, rows: int) -> Any:
    """What `chunked` took apart."""

    def join(array: Array) -> Array:
        return jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])[:rows]

    return jax.tree.map(join, tree)
