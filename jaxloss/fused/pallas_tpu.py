"""The statistics of a linear head on TPU, in Pallas kernels: no tile of logits leaves the core.

No kernel here has been timed on a TPU: they are interpreted and compiled ahead of time, and stay
opt-in until they beat the schedules in pure JAX on hardware. Value and gradients multiply five
times, where class blocks multiply four times, and store nothing but their results.

Every kernel walks the tiles of [tokens, classes] and builds one tile of the logits at a time. The
last tile of an axis may be ragged: what it reads beyond the arrays is blanked before it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxloss.fused import kernels, products, tiles
from jaxloss.fused.blocks import Options, Statistics
from jaxloss.fused.blocks import Tile as Size
from jaxloss.fused.tiles import Operands, Tile

NAME = "pallas_tpu"
ZERO = np.int32(0)  # which Python's is not where JAX has 64 bits

Ref: TypeAlias = Any  # Pallas has no public type for what a kernel reads and writes


class Cut(NamedTuple):
    """How [tokens, features] × [features, classes] is cut into tiles of [rows, columns]."""

    tokens: int
    features: int
    classes: int
    rows: int
    columns: int
    capped: bool


def _cut(size: Size, hidden: Array, head: Array, capped: bool) -> Cut:
    (tokens, features), classes = hidden.shape, head.shape[1]
    for part, whole, lanes in ((size.rows, tokens, 16), (size.classes, classes, 128)):
        if part % lanes and part < whole:
            raise ValueError(f"{NAME} needs tiles in multiples of 16 x 128, got {size}.")
    return Cut(tokens, features, classes, size.rows, size.classes, capped)


def _ragged(tile: Array, axis: int, number: Array, end: int, blank: float) -> Array:
    """The tile of this number, blank where it lies beyond the end of what it was cut from."""
    size = tile.shape[axis]
    if end % size == 0:
        return tile
    index = number * size + jax.lax.broadcasted_iota(jnp.int32, tile.shape, axis)
    return jnp.where(index < end, tile, blank)


def _tile(cut: Cut, j: Array, options: Ref, h: Array, w: Array, b: Ref) -> tuple[Tile, Array]:
    """Tile number j of the logits, and the classes of its columns."""
    product = jnp.dot(h, w, preferred_element_type=jnp.float32) + b[...]
    product = _ragged(product, 1, j, cut.classes, -jnp.inf)
    classes = j * cut.columns + jax.lax.broadcasted_iota(jnp.int32, product.shape, 1)
    return tiles.tile(product, cut.capped, *(options[0, k] for k in range(3))), classes


def _of_tokens(values: Array) -> Array:
    return jnp.sum(values, axis=1, keepdims=True)


def _statistics(cut: Cut, options, h, w, b, labels, others, own, top, total) -> None:
    """log Σ exp x over the classes that are not the label, tile by tile, and x of the label."""
    j = pl.program_id(1)

    @pl.when(j == 0)
    def _() -> None:
        top[...] = jnp.full(top.shape, -jnp.inf, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        own[...] = jnp.zeros(own.shape, jnp.float32)

    tile, classes = _tile(cut, j, options, h[...], w[...], b)
    label = classes == labels[...]
    own[...] += _of_tokens(jnp.where(label, tile.x, 0.0))
    rest, before = jnp.where(label, -jnp.inf, tile.x), top[...]
    now = jnp.maximum(before, jnp.max(rest, axis=1, keepdims=True))
    origin = tiles.finite(now)
    total[...] = total[...] * jnp.exp(before - origin) + _of_tokens(jnp.exp(rest - origin))
    top[...] = now

    @pl.when(j == pl.num_programs(1) - 1)
    def _() -> None:
        others[...] = top[...] + jnp.log(total[...])


def _in_hidden(cut: Cut, options, h, w, b, labels, *refs) -> None:
    """The gradient of the hidden states, and each token's part in that of cap and temperature."""
    *of_tokens, in_hidden, in_cap, in_temperature, total = refs
    j = pl.program_id(1)

    @pl.when(j == 0)
    def _() -> None:
        for ref in (total, in_cap, in_temperature):
            ref[...] = jnp.zeros(ref.shape, jnp.float32)

    tile, classes = _tile(cut, j, options, h[...], w[...], b)
    in_x = tiles.in_x(tile.x, classes == labels[...], *(ref[...] for ref in of_tokens))
    in_cap[...] += _of_tokens(in_x * tile.in_cap)
    in_temperature[...] += _of_tokens(in_x * tile.in_temperature)
    columns = _ragged(w[...], 1, j, cut.classes, 0.0)
    in_product = _ragged(in_x * tile.slope, 0, pl.program_id(0), cut.tokens, 0.0)
    _add(total, in_product, w.dtype, lambda slopes: _product(slopes, columns, 1, 1))

    @pl.when(j == pl.num_programs(1) - 1)
    def _() -> None:
        in_hidden[...] = total[...].astype(in_hidden.dtype)


