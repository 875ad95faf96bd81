"""Why a loss or its gradient is not finite: off the hot path, where a step has said that it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.checks import first_entry, observing
from jaxloss.core.statistics import value
from jaxloss.train.objective import Aux, Loss, LossFn, PyTree, objective

RESTORE = "go back to an earlier state, which nonfinite='skip' would have kept"
REPAIR = {
    "params": RESTORE,
    "batch": "repair the data, or delete it from the loss with where",
    "model_state": RESTORE,
}
TOO_LARGE = (
    "it or its square overflows; scale what goes into the model, lower the learning rate, or "
    "compute in a dtype of more range"
)
TERM = "look for a division by 0, a logarithm or an overflow; jax.debug_nans(True) stops there"
FOLLOWS = "it follows from the above"
STEEP = (
    "the loss is finite and its slope is not; look for a root, a norm or a logarithm at 0, or for "
    "a branch that jnp.where hides, and make finite what goes into it"
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault, and the first place that has it; as a string, a sentence.

    `what` is "input", "unit", "term" or "gradient" for what is not finite, "argument" for what is
    outside the domain of a loss, "overflow" for an argument that is too large for its dtype, and
    "probabilities" for logits that are outputs of a softmax. `where` names it, as in "batch['x']",
    "labels" or "params['w']"; `index` is the place in it, and `value` what is there.

    Example:
        >>> print(jaxloss.Finding("argument", "labels", (3,), 10, "a class index is in [0, 10)"))
        labels[3] is 10: a class index is in [0, 10).
    """

    what: str
    where: str
    index: tuple[int, ...]
    value: float
    advice: str

    def __str__(self) -> str:
        """Its name, place and value, and what to do."""
        number = f"{self.value:.6g}" if isinstance(self.value, float) else self.value
        place = str(list(self.index)) if self.index else ""
        name = f"the gradient of {self.where}" if self.what == "gradient" else self.where
        return f"{name}{place} is {number}: {self.advice}."


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `jaxloss.diagnose` found, nearest to the cause first; it is true if it found anything.

    Example:
        >>> print(jaxloss.Diagnosis(()))
        Nothing found: the inputs, the loss and its gradient are as they should be.
    """

    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        """One sentence a line."""
        healthy = "Nothing found: the inputs, the loss and its gradient are as they should be."
        return "\n".join(map(str, self.findings)) or healthy


def diagnose(
    loss_fn: LossFn,
    params: PyTree,
    batch: PyTree,
    *,
    rng: Array | None = None,
    model_state: PyTree = None,
    step: ArrayLike | None = None,
) -> Diagnosis:
    """What is wrong with a loss, its data or its parameters, and where.

    It is what `jaxloss.checked` looks for in every loss of jaxloss, and the first input, unit,
    term and leaf of the gradient that is not finite. An input is named if the loss or its gradient
    are finite without it: neither what `where` deletes is, nor the -inf of a mask.

    Args:
        loss_fn: As in `jaxloss.make_train_step`.
        params: The parameters, in the dtype in which the model computes.
        batch: The whole batch, of which no microbatches are made.
        rng, model_state, step: What `loss_fn` takes by name. A step gives it
            `jax.random.fold_in(state.rng, state.step)`.

    Returns:
        A `Diagnosis`: its `findings`, and as a string a sentence for each.

    Raises:
        TypeError: A parameter is not floating, or `loss_fn` returns something else than a loss.

    Example:
        >>> def loss_fn(w, batch):
        ...     x, labels = batch
        ...     return jaxloss.softmax_cross_entropy_with_integer_labels(x * w, labels)
        >>> x, labels = jnp.ones((3, 2)), jnp.array([0, 1, 2])
        >>> print(jaxloss.diagnose(loss_fn, jnp.array(1.0), (x, labels)))
        labels[2] is 2: a class index is in [0, 2).
        unit[2] is nan: the loss of this unit is not finite.
        loss is nan: it follows from the above.
        the gradient of params is nan: it follows from the above.
    """
    given = {"params": params, "batch": batch, "model_state": model_state}
    watch, run = _Watch(), jax.jit(functools.partial(_outcome, objective(loss_fn), rng, step))
    with observing(watch):
        outcome = terms, loss, grads = run(*given.values())
        jax.effects_barrier()
        seen = watch.findings()
        healthy = all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(outcome))
        causes = [] if healthy else _guilty(run, given)
    causes += [f for f in seen if f.what in ("argument", "probabilities")]
    causes += [f for f in seen if f.what == "overflow" and not (healthy and np.isfinite(f.value))]
    parts = [*_leaves("loss", terms), ("loss", loss)]
    bad_terms = _not_finite("term", parts, FOLLOWS if causes else TERM)
    slope = STEEP if jnp.isfinite(loss) else FOLLOWS
    bad_grads = _not_finite("gradient", _leaves("params", grads), slope)
    units = [finding for finding in seen if finding.what == "unit" and bad_terms]
    return Diagnosis((*causes, *units[:1], *bad_terms, *bad_grads))


def _outcome(
    complete: Callable[..., tuple[Loss, Aux]],
    rng: Array | None,
    step: ArrayLike | None,
    params: PyTree,
    batch: PyTree,
    model_state: PyTree,
) -> tuple[dict[str, Array], Array, PyTree]:
    """The terms of the loss, the loss, and its gradient."""

    def number(params: PyTree) -> tuple[Array, dict[str, Array]]:
        loss, _ = complete(params, batch, rng=rng, model_state=model_state, step=step)
        terms = loss if isinstance(loss, Mapping) else {}
        return value(loss), {name: value(term) for name, term in terms.items()}

    (loss, terms), grads = jax.value_and_grad(number, has_aux=True)(params)
    return terms, loss, grads


def _guilty(run: Callable[..., PyTree], given: Mapping[str, PyTree]) -> list[Finding]:
    """The first input of which what is not finite, alone, makes a part of the outcome so."""
    leaves, structure = jax.tree.flatten(tuple(given.values()))
    found = [
        _not_finite("input", [named], REPAIR[root])
        for root, tree in given.items()
        for named in _leaves(root, tree)
    ]
    mended = [_mended(leaf) if bad else leaf for leaf, bad in zip(leaves, found, strict=True)]
    sound = jax.tree.leaves(run(*structure.unflatten(mended)))
    for i, bad in enumerate(found):
        if bad:
            alone = [*mended[:i], leaves[i], *mended[i + 1 :]]
            outcome = jax.tree.leaves(run(*structure.unflatten(alone)))
            pairs = zip(sound, outcome, strict=True)
            if any(jnp.any(jnp.isfinite(a) & ~jnp.isfinite(b)) for a, b in pairs):
                return bad
    return []


def _mended(leaf: ArrayLike) -> Array:
    """With its first finite entry, or 1, for what is not finite."""
    array = jnp.asarray(leaf)
    finite = jnp.isfinite(array)
    _, entry = first_entry(~finite, array)
    return jnp.where(finite, array, jnp.where(jnp.isfinite(entry), entry, 1))


def _leaves(root: str, tree: PyTree) -> list[tuple[str, ArrayLike]]:
    return [
        (root + jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _not_finite(what: str, named: Iterable[tuple[str, ArrayLike]], advice: str) -> list[Finding]:
    """The first of the arrays that has something not finite."""
    for name, leaf in named:
        array = jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not jnp.all(jnp.isfinite(array)):
            index, entry = first_entry(jnp.isfinite(array), array)
            return [Finding(what, name, tuple(map(int, index)), entry.item(), advice)]
    return []


class _Watch:
    """An observer that keeps what each place in a loss says, in the order of tracing."""

    def __init__(self) -> None:
        self.answers: list[list[Finding | None]] = []

    def __call__(self, what: str, ok: bool | Array, name: str, array: Array, why: str) -> None:
        self._listen(what, ok, name, array, why)
        if what == "argument" and jnp.issubdtype(array.dtype, jnp.floating):
            # a logarithm may be -inf, of an absent class
            size = array if "log" in name else jnp.abs(array)
            fits = ~(size > jnp.sqrt(jnp.finfo(array.dtype).max))
            self._listen("overflow", fits, name, array, TOO_LARGE)

    def _listen(self, what: str, ok: bool | Array, name: str, array: Array, why: str) -> None:
        answers: list[Finding | None] = []
        self.answers.append(answers)

        def answer(ok: Array, index: tuple[Array, ...], entry: Array) -> None:
            bad = Finding(what, name, tuple(map(int, index)), entry.item(), why)
            answers.append(None if ok else bad)

        jax.debug.callback(answer, jnp.all(ok), *first_entry(ok, array))

    def findings(self) -> list[Finding]:
        """The first fault of each place; of probabilities, where it never saw anything else."""
        found: dict[tuple[str, tuple[int, ...]], Finding] = {}
        for answers in self.answers:
            bad = [answer for answer in answers if answer is not None]
            if bad and (bad[0].what != "probabilities" or len(bad) == len(answers)):
                found.setdefault((bad[0].where, bad[0].index), bad[0])
        return list(found.values())
