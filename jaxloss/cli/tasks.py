"""How a loss meets a table: whether it fits, what the model puts out, and what it is worth."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss
from jaxloss.cli.catalogue import Entry, entries
from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.options import Option
from jaxloss.cli.table import Table
from jaxloss.core.statistics import Statistic

Values: TypeAlias = Array | np.ndarray
#: What `LEARNS` may say.
KINDS = {
    "number": "numbers",
    "positive number": "positive numbers",
    "count": "counts 0, 1, 2, ...",
    "bit": "labels 0 and 1",
    "sign": "labels -1 and 1",
    "class": "class indices",
    "distribution": "distributions over classes",
    "token": "the next token of a text",
}
DEFAULT = {"number": "squared_error", "class": "softmax_cross_entropy_with_integer_labels"}
#: What the last layer goes through, by the name of the argument; other arguments take it as it is.
OF_ONE = {"probabilities": jax.nn.sigmoid, "variances": jax.nn.softplus}
OF_CLASSES = {"probabilities": jax.nn.softmax, "log_probs": jax.nn.log_softmax}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A loss with its options, between the last layer of a model and the target of a table."""

    loss: Callable[..., Statistic]
    columns: int  # outputs of the last layer
    offset: float  # what they start from
    arguments: Callable[[Array], tuple[Array, ...]]  # outputs -> what the loss takes first
    targets: np.ndarray  # [rows, ...], what the loss takes last
    predict: Callable[[np.ndarray], np.ndarray]  # outputs -> what the table holds
    center: float = 0.0  # the target is learnt as (target - center) / unit
    unit: float = 1.0

    def __call__(self, outputs: Array, targets: Values, where: Values | None = None) -> Statistic:
        return self.loss(*self.arguments(outputs), targets, where=where, reduction=jaxloss.stats)


def kinds(table: Table) -> list[str]:
    """The kinds of target that the target of the table can be."""
    if table.classes:
        return ["class", "distribution"] + ["bit", "sign"] * (len(table.classes) == 2)
    targets = table.targets
    positive = ["positive number"] * bool(targets.min() > 0)
    counts = ["count"] * bool(targets.min() >= 0 and np.all(targets % 1 == 0))
    return ["number", *positive, *counts]


def default_loss(table: Table) -> str:
    """The usual loss of the task."""
    return DEFAULT[kinds(table)[0]]


def require_fit(entry: Entry, table: Table) -> None:
    """Raises a `Mistake` where the loss cannot learn the target of the table."""
    require_kind(entry, kinds(table), f"{table.target!r} ({table.task})")


def require_kind(entry: Entry, known: Collection[str], target: str) -> None:
    """Raises a `Mistake` where the loss learns none of the `known` kinds of target."""
    if entry.learns in known:
        return
    fit = [one.name for one in entries().values() if one.learns in known]
    learns = f"learns {KINDS[entry.learns]}" if entry.learns else "learns from no column of a table"
    raise Mistake(f"{entry.name} {learns} and does not fit {target}; these fit: {', '.join(fit)}.")


def objective(
    entry: Entry, options: Mapping[str, Option], table: Table, rows: np.ndarray
) -> Objective:
    """The loss on the table; of the targets only `rows` decide in which unit they are learnt.

    Raises:
        Mistake: The loss does not fit, or refuses an option.
    """
    require_fit(entry, table)
    loss = functools.partial(entry.loss, **options)
    if entry.learns == "number":
        made = _of_numbers(loss, options, table, rows)
    elif entry.learns == "positive number":
        made = _of_positive_numbers(loss, table, rows)
    elif entry.learns == "count":
        made = _of_counts(loss, table, rows)
    else:
        made = _of_labels(loss, str(entry.learns), table)
    try:
        outputs = jax.ShapeDtypeStruct((len(made.targets), made.columns), jnp.float32)
        jax.eval_shape(made, outputs, made.targets)
    except (ValueError, TypeError) as error:
        raise Mistake(f"{entry.name}: {error}") from None
    return made


def leading(loss: Callable[..., object]) -> list[str]:
    """The names of the arguments that a model puts out: all positional ones but the last."""
    parameters = inspect.signature(loss).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][:-1]


