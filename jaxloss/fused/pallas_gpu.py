"""The statistics of a linear head on Hopper GPUs, by Mosaic kernels: logits stay in registers.

No kernel here has been timed on a GPU: they are interpreted and compiled ahead of time for H200,
and stay opt-in until they beat the schedules in pure JAX on hardware.

Backward, a kernel makes the gradient of the logits of a block of classes, and two products of XLA
make of it the gradients of hidden and head. It leaves the kernel in float32, so that `products` can
multiply twice where one product of halves would lose more than rounding the gradients does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss.fused import products, tiles
from jaxloss.fused.blocks import Options, Statistics
from jaxloss.fused.blocks import Tile as Size
from jaxloss.fused.hopper import TOKENS, Job, run
from jaxloss.fused.kernels import COLUMNS
from jaxloss.fused.tiles import Operands

NAME = "mosaic_gpu"


def _padded(values: Array, multiple: int, fill: float = 0) -> Array:
    missing = -values.shape[0] % multiple
    return jnp.pad(values, [(0, missing), (0, 0)][: values.ndim], constant_values=fill)


def forward(size: Size, hidden: Array, head: Array, labels: Array, options: Options) -> Statistics:
    """As `blocks.forward`; all classes at once."""
    operands = tiles.operands(NAME, size, hidden, head, labels, options)
    tokens, hidden = hidden.shape[0], _padded(hidden, TOKENS)
    sizes = *hidden.shape, head.shape[1]
    job = Job._make((*sizes, operands.capped, False))
    bias = _padded(operands.bias, COLUMNS, -jnp.inf)
    others, own = run(job, hidden, head, operands.scalars, bias, _padded(operands.labels, TOKENS))
    others = jax.nn.logsumexp(others, axis=0)[:tokens]
    return tiles.found(others, jnp.sum(own, axis=0)[:tokens], operands.labels)


class _Gradients(NamedTuple):
    """Of hidden, head and bias; and each token's part in those of the cap and the temperature."""

    hidden: Array
    head: Array
    bias: Array
    cap: Array
    temperature: Array


def _add(
    sums: _Gradients,
    start: Array,
    width: int,
    hidden: Array,
    head: Array,
    operands: Operands,
    of_tokens: Sequence[Array],
) -> _Gradients:
    """The gradients with those of a block of classes, and of what all blocks share."""
    tokens = hidden.shape[0]
    w = lax.dynamic_slice_in_dim(head, start, width, axis=1)
    bias = _padded(lax.dynamic_slice_in_dim(operands.bias, start, width), COLUMNS, -jnp.inf)
    labels = _padded(operands.labels - start, TOKENS, -1)
    rows = _padded(hidden, TOKENS)
    job = Job._make((*rows.shape, width, operands.capped, True))
    in_cap, in_temperature, in_bias, in_logits = run(
        job, rows, w, operands.scalars, bias, labels, *of_tokens
    )
    in_logits = in_logits[:tokens, :width]
    in_head = products.to_head(hidden, in_logits).astype(head.dtype)
    in_bias = jnp.sum(in_bias, axis=0)[:width]
    return _Gradients(
        sums.hidden + products.to_hidden(in_logits, w),
        lax.dynamic_update_slice_in_dim(sums.head, in_head, start, 1),
        lax.dynamic_update_slice_in_dim(sums.bias, in_bias, start, 0),
        sums.cap + jnp.sum(in_cap, axis=0)[:tokens],
        sums.temperature + jnp.sum(in_temperature, axis=0)[:tokens],
    )


def backward(
    size: Size,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    found: Statistics,
    change: Statistics,
) -> tuple[Array, Array, Options]:
    """As `blocks.backward`; a block of the gradient of the logits is there at a time."""
    operands = tiles.operands(NAME, size, hidden, head, labels, options)
    tokens, classes = hidden.shape[0], head.shape[1]
    width = min(classes, max(COLUMNS, size.classes // COLUMNS * COLUMNS))
    of_tokens = [_padded(found.others, TOKENS, jnp.inf)]
    of_tokens += [_padded(values, TOKENS) for values in (change.others, change.own)]
    of = functools.partial(_add, hidden=hidden, head=head, operands=operands, of_tokens=of_tokens)
    number = jnp.zeros(tokens, jnp.float32)
    wide = jnp.zeros(hidden.shape, jnp.float32)
    sums = _Gradients(wide, jnp.zeros_like(head), jnp.zeros_like(operands.bias), number, number)
    whole = jnp.int32(classes // width)
    sums = lax.fori_loop(0, whole, lambda k, sums: of(sums, k * width, width), sums)
    if classes % width:
        sums = of(sums, whole * width, classes % width)
    of_hidden, of_head, *rest = sums
    return of_hidden, of_head, tiles.of_options(options, *rest)
