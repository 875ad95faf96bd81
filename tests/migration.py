"""The lines of `Also known as`, made callable: a peer's expression and ours on the same letters."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from cases import Case
from harness import CASES, is_float

import jaxloss
from jaxloss.cli.catalogue import Counterpart, entries

os.environ["KERAS_BACKEND"] = "jax"
PEERS = ("optax", "torch", "keras", "tokamax", "sklearn", "scipy")
INSTALLED = tuple(peer for peer in PEERS if importlib.util.find_spec(peer))
# what a letter stands for that is the value of an option
OPTIONS: Mapping[str, Any] = {
    "alpha": 0.25,
    "beta": 0.75,
    "class_weights": np.array([0.5, 1.0, 2.0, 1.5, 0.25]),
    "delta": 0.7,
    "epsilon": 1.5,
    "gamma": 1.5,
    "label_smoothing": 0.2,
    "margin": 0.3,
    "norm": 3.0,
    "p": 2,
    "pos_weight": np.array(3.0),
    "q": 0.6,
    "quantile": 0.8,
    "temperature": 0.5,
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: the loss whose docstring has it, and which row's inputs it is tried on."""

    loss: str
    counterpart: Counterpart
    case: Case | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=lambda: OPTIONS)

    def __str__(self) -> str:
        return f"{self.counterpart.there}->{self.loss}"

    def call(self) -> ast.Call:
        """Our own call within the expression."""
        nodes = ast.walk(ast.parse(self.counterpart.here, mode="eval"))
        return next(n for n in nodes if isinstance(n, ast.Call) and name_of(n.func) == self.loss)

    def on(self, case: Case) -> "Line":
        """The line with the options of that row."""
        parameters = inspect.signature(case.loss).parameters.values()
        options = {p.name: p.default for p in parameters if p.default is not p.empty}
        options |= case.options
        arrays = {name for name, value in OPTIONS.items() if isinstance(value, np.ndarray)}
        for name in arrays & {name for name, value in options.items() if value is not None}:
            options[name] = np.asarray(options[name], float)
        return dataclasses.replace(self, case=case, options=options)

    def factor(self) -> float:
        """How many times our value the expression is."""
        letters = {name: 1.0 for name in names_in(ast.parse(self.counterpart.here, mode="eval"))}
        return float(evaluate(self.counterpart.here, {**letters, self.loss: lambda *a, **k: 1.0}))

    def calm(self, rng: np.random.Generator, units: int) -> tuple[np.ndarray, ...]:
        """The row's own inputs, where a peer's formula does not cancel or overflow."""
        assert self.case is not None, f"{self.loss} has no row: say on which inputs to try it"
        arrays = self.case.inputs(rng, (units,))
        return tuple(np.clip(a, -6, 6) if is_float(a) else a for a in arrays)

    def letters(self, arrays: tuple[Any, ...]) -> dict[str, Any]:
        """What each letter stands for: arrays in the order of our arguments, and options."""
        bound, units = {}, len(arrays[0])
        names = self.case.data if self.case else ()
        data = dict(zip(names, arrays[len(arrays) - len(names) :], strict=True))
        for argument, array in zip(self.call().args, arrays, strict=False):
            bound |= {name: array for name in names_in(argument) if name not in bound}
        for keyword in self.call().keywords:
            given = self.options.get(keyword.arg or "", None)
            given = np.linspace(0.1, 2, units) if keyword.arg == "weights" else given
            given = data.get(keyword.arg or "", given)
            bound |= {n: given for n in names_in(keyword.value) if n not in bound}
        return bound


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def names_in(node: ast.AST) -> list[str]:
    modules = {"jnp", "np", "jax", "jaxloss"}
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id not in modules]


def lines(peers: tuple[str, ...] = INSTALLED) -> list[Line]:
    """Every line of these peers; by default, of those that are installed here."""
    found = []
    for name, entry in entries().items():
        for each in entry.counterparts:
            if each.peer in peers and each.here:
                rows = [case for case in CASES if case.loss is entry.loss]
                wanted = {k.arg for k in Line(name, each, None).call().keywords}
                rows = [row for row in rows if set(row.data) <= wanted] or [None]
                found.append(Line(name, each, rows[0]))
    return found


def compiled(expression: str, names: Mapping[str, Any], letters: Mapping[str, Any]) -> Any:
    """Its value, in one program of the letters that are arrays."""
    given = {name: value for name, value in letters.items() if isinstance(value, np.ndarray)}
    call = jax.jit(lambda given: evaluate(expression, {**names, **letters, **given}))
    return call(given)


def ours(line: Line, arrays: tuple[Any, ...]) -> Any:
    return compiled(line.counterpart.here, vars(jaxloss), line.letters(arrays))


def theirs(line: Line, arrays: tuple[Any, ...]) -> Any:
    there = line.counterpart.there
    root, letters = package_of(there), line.letters(arrays)
    if root.__name__ in ("optax", "keras", "tokamax"):
        return compiled(there, {root.__name__: root}, letters)
    if root.__name__ == "torch":
        letters = {name: tensor(value) for name, value in letters.items()}
    return evaluate(there, {root.__name__: root, **letters})


def package_of(there: str) -> Any:
    """The package of a peer's call, and the module that the call is in is imported too."""
    importlib.import_module(there.split("(")[0].rpartition(".")[0])
    flags.FLAGS(sys.argv[:1])  # tokamax would read its own from a command line that is ours
    return importlib.import_module(there.split(".")[0])


def tensor(value: Any) -> Any:
    import torch

    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return torch.tensor(array.astype(np.int64) if array.dtype.kind == "i" else array)
    return value


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    return eval(expression, {"jax": jax, "jnp": jnp, "np": np, "jaxloss": jaxloss, **names})
