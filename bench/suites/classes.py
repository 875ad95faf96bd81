"""Losses over classes at the shapes of ImageNet and of language models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench import shapes
from bench.registry import CROSS_ENTROPY, case_of, contenders
from bench.rows import Row, Work
from bench.suites.pointwise import PASSES
from bench.workload import Contender, Options, Workload, rows_of

# every loss, and what its second argument is
LOSSES = {
    CROSS_ENTROPY: "labels",
    "softmax_cross_entropy": "distributions",
    "poly_loss_cross_entropy": "distributions",
    "kl_divergence": "distributions",
    "softmax_focal_loss": "distributions",
    "multiclass_hinge_loss": "labels",
    "generalized_cross_entropy": "labels",
    "distillation_loss": "teachers",
}
# what the first argument is of those that do not take logits
OF_LOGITS = {"kl_divergence": jax.nn.log_softmax, "generalized_cross_entropy": jax.nn.softmax}
AT_THE_LABEL = {"generalized_cross_entropy"}  # which read no other entry of a row
BOUNDS = {
    ("float32", "value_and_grad"): {"optax": 1.2, "torch": 0.5},
    ("bfloat16", "value_and_grad"): {"optax": 0.8},
    ("float32", "forward"): {"optax": 1.5},
}


def rows(options: Options) -> Iterator[Row]:
    return rows_of(workloads(options), options)


def workloads(options: Options) -> Iterator[Workload]:
    """All losses at the smallest shape, and cross entropy at all of them."""
    every = (shapes.DIGITS, shapes.IMAGENET) if options.quick else shapes.CLASSES
    for shape in every:
        for loss, kind in LOSSES.items():
            if loss == CROSS_ENTROPY or shape is every[0]:
                for dtype in ("float32",) if options.quick else ("float32", "bfloat16"):
                    for name, by in PASSES.items():
                        yield _workload(loss, kind, shape, dtype, name, by)


def logits_and(
    kind: str,
    of_logits: Callable[[np.ndarray], Any] | None,
    shape: shapes.Classes,
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    size = (shape.rows, shape.classes)
    logits = 3 * rng.standard_normal(size, np.float32)
    logits = np.asarray(of_logits(logits)) if of_logits else logits
    if kind == "labels":
        return logits, rng.integers(0, shape.classes, shape.rows)
    other = 3 * rng.standard_normal(size, np.float32)
    return logits, other if kind == "teachers" else np.asarray(jax.nn.softmax(other))


def _workload(
    loss: str, kind: str, shape: shapes.Classes, dtype: str, name: str, by: tuple[int, ...]
) -> Workload:
    width = 4 if dtype == "float32" else 2
    bytes_of_logits = shape.rows * shape.classes * width
    second = 4 * shape.rows if kind == "labels" else bytes_of_logits
    first = shape.rows * width if loss in AT_THE_LABEL else bytes_of_logits
    every = contenders(case_of(loss))
    if dtype == "bfloat16":
        every.pop("torch compiled", None)
    if loss == CROSS_ENTROPY and dtype == "bfloat16":
        every["optax in float32"] = Contender("optax", _wide(every["optax"].f))
    bounds = BOUNDS.get((dtype, name), {}) if loss == CROSS_ENTROPY else {}
    return Workload(
        suite="classes",
        name=f"{loss}, {shape.name} [{shape.rows}, {shape.classes}] {dtype}, {name}",
        arrays=functools.partial(logits_and, kind, OF_LOGITS.get(loss), shape),
        dtype=dtype,
        contenders=every,
        gradients=by,
        work=Work(read=first + second, written=bytes_of_logits if by else 0),
        bounds={f"{peer} time": bound for peer, bound in bounds.items()},
    )


def _wide(f: Callable[..., Any]) -> Callable[..., Any]:
    """Half precision is widened first, as ours is."""
    return lambda logits, labels: f(logits.astype(jnp.float32), labels)