def _in_head(cut: Cut, options, h, w, b, labels, *refs) -> None:
    """The gradients of the head and of the bias."""
    *of_tokens, in_head, in_bias, total = refs
    j, i = pl.program_id(0), pl.program_id(1)

    @pl.when(i == 0)
    def _() -> None:
        for ref in (total, in_bias):
            ref[...] = jnp.zeros(ref.shape, jnp.float32)

    rows = _ragged(h[...], 0, i, cut.tokens, 0.0)
    tile, classes = _tile(cut, j, options, rows, w[...], b)
    in_x = tiles.in_x(tile.x, classes == labels[...], *(ref[...] for ref in of_tokens))
    in_product = _ragged(in_x * tile.slope, 0, i, cut.tokens, 0.0)
    in_bias[...] += jnp.sum(in_product, axis=0, keepdims=True)
    _add(total, in_product, h.dtype, lambda slopes: _product(rows, slopes, 0, 0))

    @pl.when(i == pl.num_programs(1) - 1)
    def _() -> None:
        in_head[...] = total[...].astype(in_head.dtype)


def _add(total: Ref, slopes: Array, dtype: Any, product: Callable[[Array], Array]) -> None:
    """Adds the product of slopes, of two halves where one would lose what shows: see `products`."""
    if dtype != products.HALF:
        total[...] += product(slopes)
        return
    rounded = slopes.astype(dtype)
    rest = slopes - rounded.astype(slopes.dtype)
    total[...] += product(rounded)

    enough = jnp.sum(rest**2) <= products.LOSS**2 * jnp.sum(slopes**2)

    @pl.when(~enough)
    def _() -> None:
        total[...] += product(rest.astype(dtype))


def _product(a: Array, b: Array, of_a: int, of_b: int) -> Array:
    summed = (((of_a,), (of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, summed, preferred_element_type=jnp.float32)


class Part(NamedTuple):
    """An array of a kernel: `size` numbers for each token, or for each class."""

    of: str
    size: int
    dtype: Any = jnp.float32

    def whole(self, cut: Cut) -> jax.ShapeDtypeStruct:
        """All of it."""
        shape = (cut.tokens, self.size) if self.of == "tokens" else (self.size, cut.classes)
        return jax.ShapeDtypeStruct(shape, self.dtype)

    def block(self, cut: Cut, classes_first: bool) -> pl.BlockSpec:
        """What a tile has of it."""
        if self.of == "tokens":
            return pl.BlockSpec((cut.rows, self.size), lambda *at: (at[classes_first], ZERO))
        return pl.BlockSpec((self.size, cut.columns), lambda *at: (ZERO, at[not classes_first]))


def _run(
    kernel: Callable[..., None],
    cut: Cut,
    operands: tuple[Array, ...],
    results: list[Part],
    scratch: list[tuple[int, int]],
    *,
    classes_first: bool = False,
) -> list[Array]:
    """The kernel over all tiles; the operands are options, hidden, head, bias, then one a token.

    Under `jax.vmap` it runs once for each: Pallas cannot batch what it reads as scalars.
    """
    grid = pl.cdiv(cut.tokens, cut.rows), pl.cdiv(cut.classes, cut.columns)
    features, bias = (Part("classes", size) for size in (cut.features, 1))
    inputs = [Part("tokens", cut.features), features, bias]
    inputs += [Part("tokens", 1)] * (len(operands) - 4)
    blocks = [each.block(cut, classes_first) for each in inputs]
    scalars = pl.BlockSpec((1, 3), lambda *_: (ZERO, ZERO), memory_space=pltpu.SMEM)
    call = pl.pallas_call(
        functools.partial(kernel, cut),
        grid=grid[::-1] if classes_first else grid,
        in_specs=[scalars, *blocks],
        out_specs=[each.block(cut, classes_first) for each in results],
        out_shape=[each.whole(cut) for each in results],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=kernels.VMEM
        ),
        interpret=kernels.interpreted.value,
    )
    return jax.custom_batching.sequential_vmap(call)(*operands)


def _columns(operands: Operands, *of_tokens: Array) -> list[Array]:
    numbers = [operands.labels, *of_tokens]
    return [operands.scalars[None], operands.bias[None], *(values[:, None] for values in numbers)]


def forward(size: Size, hidden: Array, head: Array, labels: Array, options: Options) -> Statistics:
    """As `blocks.forward`."""
    operands = tiles.operands(NAME, size, hidden, head, labels, options)
    cut = _cut(size, hidden, head, operands.capped)
    scalars, bias, *columns = _columns(operands)
    number = Part("tokens", 1)
    others, own = _run(
        _statistics,
        cut,
        (scalars, hidden, head, bias, *columns),
        results=[number] * 2,
        scratch=[(cut.rows, 1)] * 2,
    )
    return tiles.found(others[:, 0], own[:, 0], operands.labels)


def backward(
    size: Size,
    hidden: Array,
    head: Array,
    labels: Array,
    options: Options,
    found: Statistics,
    change: Statistics,
) -> tuple[Array, Array, Options]:
    """As `blocks.backward`."""
    operands = tiles.operands(NAME, size, hidden, head, labels, options)
    cut = _cut(size, hidden, head, operands.capped)
    scalars, bias, *columns = _columns(operands, found.others, change.others, change.own)
    arrays = (scalars, hidden, head, bias, *columns)
    number = Part("tokens", 1)
    in_hidden, in_cap, in_temperature = _run(
        _in_hidden,
        cut,
        arrays,
        results=[Part("tokens", cut.features, hidden.dtype), number, number],
        scratch=[(cut.rows, cut.features)],
    )
    in_head, in_bias = _run(
        _in_head,
        cut,
        arrays,
        results=[Part("classes", cut.features, head.dtype), Part("classes", 1)],
        scratch=[(cut.features, cut.columns)],
        classes_first=True,
    )
    return in_hidden, in_head, tiles.of_options(options, in_bias[0], in_cap, in_temperature)
