"""The Hopper kernels of `pallas_gpu`: a matrix product whose tiles are consumed in registers.

The forward one leaves two numbers for each token and tile of classes; the backward one leaves the
gradient of the logits. One warpgroup loads and two multiply, each for its own tokens of a tile.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxloss.fused import kernels, tiles
from jaxloss.fused.kernels import COLUMNS, DEPTH, GROUPS, ROWS

TOKENS = GROUPS * ROWS
#: Steps that are fetched ahead, forward and backward: what the results leave of shared memory.
STAGES = 5, 2
#: Classes of a tile whose gradients are in registers together.
PART = 16
#: Streaming multiprocessors of H100 and H200; on others some have no tile, or some have two.
PROCESSORS = 132

Ref: TypeAlias = Any  # Pallas has no public type for what a kernel reads and writes


class Job(NamedTuple):
    """A product [tokens, features] × [features, classes], and which way it is used."""

    tokens: int
    features: int
    classes: int
    capped: bool
    backward: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles over the tokens and over the classes."""
        return pl.cdiv(self.tokens, TOKENS), pl.cdiv(self.classes, COLUMNS)


class Place(NamedTuple):
    """The part of a tile that a warpgroup has: which it is, and where it lies."""

    row: Array
    column: Array
    group: Array
    rows: Any
    columns: Any


class Memory(NamedTuple):
    """The arrays of a kernel, and what the warpgroups have of them close by."""

    hidden: Ref
    head: Ref
    options: Ref
    bias: Ref
    of_tokens: Sequence[Ref]
    results: Sequence[Ref]
    loads: Any
    staged: Sequence[Ref]
    written: Sequence[Ref]
    ready: Ref


def _place(job: Job, index: Array) -> Place:
    group = lax.axis_index("group")
    row, column = plgpu.planar_snake(index, job.grid, 1, 16)
    row = row * GROUPS + group
    rows, columns = pl.ds(row * ROWS, ROWS), pl.ds(column * COLUMNS, COLUMNS)
    return Place(row, column, group, rows, columns)


