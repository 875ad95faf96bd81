"""How to train: the usual way, and what the command line changed of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxloss.cli.mistakes import Mistake, unknown

PRECISIONS = ("float32", "bfloat16", "float16")
NONFINITE = ("apply", "skip", "raise")
WIDEST = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The usual way to train."""

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float | None = 0.3  # None: the optimizer's own
    batch_size: int = 32
    microbatches: int = 1
    epochs: int = 60
    evaluations: int | None = None  # in all; None: one after each epoch
    patience: int = 20
    hidden: tuple[int, ...] = (128, 128)
    seed: int = 0
    precision: str = "float32"
    ema: float | None = None
    nonfinite: Literal["apply", "skip", "raise"] = "apply"
    checkpoint_every: int | None = None  # epochs

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("nonfinite", NONFINITE)):
            if getattr(self, name) not in known:
                raise unknown(f"--{name} cannot be", getattr(self, name), known)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise Mistake(f"--ema is at least 0 and less than 1, such as 0.99, got {self.ema}.")
        if self.ema is not None and self.optimizer.startswith("schedule_free"):
            raise Mistake(f"{self.optimizer} averages the parameters itself: leave --ema out.")

    def but(self, **given: str | float | None) -> Recipe:
        """With what was given, which is what is not None.

        An optimizer that was chosen has a weight decay of its own, unless that was given too.
        """
        changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
        if changes.get("optimizer", self.optimizer) != self.optimizer:
            changes.setdefault("weight_decay", None)
        if "hidden" in changes:
            changes["hidden"] = _widths(str(changes["hidden"]))
        return dataclasses.replace(self, **changes)

    def size(self, rows: int) -> int:
        """The rows of a batch, of so many that there are; a `Mistake` if it does not split."""
        size = min(self.batch_size, rows)
        if size % self.microbatches:
            raise Mistake(
                f"--microbatches {self.microbatches} does not divide the batch of {size} rows."
            )
        return size

    def steps(self, rows: int) -> int:
        """The steps of an epoch of so many rows."""
        return -(-rows // self.size(rows))

    def steps_of_a_row(self, rows: int) -> int:
        """The steps from one evaluation to the next."""
        steps = self.steps(rows)
        return -(-steps * self.epochs // (self.evaluations or self.epochs))


COMPARISON = Recipe(epochs=20)
TEXT = Recipe(weight_decay=0.1, batch_size=16, evaluations=20, patience=10)
#: How many windows of a text a short training sees.
SEEN = 7000
LINE = Recipe(
    optimizer="sgd", learning_rate=0.1, weight_decay=None, batch_size=20, epochs=1000, hidden=()
)


def for_windows(count: int) -> Recipe:
    """For a text of so many windows, with as many epochs as a short training takes."""
    return dataclasses.replace(TEXT, epochs=max(round(SEEN / count), 1))


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        widths = (-1,)
    if widths == (0,):
        return ()
    if not 1 <= min(widths) <= max(widths) <= WIDEST:
        raise Mistake(
            f"--hidden is widths such as 64,64, at most {WIDEST}, or 0 for no hidden layer, got "
            f"{text!r}."
        )
    return widths
