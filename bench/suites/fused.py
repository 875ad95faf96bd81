"""Large losses whose biggest array is never built, beside those that build it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import optax

import jaxloss
from bench import aot, shapes
from bench.baselines import by_chunks, clip_at_once, siglip_at_once
from bench.registry import case_of, contenders
from bench.rows import Row, Work
from bench.workload import Arrays, Contender, Options, Workload, rows_of

# how ours goes through the scores, which is told in the row's name
DEFAULT, LEAST, TILES = "", " in 40 MiB", " tiles"
KEYWORDS = {DEFAULT: {}, LEAST: {"memory_budget": 40 * 2**20}, TILES: {"schedule": "tiles"}}


def rows(options: Options) -> Iterator[Row]:
    yield from rows_of(workloads(options), options)
    if not options.quick:
        yield from aot.rows()


def workloads(options: Options) -> Iterator[Workload]:
    small = shapes.TINY_LM if options.quick else shapes.SMALL_LM
    yield linear(small, "float32", DEFAULT, {"optax time": 1.0, "optax memory": 0.25})
    yield linear(small, "float32", LEAST, {"optax time": 1.15, "optax memory": 0.07})
    yield linear(small, "float32", TILES, {"optax memory": 0.07})
    yield linear(small, "bfloat16", DEFAULT, {"optax time": 0.75, "optax memory": 0.25})
    if not options.quick:
        yield linear(shapes.WIDE_LM, "float32", TILES, {"optax memory": 0.08}, peaks=True)
    for pairs in (shapes.TINY_CLIP,) if options.quick else (shapes.SMALL_CLIP, shapes.CLIP):
        large = pairs is shapes.CLIP
        bounds = {"time": 1.03, "memory": 0.10} if large else {}
        yield pair("clip_loss", clip_at_once, pairs, 1, bounds)
        bounds = {"time": 0.90, "memory": 0.20} if large else {}
        yield pair("siglip_loss", siglip_at_once, pairs, 2, bounds)


def head_of(shape: shapes.Head, rng: np.random.Generator) -> Arrays:
    hidden = rng.standard_normal((shape.tokens, shape.features), np.float32)
    head = rng.standard_normal((shape.features, shape.classes), np.float32)
    labels = rng.integers(0, shape.classes, shape.tokens)
    return hidden, head * np.float32(shape.features**-0.5), labels


def linear(
    shape: shapes.Head,
    dtype: str,
    how: str,
    bounds: Mapping[str, float],
    peaks: bool = False,
) -> Workload:
    """Loss and gradients by hidden states and head."""
    ours = functools.partial(jaxloss.linear_softmax_cross_entropy, **KEYWORDS[how])
    peers = contenders(case_of("linear_softmax_cross_entropy"))
    # only the optax that builds everything is wanted beside the least memory
    every = {"jaxloss": Contender("jaxloss", ours), "optax": Contender("optax", _optax)}
    if how == DEFAULT:
        every |= {peer: peers[peer] for peer in ("torch", "tokamax")}
    if how == DEFAULT or peaks:
        every["baseline: chunks of 1024 x 2048"] = Contender("baseline", by_chunks)
    size, width = (shape.tokens, shape.features, shape.classes), 4 if dtype == "float32" else 2
    moved = (shape.tokens + shape.classes) * shape.features * width
    flops = 6 * shape.tokens * shape.features * shape.classes
    return Workload(
        suite="fused",
        name=f"linear head{how}, {shape.name} {list(size)} {dtype}, value_and_grad",
        arrays=functools.partial(head_of, shape),
        dtype=dtype,
        contenders=every,
        gradients=(0, 1),
        work=Work(moved, moved, flops, dtype),
        bounds=bounds,
        peaks=peaks,
    )


def _optax(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> jax.Array:
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    return loss(hidden @ head, labels).mean()


def towers(shape: shapes.Pairs, scalars: int, rng: np.random.Generator) -> Arrays:
    rows = [rng.standard_normal((shape.batch, shape.features), np.float32) for _ in range(2)]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in rows]
    return *unit, *(np.asarray([10.0, -10.0][i]) for i in range(scalars))


def pair(
    name: str,
    at_once: Callable[..., jax.Array],
    shape: shapes.Pairs,
    scalars: int,
    bounds: Mapping[str, float],
) -> Workload:
    """Loss and gradients by both towers, the scale, and SigLIP's bias."""
    loss = getattr(jaxloss, name)
    options = ("logit_scale", "logit_bias")[:scalars]

    def ours(x: jax.Array, y: jax.Array, *learned: jax.Array) -> jax.Array:
        return loss(x, y, **dict(zip(options, learned, strict=True)))

    moved = 8 * shape.batch * shape.features
    naive = "baseline: everything at once"
    return Workload(
        suite="fused",
        name=f"{name}, {shape.name} {[shape.batch, shape.features]} float32, value_and_grad",
        arrays=functools.partial(towers, shape, scalars),
        contenders={"jaxloss": Contender("jaxloss", ours), naive: Contender("baseline", at_once)},
        gradients=tuple(range(2 + scalars)),
        work=Work(moved, moved, 6 * shape.batch**2 * shape.features),
        bounds={f"{naive} {what}": bound for what, bound in bounds.items()},
    )
