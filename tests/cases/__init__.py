"""What the contract needs to know of a loss: its inputs, its truth, and the scale of its error.

One module per family mirrors `jaxloss/losses`; `test_contract.py` reads `CASES` and names no loss.
A truth is the paper's formula in plain NumPy on `np.longdouble` arrays: no clip, no epsilon, no
code of the library. An infinite input reaches it as 1e2000, so that limits come out by themselves.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

Arrays = tuple[np.ndarray, ...]
# What values an argument may hold; the extremes of a dtype within it are generated from this.
Domain = Literal[
    "real",
    "moderate",
    "positive",
    "probability",
    "log probability",
    "above -1",
    "not 0",
    "sign",
    "bit",
    "none",
]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One public loss with one choice of options."""

    loss: Callable[..., Any]
    # (generator, shape of the units) -> float64 arrays, in the order of the loss's arguments
    inputs: Callable[[np.random.Generator, tuple[int, ...]], Arrays]
    # (*arrays, **options) -> one longdouble per unit; of a deferred loss one number for the batch
    truth: Callable[..., Any]
    # (*arrays, **options) -> largest absolute term that is added or subtracted, per unit; None: the
    # loss is a sum of non-negative terms and is held to its own value
    scale: Callable[..., Any] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # one per argument; "none" for class labels and for what the extremes leave as it is
    domains: tuple[Domain, ...] = ("real", "real")
    # plain: a value per unit; coupled: the units see each other; deferred: one number for a batch
    kind: Literal["plain", "coupled", "deferred"] = "plain"
    # positions of the arrays that all units share, such as a matrix of classes
    shared: tuple[int, ...] = ()
    # names of the keyword arguments that hold data of the units; `inputs` returns them last
    data: tuple[str, ...] = ()
    # the derivative holds some terms constant: `truth` takes the inputs that they are of as `at`
    detached: bool = False
    # (argument, axis) that has an entry per class, where a label is the index of one
    classes: tuple[int, int] = (0, -1)
    # positions of the arrays without the axes of `parts`, where a unit has parts
    whole: tuple[int, ...] = ()
    # axes between the units and the features that `where` may delete from, as () or (3, 2)
    parts: tuple[int, ...] = ()
    # a gradient that is a difference of two probabilities is known to this many eps, where they
    # are so near each other that the inputs hardly move it
    slope_floor: float = 0.0
    # the schedule has no forward mode and no second order
    reverse_only: bool = False
    # the operands of a product stay bfloat16, so that its sums are not those of float32 inputs
    half_products: bool = False
    # hand-written corners: ((one unit's arguments), value) or (..., value, gradient of the first)
    corners: tuple[tuple[Any, ...], ...] = ()

    def call(self, *arrays: Any, **keywords: Any) -> Any:
        """The loss, of arrays in the order of `inputs`."""
        positional = len(arrays) - len(self.data)
        named = dict(zip(self.data, arrays[positional:], strict=True))
        return self.loss(*arrays[:positional], **named, **{**self.options, **keywords})

    def names(self) -> list[str]:
        """What the arrays are called, in the order of `inputs`."""
        parameters = inspect.signature(self.loss).parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] + list(self.data)

    def take(self, arrays: Arrays, index: Any) -> Arrays:
        """Some of the units."""
        return tuple(a if i in self.shared else a[index] for i, a in enumerate(arrays))

    def __str__(self) -> str:
        values = [getattr(v, "__name__", np.asarray(v).tolist()) for v in self.options.values()]
        options = (f"{k}={v}".replace(" ", "") for k, v in zip(self.options, values, strict=True))
        shared = ["shared"] if self.shared and self.data else []
        return "-".join([self.loss.__name__, *self.data, *shared, *options])


CASES: list[Case] = []


def case(**fields: Any) -> None:
    CASES.append(Case(**fields))


def load() -> list[Case]:
    """Every case of every family."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return CASES
