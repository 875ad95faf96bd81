"""Losses whose unit has parts or whose units see each other: sequences, images, lists, boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bench import shapes
from bench.registry import case_of, contenders
from bench.rows import Row, Work
from bench.suites.pointwise import PASSES
from bench.workload import Arrays, Options, Workload, rows_of


def rows(options: Options) -> Iterator[Row]:
    return rows_of(workloads(options), options)


def speech(rng: np.random.Generator, few: int) -> Arrays:
    batch, frames, classes, letters = shapes.SPEECH.values()
    logits = rng.standard_normal((batch // few, frames // few, classes), np.float32)
    return logits, rng.integers(1, classes, (batch // few, letters // few))


def masks(rng: np.random.Generator, few: int) -> Arrays:
    shape = (shapes.IMAGES["batch"], *(side // few for side in shapes.IMAGES["pixels"]))
    return rng.standard_normal(shape, np.float32), (rng.random(shape) > 0.5) * 1.0


def segments(rng: np.random.Generator, few: int) -> Arrays:
    """Of labels that are distributions over the classes of every pixel."""
    pixels = masks(rng, few)[0].shape
    classes = rng.integers(0, shapes.PARTS_OF_IMAGES, pixels)
    logits = rng.standard_normal((*pixels, shapes.PARTS_OF_IMAGES), np.float32)
    return logits, np.eye(shapes.PARTS_OF_IMAGES, dtype=np.float32)[classes]


def lists(rng: np.random.Generator, few: int) -> Arrays:
    shape = (shapes.LISTS["queries"] // few, shapes.LISTS["items"])
    return rng.standard_normal(shape, np.float32), rng.integers(0, 4, shape) * 1.0


def views(rng: np.random.Generator, few: int) -> Arrays:
    shape = (shapes.TRIPLETS["batch"] // (4 * few), shapes.TRIPLETS["features"])
    return tuple(rng.standard_normal(shape, np.float32) for _ in range(2))


def groups(rng: np.random.Generator, few: int) -> Arrays:
    rows = views(rng, few)[0]
    return rows, np.arange(len(rows)) // 2


def triplets(rng: np.random.Generator, few: int) -> Arrays:
    shape = (shapes.TRIPLETS["batch"] // few, shapes.TRIPLETS["features"])
    return tuple(rng.standard_normal(shape, np.float32) for _ in range(3))


def faces(rng: np.random.Generator, few: int) -> Arrays:
    batch, features, people = (n // few for n in shapes.FACES.values())
    rows = rng.standard_normal((batch, features), np.float32)
    return rows, rng.standard_normal((features, people), np.float32), rng.integers(0, people, batch)


def boxes(rng: np.random.Generator, few: int) -> Arrays:
    corners = [rng.uniform(0, 100, (shapes.BOXES // few, 2)) for _ in range(2)]
    sizes = [rng.uniform(10, 50, (shapes.BOXES // few, 2)) for _ in range(2)]
    return tuple(
        np.hstack([c, c + s]).astype(np.float32) for c, s in zip(corners, sizes, strict=True)
    )


LOSSES: dict[str, Callable[[np.random.Generator, int], Arrays]] = {
    "ctc_loss": speech,
    "dice_loss": segments,
    "binary_dice_loss": masks,
    "ranking_softmax_loss": lists,
    "pairwise_logistic_loss": lists,
    "info_nce_loss": views,
    "ntxent": groups,
    "supcon_loss": groups,
    "triplet_margin_loss": triplets,
    "arcface_loss": faces,
    "circle_loss": groups,
    "giou_loss": boxes,
}
FEATURES_OF_PRODUCTS = ("info_nce_loss", "ntxent", "supcon_loss", "circle_loss", "arcface_loss")


def workloads(options: Options) -> Iterator[Workload]:
    few = 8 if options.quick else 1
    for loss, make in LOSSES.items():
        example = make(np.random.default_rng(0), few)
        for name, by in PASSES.items():
            if options.quick and not by:
                continue
            yield Workload(
                suite="structured",
                name=f"{loss} {list(example[0].shape)} float32, {name}",
                arrays=lambda rng, make=make: make(rng, few),
                contenders=contenders(case_of(loss)),
                gradients=by,
                work=_work(loss, example, bool(by)),
            )


def _work(loss: str, arrays: Arrays, gradient: bool) -> Work:
    """Every input is read and the gradient written; of similarities, the products."""
    first = 4 * arrays[0].size
    flops = 0.0
    if loss in FEATURES_OF_PRODUCTS:
        others = arrays[1].shape[1] if loss == "arcface_loss" else len(arrays[0])
        flops = 2 * arrays[0].size * others * (2 if gradient else 1)
    return Work(sum(4 * a.size for a in arrays), first if gradient else 0, flops)
