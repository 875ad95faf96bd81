"""The kernels that a linear head can run on an accelerator: their names, and what each asks for.

None of them has been timed on the hardware that it is for, so none is ever chosen: one runs where
`implementation` names it. Pallas takes long to import, and is imported when a kernel runs.
"""

from __future__ import annotations

import math
from typing import Protocol

import jax
import jax.numpy as jnp

BACKENDS: dict[str, str] = {"pallas_tpu": "tpu", "mosaic_gpu": "gpu"}
DTYPES = {"pallas_tpu": ("bfloat16", "float32"), "mosaic_gpu": ("bfloat16", "float16")}
UNTIMED = "has not been timed on hardware"
PRECISION = "jax_default_matmul_precision"  # jax.config does not tell type checkers of it

#: How Pallas interprets kernels, such as `pltpu.InterpretParams()`; False where they just run.
interpreted = jax.make_user_context(False)

#: Bytes of vector memory that a TPU kernel may take; v5e, v5p, v6e and tpu7x have 64 MiB or more.
VMEM = 48 * 2**20
#: Tokens and classes of a tile on TPU: the first that fits is taken.
TILES = ((1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128))
#: On a GPU: warpgroups that multiply, and the tokens, classes and features that each has at a time.
GROUPS, ROWS, COLUMNS, DEPTH = 2, 64, 192, 64
#: Bytes that the gradient of a block of logits takes on a GPU where no budget is given.
BLOCK = 2**28
#: Of them for each token and feature of a class: floats, those of the second product, and halves.
CLASS = 12


class HasShape(Protocol):
    """An array, or a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> jnp.dtype: ...


def against(name: str, hidden: HasShape, head: HasShape) -> str | None:
    """Why a kernel cannot serve these operands, as a sentence; None where it can."""
    dtype, other = jnp.dtype(hidden.dtype).name, jnp.dtype(head.dtype).name
    if dtype != other or dtype not in DTYPES[name]:
        return f"{name} multiplies {' or '.join(DTYPES[name])}, got {dtype} and {other}."
    if 0 in (*hidden.shape, *head.shape):
        return f"{name} needs a token, a feature and a class, got {hidden.shape} and {head.shape}."
    features, classes = head.shape
    if name == "pallas_tpu":
        precision = getattr(jax.config, PRECISION)
        if precision not in (None, "default", "highest", "float32"):
            return f"{name} multiplies by default or at highest precision, got {precision!r}."
        if tile(hidden, head) is None:
            return (
                f"{name} has all features of a tile in {VMEM >> 20} MiB, and {features} are more."
            )
    elif features % DEPTH or classes % DEPTH:
        return (
            f"{name} needs features and classes in multiples of {DEPTH}, "
            f"got {features} and {classes}."
        )
    return None


def against_here(name: str, hidden: HasShape, head: HasShape, backend: str) -> str | None:
    """`against`, or that the device is another one and the kernel is not interpreted."""
    if backend != BACKENDS[name] and not interpreted.value:
        return f"{name} runs on {BACKENDS[name]}, and the backend is {backend}."
    return against(name, hidden, head)


def passed_over(hidden: HasShape, head: HasShape, backend: str) -> str:
    """Why no kernel is chosen."""
    for name, place in BACKENDS.items():
        if place == backend:
            return against(name, hidden, head) or f"{name} {UNTIMED}."
    return f"no kernel is for {backend}."


def tile(hidden: HasShape, head: HasShape) -> tuple[int, int] | None:
    """Tokens and classes of the largest tiles with which every TPU kernel fits."""
    (features, classes), item = head.shape, jnp.dtype(hidden.dtype).itemsize
    for rows, columns in TILES:
        rows, columns = min(rows, math.prod(hidden.shape[:-1])), min(columns, classes)
        operands = 2 * (rows + columns) * features * item  # and the next ones
        sums = 8 if item == 2 else 4  # and of halves, what the second half is to add
        results = max(rows, columns) * features * (2 * item + sums)
        if operands + results + 4 * rows * (6 * columns + 16 * 128) <= VMEM:
            return rows, columns
    return None


def width(hidden: HasShape, head: HasShape, budget: int | None) -> int:
    """Classes of a block on a GPU: an eighth of them at most."""
    tokens, (features, classes) = math.prod(hidden.shape[:-1]), head.shape
    a_class = CLASS * (tokens + features)
    most = BLOCK // a_class if budget is None else (budget - 4 * tokens * features) // a_class
    most = min(most, classes // 8)
    return min(classes, max(COLUMNS, most // COLUMNS * COLUMNS))


def size(name: str, hidden: HasShape, head: HasShape, budget: int | None) -> tuple[int, int, int]:
    """Tokens and classes that a kernel has at a time, and about how many bytes it takes."""
    tokens, (features, classes) = math.prod(hidden.shape[:-1]), head.shape
    if name == "pallas_tpu":
        rows, columns = tile(hidden, head) or TILES[-1]
        return rows, columns, 4 * 512 * tokens
    columns = width(hidden, head, budget)
    block = CLASS * columns * (tokens + features) + 4 * tokens * features
    return tokens, columns, block + 8 * tokens * -(-classes // COLUMNS)
