"""Time and memory as N, V, B and devices grow, with slopes on logarithmic axes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

import jaxloss
from bench import shapes
from bench.registry import CROSS_ENTROPY, case_of
from bench.rows import Row
from bench.suites import classes, fused, pointwise, sharded
from bench.workload import Contender, Options, Workload, row_of

# what grows, from where to where, and the exponent that time has
GROWING: dict[str, tuple[int, int, float]] = {
    "elements": (2**18, 2**24, 1),
    "rows": (128, 8192, 1),
    "classes": (512, 32_768, 1),
    "tokens of a linear head": (128, 2048, 1),
    "classes of a linear head": (1024, 16_384, 1),
    "pairs of CLIP": (256, 4096, 2),
}


def rows(options: Options) -> Iterator[Row]:
    """For each size one row, and after the last size a row that has the slopes."""
    few = dataclasses.replace(options, rounds=min(options.rounds, 5 if options.quick else 15))
    for what, (first, last, exponent) in GROWING.items():
        last = min(last, 4 * first) if options.quick else last
        sizes = [first * 4**i for i in range(12) if first * 4**i <= last]
        found = [row_of(workload(what, size), few) for size in sizes]
        time = slope(sizes, [row.ours.median or 0 for row in found])
        memory = slope(sizes, [row.ours.temporaries or 0 for row in found])
        found[-1].ours.figures |= {"slope of time": time, "slope of memory": memory}
        if time > exponent + 0.2:
            found[-1].note = f"time grows faster than by the power of {exponent:.0f}"
        yield from found
    yield from _more_devices()


def _more_devices() -> Iterator[Row]:
    """Bytes of a device, which do not grow with their number, and the slope after the last."""
    groups: dict[str, list[Row]] = {}
    for row in sharded.growing():
        groups.setdefault(row.name.rpartition(": ")[0], []).append(row)
    for found in groups.values():
        counts = [int(row.name.rpartition(": ")[2]) for row in found]
        memory = slope(counts, [row.ours.temporaries or 0 for row in found])
        found[-1].ours.figures["slope of memory"] = memory
        yield from found


def slope(sizes: list[int], values: list[float]) -> float:
    """Of log value by log size; 0 where nothing is stored at any size."""
    if min(values) <= 0:
        return 0.0
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def workload(what: str, n: int) -> Workload:
    cross_entropy = functools.partial(_of_classes, case_of(CROSS_ENTROPY).loss)
    makers: dict[str, Callable[[int], Workload]] = {
        "elements": lambda n: _points(n),
        "rows": lambda n: cross_entropy(shapes.Classes("", n, 1000)),
        "classes": lambda n: cross_entropy(shapes.Classes("", 256, n)),
        "tokens of a linear head": lambda n: _head(shapes.Head("", n, 128, 4096)),
        "classes of a linear head": lambda n: _head(shapes.Head("", 512, 128, n)),
        "pairs of CLIP": lambda n: _pairs(shapes.Pairs("", n, 128)),
    }
    return dataclasses.replace(makers[what](n), suite="scaling", name=f"{what}: {n}", bounds={})


def _ours(made: Workload) -> Workload:
    return dataclasses.replace(made, contenders={"jaxloss": made.contenders["jaxloss"]})


def _points(n: int) -> Workload:
    case = case_of("sigmoid_binary_cross_entropy")
    return Workload(
        suite="",
        name="",
        arrays=functools.partial(pointwise.arrays_of, case, n),
        contenders={"jaxloss": Contender("jaxloss", case.call)},
        gradients=(0,),
    )


def _of_classes(loss: Callable[..., object], shape: shapes.Classes) -> Workload:
    return Workload(
        suite="",
        name="",
        arrays=functools.partial(classes.logits_and, "labels", None, shape),
        contenders={"jaxloss": Contender("jaxloss", loss)},
        gradients=(0,),
    )


def _head(shape: shapes.Head) -> Workload:
    return _ours(fused.linear(shape, "float32", fused.DEFAULT, {}))


def _pairs(shape: shapes.Pairs) -> Workload:
    return _ours(fused.pair("clip_loss", jaxloss.clip_loss, shape, 1, {}))
