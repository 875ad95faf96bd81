"""Every regression, likelihood, margin and binary loss on 1M and 64M elements."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from bench import shapes
from bench.oracles import CASES, Case
from bench.registry import contenders
from bench.rows import Row, Work
from bench.workload import Options, Workload, rows_of

FAMILIES = ("regression", "likelihood", "margin", "binary")
QUICK = ("squared_error", "huber_loss", "sigmoid_binary_cross_entropy", "gaussian_nll_loss")
BLOCK = 2**18  # elements that are drawn; more are their copies
BOUNDS = {"sigmoid_binary_cross_entropy": 0.4, "huber_loss": 0.65}  # of Optax at 64M in float32
PASSES = {"forward": (), "value_and_grad": (0,)}


def rows(options: Options) -> Iterator[Row]:
    return rows_of(workloads(options), options)


def workloads(options: Options) -> Iterator[Workload]:
    sizes = {"1M": shapes.POINTS["1M"]} if options.quick else shapes.POINTS
    for case in cases(options.quick):
        for size, elements in sizes.items():
            for dtype in ("float32",) if options.quick else ("float32", "bfloat16"):
                for name, by in PASSES.items():
                    if by or (size, dtype) != ("64M", "bfloat16"):
                        yield _workload(case, size, elements, dtype, name, by)


def cases(quick: bool) -> list[Case]:
    """The first row of each loss of these families."""
    found: dict[str, Case] = {}
    for case in CASES:
        name, family = case.loss.__name__, case.loss.__module__.rpartition(".")[2]
        if family in FAMILIES and not case.options and not case.data:
            found.setdefault(name, case)
    return [case for name, case in found.items() if not quick or name in QUICK]


def arrays_of(case: Case, elements: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """As many elements of the largest array as wanted, calm enough for the peers' formulas."""
    parts = case.inputs(rng, (2,))
    units = max(1, min(elements, BLOCK) // max(a[0].size for a in parts))
    block = case.inputs(rng, (units,))
    calm = [
        _calm(a, domain) if a.dtype.kind == "f" else a
        for a, domain in zip(block, case.domains, strict=True)
    ]
    copies = max(1, elements // (units * max(a[0].size for a in parts)))
    return tuple(
        a if i in case.shared else np.tile(a, (copies, *[1] * (a.ndim - 1)))
        for i, a in enumerate(calm)
    )


def _calm(array: np.ndarray, domain: str) -> np.ndarray:
    """Below 6, without a limit at which entries would be equal; no probability rounds to 1."""
    if domain == "probability":
        array = np.clip(array, 2**-8, 1 - 2**-8)
    return np.fmod(array, 6).astype(np.float32)


def _workload(
    case: Case, size: str, elements: int, dtype: str, name: str, by: tuple[int, ...]
) -> Workload:
    loss = case.loss.__name__
    every = contenders(case)
    full = (size, dtype, name) == ("64M", "float32", "value_and_grad")
    for who in () if full else ("torch compiled",) if size == "1M" else ("torch", "torch compiled"):
        every.pop(who, None)  # which take the longest of all
    if size == "64M":
        every.pop("keras", None)  # whose formulas are those of Optax
    return Workload(
        suite="pointwise",
        name=f"{loss}, {size} {dtype}, {name}",
        arrays=functools.partial(arrays_of, case, elements),
        dtype=dtype,
        contenders=every,
        gradients=by,
        work=_work(case, elements, dtype, bool(by)),
        bounds={
            f"{peer} time": BOUNDS.get(loss, 1.05) if full and peer == "optax" else 1.05
            for peer in every
            if peer != "jaxloss"
        },
    )


def _work(case: Case, elements: int, dtype: str, gradient: bool) -> Work:
    """Each array is read once, and the gradient of the first written once."""
    width = {"float32": 4, "bfloat16": 2}[dtype]
    units = case.inputs(np.random.default_rng(0), (2,))
    largest = max(a[0].size for a in units)
    bytes_of = [
        elements * a[0].size / largest * (width if a.dtype.kind == "f" else 4) for a in units
    ]
    return Work(read=sum(bytes_of), written=bytes_of[0] if gradient else 0)
