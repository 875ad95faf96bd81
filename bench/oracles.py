"""The peers' calls, unit by unit with gradients, and the rows of the contract that they share."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
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

Result = tuple[np.ndarray, list[np.ndarray]]
PEERS = ("optax", "torch", "keras")


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
    for line in migration.lines():
        peer = line.counterpart.peer
        mine = line.loss == case.loss.__name__ and peer in peers
        if mine and set(case.options) <= {k.arg for k in line.call().keywords}:
            same = not re.search(r"-100|sum", line.counterpart.here)
            found |= {peer: line.on(case)} if same and peer not in found else {}
    return found


def per_unit_of(case: Case, line: Line) -> tuple[Callable[..., Result], float]:
    """The peer's values and gradients unit by unit, and how many times ours they are."""
    factor = line.factor()
    if line.counterpart.peer == "torch":
        return lambda arrays: _in_torch(case, line, arrays), factor
    return lambda arrays: _in_jax(case, line, arrays), factor


def _in_jax(case: Case, line: Line, arrays: tuple[np.ndarray, ...]) -> Result:
    floats = harness.floats_of(arrays)
    if line.counterpart.peer == "keras":
        import keras

        keras.config.set_floatx(str(arrays[0].dtype))

    def of_one(*unit: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(migration.theirs(line, _batch_of_one(case, unit))))

    axes = tuple(None if i in case.shared else 0 for i in range(len(arrays)))
    batched = jax.vmap(jax.value_and_grad(of_one, floats), axes)
    values, grads = jax.jit(batched)(*arrays)
    return np.asarray(values), [np.asarray(grad) for grad in grads]


def _batch_of_one(case: Case, unit: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a if i in case.shared else a[None] for i, a in enumerate(unit))


def _in_torch(case: Case, line: Line, arrays: tuple[np.ndarray, ...]) -> Result:
    import torch

    floats = harness.floats_of(arrays)
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(arrays[0].dtype))
    values, grads = [], [[] for _ in floats]
    for i in range(len(arrays[0])):
        unit = [a if k in case.shared else a[i : i + 1] for k, a in enumerate(arrays)]
        wide = [u.astype(np.float32) if half and k in floats else u for k, u in enumerate(unit)]
        tensors = [migration.tensor(u) for u in wide]
        for k in floats:
            tensors[k] = tensors[k].to(half or tensors[k].dtype).requires_grad_()
        value = migration.theirs(line, tuple(tensors)).sum()
        value.backward()
        values.append(float(value.detach()))
        for kept, k in zip(grads, floats, strict=True):
            slope = tensors[k].grad
            zero = torch.zeros_like(tensors[k])
            kept.append((zero if slope is None else slope)[0].to(torch.float64).numpy())
    return np.array(values), [np.stack(kept) for kept in grads]
