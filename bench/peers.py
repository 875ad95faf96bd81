"""Adapters: how a function of arrays becomes a program of ours, of a peer in JAX, or of torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from bench.measure import Program, compiled

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
OURS = ("jaxloss", "baseline")  # a baseline is what people write by hand, written here
NAMES = ("optax", "torch", "torch compiled", "keras", "flax", "equinox", "tokamax")
PACKAGES = {"torch compiled": "torch"}
Loss = Callable[..., Any]


def takes_part(peer: str, chosen: tuple[str, ...]) -> bool:
    return peer in OURS or peer in chosen


def missing(peer: str) -> str:
    """Why a peer that takes part cannot; empty where it can."""
    installed = peer in OURS or find_spec(PACKAGES.get(peer, peer))
    return "" if installed else "not installed"


def program(peer: str, f: Loss, arrays: tuple[jax.Array, ...], by: tuple[int, ...]) -> Program:
    """The value, or the value and the gradient by some of the arrays, on all cores."""
    if peer.startswith("torch"):
        return in_torch(f, arrays, by, compile=peer == "torch compiled")
    if peer == "keras":
        f = functools.partial(_in_keras, f, str(arrays[0].dtype))
    return compiled(jax.value_and_grad(f, by) if by else f, *arrays)


def _in_keras(f: Loss, dtype: str, *arrays: jax.Array) -> Any:
    import keras

    keras.config.set_floatx(dtype)
    return f(*arrays)


def in_torch(
    f: Loss, arrays: tuple[jax.Array, ...], by: tuple[int, ...], *, compile: bool
) -> Program:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    tensors = [_tensor(array) for array in arrays]
    for i in by:
        tensors[i].requires_grad_()
    if compile:
        f(*tensors)  # which imports what it needs, before the compiler looks
        f = torch.compile(f)

    def call() -> list[Any]:
        for i in by:
            tensors[i].grad = None
        with torch.set_grad_enabled(bool(by)):
            value = f(*tensors)
        if by:
            value.backward()
        if value.is_cuda:
            torch.cuda.synchronize()
        return [value, *(tensors[i].grad for i in by)]

    def result(values: Any) -> list[np.ndarray]:
        return [t.detach().float().cpu().numpy() for t in values if t is not None]

    if compile:
        call()  # which compiles
    return Program(call, result)


def _tensor(array: jax.Array) -> Any:
    """Where torch has the GPU that JAX has, there."""
    import torch

    wide = np.array(array, np.float32 if array.dtype == jax.numpy.bfloat16 else None)
    tensor = torch.from_numpy(wide)
    kind = torch.bfloat16 if array.dtype == jax.numpy.bfloat16 else None
    tensor = tensor.to(kind) if tensor.is_floating_point() else tensor.long()
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return tensor.cuda() if on_gpu else tensor
