"""Several losses on the same language model, text and seeds, and what each of them costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxloss.cli import fit, language, pictures
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.meter import Cost, Meter
from jaxloss.cli.mistakes import ENDED
from jaxloss.cli.recipes import Recipe
from jaxloss.cli.text import Text
from jaxloss.loop.history import History

CURVES = {"loss": "training loss", "validation_bits_per_byte": "validation bits per byte"}


@dataclasses.dataclass(frozen=True, eq=False)
class Learnt:
    """What came of a loss and a seed."""

    loss: str
    seed: int
    history: History
    cost: Cost
    apart: float  # the most that its training loss is from that of the first loss

    def row(self) -> dict[str, object]:
        """The last of its curves, and its cost."""
        last = {name: self.history.last(name) for name in CURVES}
        own = {"loss_function": self.loss, "seed": self.seed, **last}
        return {**own, "apart": self.apart, **dataclasses.asdict(self.cost)}

    def curves(self) -> pd.DataFrame:
        """Its curves, a row for each evaluation."""
        curves = {name: self.history[name] for name in CURVES}
        own = {"loss_function": self.loss, "seed": self.seed}
        return pd.DataFrame({**own, "step": self.history.steps, **curves})


def compare(
    text: Text, entries: Sequence[Entry], seeds: np.ndarray, recipe: Recipe, *, progress: bool
) -> list[Learnt]:
    """Every loss with every seed, one after the other; each seed has weights and batches."""
    found, firsts = [], {}
    for entry in entries:
        lesson = language.prepare(text, entry, {}, recipe.hidden)
        for seed in seeds.tolist():
            meter, own = Meter(), dataclasses.replace(recipe, seed=seed)
            history = fit.train(lesson, own, progress=progress, meter=meter).history
            if history.stopped in ENDED:
                raise SystemExit(ENDED[history.stopped])
            curve = history["loss"]
            first = firsts.setdefault(seed, curve)
            shared = min(len(curve), len(first))  # one may have stopped before
            apart = float(np.abs(curve[:shared] - first[:shared]).max())
            found.append(Learnt(entry.name, seed, history, meter.cost, apart))
    return found


def draw(found: Sequence[Learnt], counts: float) -> Figure:
    """Training loss and held-out bits per byte over the steps, a line for each loss and seed."""
    figure, axes = pictures.figure(1, [5, 5], height=4)
    looks = pictures.styles(list(dict.fromkeys(each.loss for each in found)))
    for axis, (name, label) in zip(axes, CURVES.items(), strict=True):
        for each in found:
            colour, dash = looks[each.loss]
            x, y = each.history.steps, each.history[name]
            axis.plot(x, y, color=colour, linestyle=dash, linewidth=2)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
    for loss, (colour, dash) in looks.items():
        axes[0].plot([], [], color=colour, linestyle=dash, linewidth=2, label=loss)
    axes[1].axhline(counts, color="k", linestyle=":", label="order-1 counts")
    for axis in axes:
        axis.legend(frameon=False, fontsize=9, handlelength=3)
    return figure
