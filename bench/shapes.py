"""The shapes that workloads have, named after the models that have them."""

from __future__ import annotations

import dataclasses

POINTS = {"1M": 2**20, "64M": 2**26}


@dataclasses.dataclass(frozen=True)
class Classes:
    name: str
    rows: int
    classes: int


@dataclasses.dataclass(frozen=True)
class Head:
    name: str
    tokens: int
    features: int
    classes: int


@dataclasses.dataclass(frozen=True)
class Pairs:
    name: str
    batch: int
    features: int


IMAGENET = Classes("ImageNet, batch of 8192", 8192, 1000)
LLAMA = Classes("Llama 2, 2048 tokens", 2048, 32_000)
LLAMA_3 = Classes("Llama 3's vocabulary padded, 256 tokens", 256, 131_072)
CLASSES = (IMAGENET, LLAMA, LLAMA_3)
DIGITS = Classes("digits, batch of 1024", 1024, 10)

SMALL_LM = Head("small model, Llama 2's vocabulary", 2048, 512, 32_000)
WIDE_LM = Head("small model, 128,000 classes", 2048, 256, 128_000)
GEMMA_2 = Head("Gemma 2 2B", 8192, 2304, 256_000)
TINY_LM = Head("tiny model", 256, 64, 4000)

CLIP = Pairs("CLIP, batch of 8192", 8192, 512)
SMALL_CLIP = Pairs("CLIP, batch of 1024", 1024, 512)
BIG_CLIP = Pairs("CLIP, batch of 65536", 65_536, 512)
TINY_CLIP = Pairs("CLIP, batch of 512", 512, 64)

# of structured losses: how many units, and the shape of a unit, by loss
SPEECH = {"batch": 16, "frames": 200, "classes": 64, "letters": 40}
IMAGES = {"batch": 4, "pixels": (256, 256)}
PARTS_OF_IMAGES = 21  # Pascal VOC
LISTS = {"queries": 1024, "items": 100}
FACES = {"batch": 512, "features": 256, "people": 10_000}
BOXES = 2**18
TRIPLETS = {"batch": 8192, "features": 128}
