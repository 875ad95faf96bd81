"""The program that a step is compiled to: what it keeps in memory, and why it is compiled again."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping

import jax

from jaxloss.train.objective import PyTree


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Bytes on each device while a step runs: `step.memory_report(state, batch)`.

    Args:
        state: Of the state.
        temporaries: Of what is computed on the way, such as activations.
        aliased: Of those results that reuse the memory of the state.

    Example:
        >>> import optax
        >>> step = jaxloss.make_train_step(lambda w, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> report = step.memory_report(step.init(jnp.zeros(1000)), jnp.ones(1000))
        >>> print(report.state, report.aliased)
        4004 4004
    """

    state: int
    temporaries: int
    aliased: int


def memory_report(
    step: jax.stages.Wrapped, state: PyTree, batch: PyTree, *, donated: bool
) -> MemoryReport:
    """That of the compiled step; an error if a donated leaf of the state is not reused."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # JAX's names no leaf
        program = step.lower(state, batch).compile()
    reused = re.findall(r"\((\d+), \{\}, (?:may|must)-alias\)", program.as_text() or "")
    names = described(state=state)
    lost = [name for place, name in enumerate(names) if str(place) not in reused]
    if donated and lost:
        raise ValueError(
            f"the memory of {', '.join(lost)} is not reused, and is needed twice: a step must "
            "return every leaf of the state with the shape and dtype that it was given."
        )
    sizes = program.memory_analysis()
    if sizes is None:
        raise ValueError("this device does not say how much memory a program needs.")
    bytes_of_state = sum(map(_bytes, jax.tree.leaves(state)))
    return MemoryReport(bytes_of_state, sizes.temp_size_in_bytes, sizes.alias_size_in_bytes)


def described(**trees: PyTree) -> dict[str, str]:
    """Of each leaf the name, and what a compiled program depends on."""
    kinds = {}
    for root, tree in trees.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            kind = jax.typeof(leaf)
            weak = " (weakly typed)" if getattr(kind, "weak_type", False) else ""
            name = root + jax.tree_util.keystr(path)
            kinds[name] = f"{kind.dtype.name}{list(kind.shape)}{weak}"
    return kinds


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which leaves made a program be compiled again."""
    names = [*before, *(name for name in now if name not in before)]
    changed = [
        f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'gone')}"
        for name in names
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed) or (
        "no leaf changed its shape, dtype or weak type; it was a sharding or a setting of JAX"
    )


def _bytes(leaf: jax.Array) -> int:
    """On one device."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return leaf.nbytes * math.prod(shape) // max(math.prod(leaf.shape), 1)
