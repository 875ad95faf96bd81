"""Contenders from the lines of `Also known as`, with which the tests hold us to the peers.

No call of a peer is written here a second time: a loss's row of the contract says how it is
called, and its lines say what the peers call it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bench.oracles import CASES, Case, Line, lines_of, migration
from bench.workload import Contender

CROSS_ENTROPY = "softmax_cross_entropy_with_integer_labels"
COMPILED = ("sigmoid_binary_cross_entropy", "huber_loss", "squared_error", CROSS_ENTROPY)


def case_of(loss: str) -> Case:
    """The first row of a loss, which has no options."""
    return next(case for case in CASES if case.loss.__name__ == loss)


def contenders(case: Case) -> dict[str, Contender]:
    """The mean of ours and of each peer that has the loss."""
    found = {"jaxloss": Contender("jaxloss", case.call)}
    for peer, line in lines_of(case, ("optax", "torch", "keras", "tokamax")).items():
        if not any(map(_particular, line.call().keywords)):
            found[peer] = Contender(peer, mean_of(line, len(case.domains)))
            if peer == "torch" and case.loss.__name__ in COMPILED:
                found["torch compiled"] = Contender("torch compiled", found[peer].f)
    return found


def _particular(keyword: ast.keyword) -> bool:
    """Whether the line is about weights, or about one value of an option."""
    constant = isinstance(keyword.value, ast.Constant) and keyword.arg != "reduction"
    return keyword.arg == "weights" or constant


def without(tree: ast.Expression, names: set[str]) -> ast.Expression:
    """The call without the keywords whose values are these."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [k for k in node.keywords if ast.unparse(k.value) not in names]
    return tree


def mean_of(line: Line, count: int) -> Callable[..., Any]:
    """The mean of what the line says, as a function of as many arrays that reads it once."""
    there, places = line.counterpart.there, [np.zeros(2) for _ in range(count)]
    letters, factor = line.letters(tuple(places)), line.factor()
    given = {name: i for name, v in letters.items() for i, a in enumerate(places) if v is a}
    constant = {name: value for name, value in letters.items() if name not in given}
    # an option that is an array, such as a weight of 1 for every label, torch would multiply by
    idle = {name for name, value in constant.items() if isinstance(value, np.ndarray)}
    code = compile(without(ast.parse(there, mode="eval"), idle), there, "eval")

    known: dict[str, Any] = {}  # from the first call on, which imports the peer

    def names() -> dict[str, Any]:
        root = migration.package_of(there)
        of_torch = root.__name__ == "torch"
        values = {k: migration.tensor(v) if of_torch else v for k, v in constant.items()}
        return {root.__name__: root, "jnp": jnp, **values}

    def mean(*arrays: Any) -> Any:
        if not known:
            known.update(names())
        value = eval(code, known | {name: arrays[i] for name, i in given.items()})
        return value.mean() / factor

    return mean
