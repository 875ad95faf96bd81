"""The peers' calls, unit by unit with gradients, and the rows of the contract that they share."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import harness as harness
import migration as migration
from cases import Case as Case
from migration import Line as Line

CASES = harness.CASES
Result = tuple[np.ndarray, Sequence[np.ndarray | None]]
Call = Callable[[tuple[np.ndarray, ...]], Result]
NO_SLOPE_OF_THE_TRUTH = {"soft_margin_loss"}  # of torch
PEERS = tuple(peer for peer in ("optax", "torch", "keras") if peer in migration.INSTALLED)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that peers give, and with the promotion that users have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            yield


def lines_of(case: Case, peers: tuple[str, ...]) -> dict[str, Line]:
    """For each peer its first line about the loss of the row, with the options of the row."""
    found: dict[str, Line] = {}
    for line in migration.lines(peers):
        peer = line.counterpart.peer
        if line.loss == case.loss.__name__ and set(case.options) <= {
            k.arg for k in line.call().keywords
        }:
            same = not re.search(r"-100|sum", line.counterpart.here)
            same &= peer != "keras" or all(
                v is not None for v in line.on(case).letters((np.zeros(1),)).values()
            )
            found |= {peer: line.on(case)} if same and peer not in found else {}
    return found


def callers(case: Case, lines: dict[str, Line]) -> dict[str, Call]:
    """Values and gradients per unit, ours and every peer's, compiled once per shape and dtype."""
    calls: dict[str, Call] = {
        "jaxloss": lambda arrays: harness.run(case, harness.per_unit(case), arrays, jit=jax.jit)
    }
    for who, line in lines.items():
        in_torch = functools.partial(_in_torch, case, line)
        calls[who] = in_torch if who == "torch" else _in_jax(case, line)
    return calls


def able_to(case: Case, calls: dict[str, Call], dtype: Any) -> dict[str, Call]:
    """Those that take the dtype: some kernels of peers are missing in half precision."""
    able = {}
    with jax.enable_x64(dtype == jnp.float64):
        few = harness.typed(case.inputs(np.random.default_rng(0), (3,)), dtype)
        for who, call in calls.items():
            with contextlib.suppress(*(() if who == "jaxloss" else (TypeError, RuntimeError))):
                call(few)
                able[who] = call
    return able


def _in_jax(case: Case, line: Line) -> Call:
    def of_one(*unit: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(migration.theirs(line, _batch_of_one(case, unit))))

    @jax.jit
    def of_all(*arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        axes = tuple(None if i in case.shared else 0 for i in range(len(arrays)))
        return jax.vmap(jax.value_and_grad(of_one, harness.floats_of(arrays)), axes)(*arrays)

    def call(arrays: tuple[np.ndarray, ...]) -> Result:
        if line.counterpart.peer == "keras":
            import keras

            keras.config.set_floatx(str(arrays[0].dtype))
        values, grads = of_all(*arrays)
        return np.asarray(values), [np.asarray(grad) for grad in grads]

    return call


def _batch_of_one(case: Case, unit: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a if i in case.shared else a[None] for i, a in enumerate(unit))


def _in_torch(case: Case, line: Line, arrays: tuple[np.ndarray, ...]) -> Result:
    import torch

    floats = harness.floats_of(arrays)
    constant = floats[1:] if line.loss in NO_SLOPE_OF_THE_TRUTH else []
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(arrays[0].dtype))
    values, grads = [], [[] for _ in floats]
    for i in range(len(arrays[0])):
        unit = [a if k in case.shared else a[i : i + 1] for k, a in enumerate(arrays)]
        wide = [u.astype(np.float32) if half and k in floats else u for k, u in enumerate(unit)]
        tensors = [migration.tensor(u) for u in wide]
        for k in floats:
            tensors[k] = tensors[k].to(half or tensors[k].dtype).requires_grad_(k not in constant)
        value = migration.theirs(line, tuple(tensors)).sum()
        value.backward()
        values.append(float(value.detach()))
        for kept, k in zip(grads, floats, strict=True):
            slope = tensors[k].grad
            zero = torch.zeros_like(tensors[k])
            kept.append((zero if slope is None else slope)[0].to(torch.float64).numpy())
    stacked = zip(floats, map(np.stack, grads), strict=True)
    return np.array(values), [None if k in constant else kept for k, kept in stacked]
