"""What a training loss takes and what it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Concat, Deferred, Mean, Statistic, concatenates, value

Added = TypeVar("Added")
PyTree: TypeAlias = Any
Loss: TypeAlias = Array | Statistic | Mapping[str, Array | Statistic]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
    """What a training loss returns beside the loss: `return loss, jaxloss.Aux(model_state)`.

    `model_state` is what the next microbatch and the next step start from; None leaves it as it
    was. `metrics` are statistics, merged over microbatches like the loss.

    Example:
        >>> aux = jaxloss.Aux(metrics={"accuracy": jaxloss.Mean.of(jnp.array([1.0, 0.0]))})
        >>> print(aux.metrics["accuracy"].value())
        0.5
    """

    model_state: PyTree = None
    metrics: Mapping[str, Statistic] = dataclasses.field(default_factory=dict)


LossFn: TypeAlias = Callable[..., Loss | tuple[Loss, Aux]]


def objective(loss_fn: LossFn) -> Callable[..., tuple[Loss, Aux]]:
    """`loss_fn(params, batch)` in one form: with rng, model_state and step, and with an Aux."""
    names = [name for name in ("rng", "model_state", "step") if takes(loss_fn, name)]

    def call(
        params: PyTree,
        batch: PyTree,
        *,
        rng: Array | None,
        model_state: PyTree,
        step: ArrayLike | None,
    ) -> tuple[Loss, Aux]:
        given = {"rng": rng, "model_state": model_state, "step": step}
        loss, aux = _with_aux(loss_fn(params, batch, **{name: given[name] for name in names}))
        for name, metric in aux.metrics.items():
            if not isinstance(metric, Statistic):
                raise TypeError(
                    f"Aux.metrics[{name!r}] must be a statistic, which knows its weight, such as "
                    f"jaxloss.Mean.of(values, where), got {type(metric).__name__}."
                )
        state = model_state if aux.model_state is None else aux.model_state
        return _wide_sums(loss), Aux(state, _wide_sums(aux.metrics))

    return call


def wide(leaf: Array) -> Array:
    """Floats in at least float32, in which adding many small numbers loses little."""
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if narrow else leaf


def _wide_sums(statistics: Added) -> Added:
    """Rows keep their dtype: they are not added."""
    return jax.tree.map(
        lambda node: node if isinstance(node, Concat) else wide(jnp.asarray(node)),
        statistics,
        is_leaf=concatenates,
    )


def takes(loss_fn: Callable[..., object], name: str) -> bool:
    """Whether the signature of `loss_fn` names this argument."""
    return name in inspect.signature(loss_fn).parameters


def _with_aux(result: Loss | tuple[Loss, Aux]) -> tuple[Loss, Aux]:
    if isinstance(result, Mapping) and not result:
        raise ValueError("loss_fn returned an empty dict: a loss has one term or more.")
    if not isinstance(result, tuple):
        return result, Aux()
    if len(result) == 2 and isinstance(result[1], Aux):
        return result
    kinds = ", ".join(type(entry).__name__ for entry in result)
    raise TypeError(f"loss_fn must return a loss or (loss, jaxloss.Aux(...)), got ({kinds}).")


def mergeable(loss: Loss) -> Loss:
    """The loss, if its parts can be merged."""
    terms = loss.values() if isinstance(loss, Mapping) else [loss]
    if not all(isinstance(term, Statistic) for term in terms):
        raise TypeError(
            "loss_fn must return statistics if microbatches or evaluation batches are merged: a "
            "bare number does not say how many examples it stands for. Return a loss with "
            "reduction=jaxloss.stats, or jaxloss.Mean.of(values, where); "
            "jaxloss.Mean.constant(loss) says that every part counts the same."
        )
    return loss


def named(loss: Loss, aux: Aux) -> dict[str, Statistic]:
    """The loss, its terms if it has several, and the metrics, each under its name."""
    terms = dict(loss) if isinstance(loss, Mapping) else {}
    whole = Deferred(terms, value) if isinstance(loss, Mapping) else loss
    for name in ("loss", "grad_norm", "first_bad_leaf", "loss_scale"):
        if name in terms or name in aux.metrics:
            raise ValueError(f"{name!r} is a metric of the step: rename the term or metric.")
    if twice := terms.keys() & aux.metrics.keys():
        raise ValueError(f"{sorted(twice)} are terms of the loss and metrics: rename one.")
    everything = {"loss": whole, **terms, **aux.metrics}
    return {
        name: entry if isinstance(entry, Statistic) else Mean.constant(entry)
        for name, entry in everything.items()
    }


def as_mean(statistic: Statistic) -> Mean:
    """A mean as it is, and any other statistic as a number that counts once."""
    return statistic if isinstance(statistic, Mean) else Mean.constant(statistic.value())
