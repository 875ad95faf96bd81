"""`value_and_grad` of the losses that train models: ours, Optax's, and torch's where installed."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import jaxloss
from bench.measure import Program, alternate, compiled

RESULTS = Path(__file__).parent / "results"


def pointwise(millions: int) -> dict[str, tuple[Callable, Callable, str, list[jax.Array]]]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(millions * 2**20, np.float32))
    y = jnp.asarray((rng.random(millions * 2**20, np.float32) > 0.5).astype(np.float32))
    return {
        "binary cross entropy": (
            jaxloss.sigmoid_binary_cross_entropy,
            optax.losses.sigmoid_binary_cross_entropy,
            "binary_cross_entropy_with_logits",
            [x, y],
        ),
        "Huber": (jaxloss.huber_loss, optax.losses.huber_loss, "huber_loss", [x, y]),
        "squared error": (jaxloss.squared_error, optax.losses.squared_error, "mse_loss", [x, y]),
    }


def classes(rows: int, size: int) -> dict[str, tuple[Callable, Callable, str, list[jax.Array]]]:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.standard_normal((rows, size), np.float32))
    labels = jnp.asarray(rng.integers(0, size, rows), jnp.int32)
    ours = jaxloss.softmax_cross_entropy_with_integer_labels
    theirs = optax.losses.softmax_cross_entropy_with_integer_labels
    return {
        f"cross entropy [{rows}, {size}] {dtype.__name__}": (
            ours, theirs, "cross_entropy", [logits.astype(dtype), labels],
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    }  # fmt: skip


def in_torch(name: str, arrays: list[jax.Array]) -> Program:
    """The same loss and gradient, eagerly, on all cores."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    half = arrays[0].dtype == jnp.bfloat16
    x, y = (torch.from_numpy(np.array(a, np.float32 if a is arrays[0] else None)) for a in arrays)
    x = x.to(torch.bfloat16 if half else torch.float32).requires_grad_()
    y = y if y.is_floating_point() else y.long()

    def call() -> tuple[torch.Tensor, torch.Tensor | None]:
        x.grad = None
        value = getattr(torch.nn.functional, name)(x, y)
        value.backward()
        return value, x.grad

    def result(value: object) -> list[np.ndarray]:
        assert isinstance(value, tuple)
        return [tensor.detach().double().numpy() for tensor in value]

    return Program(call, result)


def rows(
    workload: str, ours: Callable, theirs: Callable, name: str, arrays: list[jax.Array], rounds: int
) -> list[str]:
    programs = {
        "ours": compiled(jax.value_and_grad(ours), *arrays),
        "optax": compiled(jax.value_and_grad(lambda *a: theirs(*a).mean()), *arrays),
    }
    if importlib.util.find_spec("torch"):
        programs["torch"] = in_torch(name, arrays)
    half = arrays[0].dtype == jnp.bfloat16
    alternate(programs, rounds, tolerance=2e-2 if half else 2e-5)
    base, mebi = programs["ours"], 2**20
    cells = [workload, f"{1e3 * base.median:.1f}", f"{(base.temporaries or 0) / mebi:.0f}"]
    for peer in ("optax", "torch"):
        program = programs.get(peer)
        cells.append("not installed" if program is None else f"{base.median / program.median:.2f}")
    return [*cells, f"{(programs['optax'].temporaries or 0) / mebi:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=["speed", "accuracy", "step"], default="speed")
    parser.add_argument("--points", type=int, default=2000, help="of accuracy: per loss and dtype")
    parser.add_argument("--losses", default="", help="of accuracy: part of a name")
    parser.add_argument("--out", type=Path, help="the report; bench/results/SUITE.md")
    parser.add_argument("--millions", type=int, default=64, help="elements of the pointwise losses")
    parser.add_argument("--classes", type=int, nargs=2, default=(2048, 32000), metavar=("N", "V"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    out = options.out or RESULTS / f"{options.suite}.md"
    if options.suite == "accuracy":
        from bench import accuracy, oracles

        return accuracy.report(
            options.losses, options.points, oracles.PEERS, out, Console(width=200)
        )
    if options.suite == "step":
        from bench import step

        return step.report(options.rounds, out, Console(width=200))
    heads = (
        "workload",
        "ours ms",
        "temporaries MiB",
        "/ Optax",
        "/ torch",
        "Optax's temporaries MiB",
    )
    table = Table(*heads, title=f"value_and_grad, medians of {options.rounds} alternating rounds")
    for workloads in (lambda: pointwise(options.millions), lambda: classes(*options.classes)):
        for name, workload in workloads().items():
            table.add_row(*rows(name, *workload, options.rounds))
    Console().print(table)


if __name__ == "__main__":
    main()
