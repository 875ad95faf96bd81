"""Tables to learn from: inputs and targets, their split, and a scale known from training rows."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

#: What a row is for, by its place in a shuffled deck; classes are dealt one after the other.
ROLES = np.array(
    ["train", "test", "validation", "train", "train", "train", "test", "train", "train", "train"]
)
Kind = Literal["number", "pixel", "category"]
Split = dict[str, np.ndarray]  # role -> indices of its rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows of inputs with one target each."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]  # how each column is scaled, see `Scale`
    inputs: np.ndarray  # [rows, columns]
    target: str
    targets: np.ndarray  # [rows], numbers or class indices
    classes: tuple[str, ...] = ()  # none for a regression
    raw: bool = False  # learnt as it is, in its own units and whole

    @property
    def task(self) -> str:
        """What is to be learnt, in words."""
        if not self.classes:
            return "regression"
        return "binary classification" if len(self.classes) == 2 else "multiclass classification"

    def split(self, seed: int) -> Split:
        """Rows for training, validation and test, 7 : 1 : 2, with the classes in proportion.

        The table of an example is for training alone.
        """
        if self.raw:
            return {"train": np.arange(len(self.targets))}
        deck = np.random.default_rng(seed).permutation(len(self.targets))
        if self.classes:
            deck = deck[np.argsort(self.targets[deck], kind="stable")]
        role = ROLES[np.arange(len(deck)) % len(ROLES)]
        return {name: np.sort(deck[role == name]) for name in ("train", "validation", "test")}


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """(values - mean) · factor."""

    mean: np.ndarray
    factor: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.mean) * self.factor).astype(np.float32)


def scale_of_inputs(table: Table, rows: np.ndarray) -> Scale:
    """Numbers to mean 0 and deviation 1 by their column, pixels by the deviation of all pixels.

    Only `rows` are looked at. A column that is constant in them becomes 0 everywhere.
    """
    if table.raw:
        return Scale(np.zeros(len(table.columns)), np.ones(len(table.columns)))
    values, kinds = table.inputs[rows], np.array(table.kinds)
    deviation = values.std(axis=0)
    deviation[kinds == "pixel"] = values[:, kinds == "pixel"].std() if "pixel" in kinds else 0
    deviation[kinds == "category"] = 1
    varies = np.ptp(values, axis=0) > 0
    factor = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    return Scale(np.where(kinds == "category", 0, values.mean(axis=0)), factor)