def _of_numbers(
    loss: Callable[..., Statistic],
    options: Mapping[str, Option],
    table: Table,
    rows: np.ndarray,
) -> Objective:
    center, unit = (0.0, 1.0) if table.raw else _scale(table.targets[rows])
    # a vector, as of quantiles, asks for one prediction for each of its entries
    entries = max((v.size for v in options.values() if isinstance(v, np.ndarray)), default=0)
    links = [OF_ONE.get(name, _same) for name in leading(loss)]

    def arguments(outputs: Array) -> tuple[Array, ...]:
        if entries:
            return (outputs,)
        return tuple(link(outputs[..., i]) for i, link in enumerate(links))

    return Objective(
        loss=loss,
        columns=entries or len(links),
        offset=0.0,
        arguments=arguments,
        targets=((table.targets - center) / unit).astype(np.float32),
        predict=lambda outputs: outputs[..., entries // 2] * unit + center,
        center=center,
        unit=unit,
    )


def _of_positive_numbers(
    loss: Callable[..., Statistic], table: Table, rows: np.ndarray
) -> Objective:
    unit = float(table.targets[rows].mean())
    return Objective(
        loss=loss,
        columns=1,
        offset=_inverse_softplus(1.0),
        arguments=lambda outputs: (jax.nn.softplus(outputs[..., 0]),),
        targets=(table.targets / unit).astype(np.float32),
        predict=lambda outputs: np.logaddexp(0, outputs[..., 0]) * unit,
        unit=unit,
    )


def _of_counts(loss: Callable[..., Statistic], table: Table, rows: np.ndarray) -> Objective:
    mean = table.targets[rows].mean() or 1.0
    option = inspect.signature(loss).parameters.get("log_input")
    logs = option is not None and bool(option.default)
    link = _same if logs else jax.nn.softplus
    return Objective(
        loss=loss,
        columns=1,
        offset=float(np.log(mean)) if logs else _inverse_softplus(mean),
        arguments=lambda outputs: (link(outputs[..., 0]),),
        targets=table.targets.astype(np.float32),
        predict=lambda outputs: (
            np.exp(outputs[..., 0]) if logs else np.logaddexp(0, outputs[..., 0])
        ),
    )


def _of_labels(loss: Callable[..., Statistic], learns: str, table: Table) -> Objective:
    classes, (first,) = len(table.classes), leading(loss)
    targets = {
        "class": table.targets.astype(np.int32),
        "distribution": np.eye(classes, dtype=np.float32)[table.targets],
        "bit": table.targets.astype(np.float32),
        "sign": 2 * table.targets.astype(np.float32) - 1,
    }[learns]
    alone = learns in ("bit", "sign")
    link = (OF_ONE if alone else OF_CLASSES).get(first, _same)
    return Objective(
        loss=loss,
        columns=1 if alone else classes,
        offset=0.0,
        arguments=lambda outputs: (link(outputs[..., 0] if alone else outputs),),
        targets=targets,
        predict=lambda outputs: outputs[..., 0] > 0 if alone else outputs.argmax(-1),
    )


def _scale(targets: np.ndarray) -> tuple[float, float]:
    """Median, and the deviation of a normal distribution with these quartiles: no outlier's."""
    low, middle, high = np.percentile(targets, [25, 50, 75])
    return middle, (high - low) / 1.349 or targets.std() or 1.0


def _same(outputs: Array) -> Array:
    return outputs


def _inverse_softplus(value: float) -> float:
    return float(value + np.log(-np.expm1(-value)))


#: The metrics as people write them.
METRICS = {
    "accuracy": "accuracy",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
    "bits_per_byte": "bits per byte",
    "bits_per_byte_of_counts": "by order-1 counts",
}


def metrics(table: Table, predictions: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """What a user asks of a model, in the unit of the table; `predictions` are of `rows`."""
    targets = table.targets[rows]
    if table.classes:
        return {"accuracy": float(np.mean(predictions == targets))}
    squared = np.mean((predictions - targets) ** 2)
    return {
        "mse": float(squared),
        "mae": float(np.mean(np.abs(predictions - targets))),
        "r2": float(1 - squared / targets.var()) if targets.var() else float("nan"),
    }