def _swizzled(dtype: Any, width: int) -> tuple[Any, ...]:
    swizzle = plgpu.find_swizzle(width * dtype.itemsize * 8)
    return plgpu.TilingTransform((8, swizzle // dtype.itemsize)), plgpu.SwizzleTransform(swizzle)


def _pipeline(job: Job, dtype: Any, multiply: Any, around: Any) -> Any:
    """Steps over the features: fetched by one warpgroup, multiplied by the others."""
    block = functools.partial(
        plgpu.BlockSpec,
        transforms=_swizzled(dtype, DEPTH),
        memory_space=plgpu.SMEM,
    )
    return plgpu.emit_pipeline_warp_specialized(
        multiply,
        grid=(job.features // DEPTH,),
        memory_registers=24,
        in_specs=[
            block((TOKENS, DEPTH), lambda k: (0, k)),
            block((DEPTH, COLUMNS), lambda k: (k, 0)),
        ],
        wg_axis="group",
        num_compute_wgs=GROUPS,
        max_concurrent_steps=min(STAGES[job.backward], job.features // DEPTH),
        compute_context=around,
    )


def _multiply(at: Place, _: Any, h: Ref, w: Ref, sums: Ref) -> Ref:
    plgpu.wgmma(sums, h.at[pl.ds(at.group * ROWS, ROWS)], w)
    plgpu.wgmma_wait(0)
    return sums


def _part(job: Job, memory: Memory, at: Place, run: Any, sums: Ref) -> None:
    """The product of a warpgroup, and what is made of it."""
    sources = [memory.bias.at[at.columns], *(ref.at[at.rows] for ref in memory.of_tokens)]
    for source, target in zip(sources, memory.staged, strict=True):
        plgpu.copy_gmem_to_smem(source, target.at[at.group], memory.ready.at[at.group])
    run(sums)
    plgpu.barrier_wait(memory.ready.at[at.group])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    near = ([ref.at[at.group] for ref in refs] for refs in (memory.staged, memory.written))
    consume = _gradients if job.backward else _statistics
    consume(job, at, memory.options, sums[...], *near)
    plgpu.commit_smem()
    places = [(at.column, at.rows)] * 2
    if job.backward:
        places += [(at.row, at.columns), (at.rows, at.columns)]
    for ref, result, place in zip(memory.written, memory.results, places, strict=True):
        plgpu.copy_smem_to_gmem(ref.at[at.group], result.at[place])


def _walk(job: Job, memory: Memory) -> None:
    """All tiles, spread over the processors."""

    @plgpu.nd_loop((job.grid[0] * job.grid[1],), collective_axes="processor")
    def _(loop: plgpu.NDLoopInfo) -> None:
        at = _place(job, loop.index[0])

        def around(run: Any) -> None:
            part = functools.partial(_part, job, memory, at, run)
            pl.run_scoped(part, plgpu.WGMMAAccumulatorRef((ROWS, COLUMNS), jnp.float32))

        rows = pl.ds((at.row - at.group) * ROWS, TOKENS)
        tile = memory.hidden.at[rows, :], memory.head.at[:, at.columns]
        multiply = functools.partial(_multiply, at)
        _pipeline(job, memory.hidden.dtype, multiply, around)(*tile, allocations=memory.loads)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _logits(job: Job, at: Place, options: Ref, sums: Array, bias: Array, labels: Array, skip: int):
    """Logits of a part of a tile that skips classes, and which of them belong to a label."""
    product = sums + lax.broadcast_in_dim(bias, sums.shape, [1])
    tile = tiles.tile(product, job.capped, *(options[k] for k in range(3)))
    classes = at.column * COLUMNS + skip + lax.broadcasted_iota(jnp.int32, sums.shape, 1)
    return tile, classes == _down(labels, sums)


def _down(values: Array, like: Array) -> Array:
    return lax.broadcast_in_dim(values, like.shape, [0])


def _statistics(job: Job, at: Place, options: Ref, sums: Array, staged, written) -> None:
    """log Σ exp x over the tile's classes that are not the label, and x of the label."""
    (bias, labels), (others, own) = staged, written
    top, total, of_label = (jnp.full(ROWS, value) for value in (-jnp.inf, 0.0, 0.0))
    for skip in range(0, COLUMNS, PART):
        part, columns = sums[:, skip : skip + PART], pl.ds(skip, PART)
        tile, label = _logits(job, at, options, part, bias[columns], labels[...], skip)
        rest, before = jnp.where(label, -jnp.inf, tile.x), top
        top = jnp.maximum(before, jnp.max(rest, axis=1))
        origin = tiles.finite(top)
        shares = jnp.exp(rest - _down(origin, rest))
        total = total * jnp.exp(before - origin) + jnp.sum(shares, axis=1)
        of_label = of_label + jnp.sum(jnp.where(label, tile.x, 0.0), axis=1)
    others[...], own[...] = top + jnp.log(total), of_label


def _gradients(job: Job, at: Place, options: Ref, sums: Array, staged, written) -> None:
    """The gradient of the product, and what cap, temperature and bias have of theirs here."""
    (bias, labels, *of_tokens), (in_cap, in_temperature, in_bias, in_product) = staged, written
    for skip in range(0, COLUMNS, PART):
        part, columns = sums[:, skip : skip + PART], pl.ds(skip, PART)
        tile, label = _logits(job, at, options, part, bias[columns], labels[...], skip)
        in_x = tiles.in_x(tile.x, label, *(_down(ref[...], part) for ref in of_tokens))
        of_options = (in_cap, tile.in_cap), (in_temperature, tile.in_temperature)
        for ref, slope in of_options:
            so_far = ref[...] if skip else 0.0
            ref[...] = so_far + jnp.sum(in_x * slope, axis=1)
        of_part = in_x * tile.slope
        in_bias[columns] = of_part.sum(0)
        in_product[:, columns] = of_part


def _results(job: Job) -> tuple[list[Any], list[Any]]:
    """What a kernel writes, and where a warpgroup keeps its part of it until it is written."""
    rows, columns = job.grid[0] * TOKENS, job.grid[1] * COLUMNS
    whole = [jax.ShapeDtypeStruct((job.grid[1], rows), jnp.float32)] * 2
    parts = [plgpu.SMEM((GROUPS, ROWS), jnp.float32)] * 2
    if job.backward:
        whole += [
            jax.ShapeDtypeStruct((rows // ROWS, columns), jnp.float32),
            jax.ShapeDtypeStruct((rows, columns), jnp.float32),
        ]
        parts += [
            plgpu.SMEM((GROUPS, COLUMNS), jnp.float32),
            plgpu.SMEM(
                (GROUPS, ROWS, COLUMNS),
                jnp.float32,
                transforms=_swizzled(jnp.dtype(jnp.float32), PART),
            ),
        ]
    return whole, parts


def _kernel(job: Job, *refs: Ref) -> None:
    inputs = 5 + 3 * job.backward
    hidden, head, options, bias, *of_tokens = refs[:inputs]
    number = functools.partial(plgpu.SMEM, (GROUPS, ROWS))
    staged = [plgpu.SMEM((GROUPS, COLUMNS), jnp.float32)]
    staged += [number(ref.dtype) for ref in of_tokens]
    loads = _pipeline(job, hidden.dtype, _nothing, _nothing).get_allocations(hidden, head)

    def scope(loads: Any, staged: list[Ref], written: list[Ref], ready: Ref) -> None:
        near = loads, staged, written, ready
        _walk(job, Memory(hidden, head, options, bias, of_tokens, refs[inputs:], *near))

    ready = plgpu.Barrier(num_arrivals=len(staged), num_barriers=GROUPS)
    written = _results(job)[1]
    pl.run_scoped(scope, loads, staged, written, ready, collective_axes="group")


def _nothing(*_: Any, **__: Any) -> None: ...


def run(job: Job, *operands: Array) -> list[Array]:
    return plgpu.kernel(
        functools.partial(_kernel, job),
        out_type=_results(job)[0],
        grid=(min(PROCESSORS, job.grid[0] * job.grid[1]),),
        grid_names=("processor",),
        num_threads=GROUPS + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=kernels.interpreted.value or None,
    )(*operands)
