"""The first line of every loss: check, convert, blank what is masked.

What is known when a loss is traced (shapes, dtypes, options that are Python numbers) raises
there. What only the data know is an error under `checked`, and otherwise NaN or nothing.
"""

from __future__ import annotations

import functools
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.experimental import checkify
from jax.typing import ArrayLike

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Observer(Protocol):
    """Whom the losses tell what they see in their data.

    `what` is an "argument" with a domain, logits that may be "probabilities" (`ok` is one
    answer for all), or the value of each "unit".
    """

    def __call__(self, what: str, ok: bool | Array, name: str, array: Array, why: str) -> None: ...


#: Part of the cache key of jit: a loss that nobody observes pays nothing.
observing = jax.make_user_context(None)


def checked(f: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function, with the data of every loss that it calls checked.

    `f` is a loss, a training loss, or the gradient of one. `checked` goes outside `jax.jit`,
    `jax.grad` and `jax.vmap`, and costs nothing where it is not used.

    Args:
        f: Any function that calls losses of jaxloss.

    Returns:
        A function that takes the arguments of `f` and raises an error that names the argument,
        the first bad index and its value: a label out of range, a probability outside [0, 1], a
        negative weight under "mean", NaN. It warns of softmax outputs passed as logits.

    Raises:
        RuntimeError: It is called inside a transformation.

    Example:
        >>> loss = jaxloss.checked(jaxloss.softmax_cross_entropy_with_integer_labels)
        >>> loss(jnp.zeros((2, 3)), jnp.array([0, 3]))
        Traceback (most recent call last):
        jax...JaxRuntimeError: labels[1] is 3: a class index is in [0, 3)...
    """

    @functools.wraps(f)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with observing(_raise):
            error, value = checkify.checkify(lambda: f(*args, **kwargs))()
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(error)):
            raise RuntimeError(
                "jaxloss.checked was called inside a transformation and cannot raise there: put "
                "it outside, as in jaxloss.checked(jax.jit(f)) or jaxloss.checked(jax.grad(f))."
            )
        checkify.check_error(error)
        jax.effects_barrier()
        return value

    return call


def paired(
    where: ArrayLike | None,
    *,
    features: int = 0,
    fill: Mapping[str, float] | None = None,
    **arrays: ArrayLike,
) -> list[Array]:
    """Floats of one shape, of which the last `features` axes belong to a unit or part.

    What `where` deletes becomes 0, or what `fill` says where the mathematics is not finite at 0.
    """
    return _paired(where, features, fill or {}, arrays)


def _paired(
    where: ArrayLike | None,
    features: int,
    fill: Mapping[str, float],
    arrays: Mapping[str, ArrayLike],
) -> list[Array]:
    first, *_ = arrays
    converted = floats(**arrays)
    for name, array in zip(arrays, converted, strict=True):
        if array.shape != converted[0].shape:
            raise ValueError(
                f"{name} must have the shape of {first}, got {array.shape} and "
                f"{converted[0].shape}; nothing is broadcast."
            )
    if converted[0].ndim < features:
        raise ValueError(f"{first} must have {features} trailing axes, got {converted[0].shape}.")
    blanked = []
    for name, array in zip(arrays, converted, strict=True):
        array = blank(array, where, features=features, fill=fill.get(name, 0))
        require(~jnp.isnan(array), name, array, "it must be a number")
        blanked.append(array)
    return blanked


def labelled(
    where: ArrayLike | None,
    *,
    logits: ArrayLike,
    labels: ArrayLike,
    name: str = "logits",
    fill: float = 0,
    absent: float = -jnp.inf,
) -> tuple[Array, Array]:
    """Float logits `[*units, classes]` and class indices `[*units]`; `name` is what errors say.

    A label out of range makes its logits NaN, and so the loss and their gradient.
    """
    (logits,) = _paired(where, 1, {name: fill}, {name: logits})
    labels = _integers(where, labels, name, logits)
    logits = with_a_class(logits, absent)
    return _loud(logits, labels, logits.shape[-1])


def headed(
    where: ArrayLike | None, *, labels: ArrayLike, class_axis: int = 1, **arrays: ArrayLike
) -> tuple[Array, Array, Array]:
    """Floats `[*units, features]`, a matrix of the classes, and class indices `[*units]`.

    All units share the matrix. A label out of range makes the features of its unit NaN.
    """
    (name, matrix_name), (rows, matrix) = arrays, floats(**arrays)
    if matrix.ndim != 2 or matrix.shape[1 - class_axis] != rows.shape[-1]:
        raise ValueError(
            f"{matrix_name} must have two axes, of which axis {1 - class_axis} is as long as the "
            f"last one of {name}, got {matrix.shape} and {rows.shape}."
        )
    (rows,) = _paired(where, 1, {}, {name: rows})
    require(~jnp.isnan(matrix), matrix_name, matrix, "it must be a number")
    labels = _integers(where, labels, name, rows)
    classes = matrix.shape[class_axis]
    if classes == 0:
        matrix = jnp.zeros((rows.shape[-1], 1) if class_axis else (1, rows.shape[-1]), rows.dtype)
    rows, labels = _loud(rows, labels, classes)
    return rows, matrix, labels


def rows(where: ArrayLike | None, **arrays: ArrayLike) -> list[Array]:
    """Floats of one shape `[units, features]`, whose units see each other."""
    converted = _paired(where, 1, {}, arrays)
    if converted[0].ndim != 2:
        raise ValueError(
            f"{' and '.join(arrays)} must be [units, features], got {converted[0].shape}."
        )
    return converted


def grouped(
    where: ArrayLike | None, *, embeddings: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array]:
    """Floats `[units, features]`, and any integers `[units]` that say which belong together."""
    (embeddings,) = rows(where, embeddings=embeddings)
    return embeddings, _integers(where, labels, "embeddings", embeddings)


def _integers(where: ArrayLike | None, labels: ArrayLike, name: str, like: Array) -> Array:
    labels = integers(labels)
    _check_units("labels", labels, name, like)
    return blank(labels, where)


def integers(labels: ArrayLike) -> Array:
    """Labels of any integer dtype, in one that holds the number of classes too."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}.")
    wide = jnp.int64 if labels.dtype in (jnp.int64, jnp.uint32, jnp.uint64) else jnp.int32
    return labels.astype(jax.dtypes.canonicalize_dtype(wide))


def _loud(rows: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """Rows that are NaN where their label is out of range, and labels that are not."""
    known = (labels >= 0) & (labels < classes)
    require(known, "labels", labels, f"a class index is in [0, {classes})")
    poison = jnp.where(known, 1, jnp.nan).astype(rows.dtype)
    return rows * poison[..., None], jnp.where(known, labels, 0)


def distributed(
    where: ArrayLike | None, *, logits: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array]:
    """Float logits and distributions over their classes, both `[*units, classes]`."""
    logits, labels = paired(where, features=1, logits=logits, labels=labels)
    require((labels >= 0) & (labels <= 1), "labels", labels, "a probability is in [0, 1]")
    warn_of_probabilities(logits, where)
    return with_a_class(logits), with_a_class(labels, 0)


def repeated(name: str, array: Array, like_name: str, like: Array) -> Array:
    """`array`, which has the leading axes of `like`, repeated along the last one."""
    _check_units(name, array, like_name, like)
    return jnp.broadcast_to(array[..., None], like.shape)


def one_per_unit(
    where: ArrayLike | None,
    name: str,
    array: ArrayLike,
    like_name: str,
    like: Array,
    fill: float = 0,
) -> Array:
    """A number for each of the units, whose features are the last axis of `like`."""
    array = floats(**{like_name: like, name: array})[1]
    _check_units(name, array, like_name, like)
    array = blank(array, where, fill=fill)
    require(~jnp.isnan(array), name, array, "it must be a number")
    return array


def _check_units(name: str, array: Array, like_name: str, like: Array) -> None:
    if array.shape != like.shape[:-1]:
        raise ValueError(
            f"{name} must have the shape of {like_name} without the last axis, got {array.shape} "
            f"and {like.shape}."
        )


def with_a_class(array: Array, fill: float = -jnp.inf) -> Array:
    """The logits; where there are no classes at all, those of one absent class."""
    if array.shape[-1:] != (0,):
        return array
    return jnp.full((*array.shape[:-1], 1), fill, array.dtype)


def floats(**arrays: ArrayLike) -> list[Array]:
    """The arrays in the dtype of the first, which is floating, or float32 if that is wider."""
    (first, *_), converted = arrays, [jnp.asarray(array) for array in arrays.values()]
    if not jnp.issubdtype(converted[0].dtype, jnp.floating):
        raise TypeError(f"{first} must be floating, got {converted[0].dtype}.")
    for name, array in zip(arrays, converted, strict=True):
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got {array.dtype}.")
    dtype = jnp.float64 if converted[0].dtype == jnp.float64 else jnp.float32
    return [array.astype(dtype) for array in converted]


def option(
    name: str, value: ArrayLike, like: Array, *, must_be: str, entries: bool = False
) -> Array:
    """One number in the dtype of `like`, or with `entries` also one per entry of its last axis.

    A Python number is checked here, an array (it may be traced) under `checked`.
    """
    holds = RANGES[must_be]
    if isinstance(value, numbers.Real) and not holds(value):
        raise ValueError(f"{name} must be {must_be}, got {value}.")
    array = jnp.asarray(value).astype(like.dtype)
    allowed = ((), like.shape[-1:]) if entries else ((),)
    if array.shape not in allowed:
        also = f" or one per entry of the last axis, {like.shape[-1:]}" if entries else ""
        raise ValueError(f"{name} must be one number{also}, got shape {array.shape}.")
    require(holds(array), name, array, f"it must be {must_be}")
    return array.reshape((1,) * (like.ndim - 1) + array.shape) if array.ndim else array


RANGES: dict[str, Callable[..., bool | Array]] = {
    "a number": lambda value: value == value,
    "positive": lambda value: value > 0,
    "1 or more": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: (value >= 0) & (value <= 1),
    "in (0, 1)": lambda value: (value > 0) & (value < 1),
}


def given(value: ArrayLike | None) -> bool:
    """Whether an option is in use: it is not None and not the Python number 0."""
    return not (value is None or (isinstance(value, numbers.Real) and value == 0))


def blank(array: Array, where: ArrayLike | None, *, features: int = 0, fill: float = 0) -> Array:
    """Fills what is masked, so that what it holds reaches no value and no gradient."""
    if where is None:
        return array
    units = array.shape[: array.ndim - features]
    kept = spread("where", where, units).reshape(units + (1,) * features)
    return jnp.where(kept, array, jnp.asarray(fill, array.dtype))


def spread(name: str, array: ArrayLike, units: tuple[int, ...]) -> Array:
    """`where` or `weights`, given over the units or their leading axes, over the units."""
    array = jnp.asarray(array)
    if name == "where" and array.dtype != bool:
        raise TypeError(f"where must be boolean, got {array.dtype}; numbers go to weights.")
    if name == "weights" and array.dtype == bool:
        raise TypeError("weights must be numbers, got bool; a mask goes to where.")
    if array.shape != units[: array.ndim]:
        raise ValueError(
            f"{name} of shape {array.shape} must have the shape of the units, {units}, or of "
            f"their leading axes; else say jnp.broadcast_to({name}, {units})."
        )
    missing = len(units) - array.ndim
    return jnp.broadcast_to(array.reshape(array.shape + (1,) * missing), units)


def units_kept(where: ArrayLike | None, parts: tuple[int, ...], *, units: int) -> Array | None:
    """Which of the units, the first `units` axes of `parts`, have a part left."""
    if where is None:
        return None
    return jnp.any(spread("where", where, parts), axis=tuple(range(units, len(parts))))


def require(ok: bool | Array, name: str, array: Array, why: str) -> None:
    """Under `checked`, an error that names the first entry which is not `ok`."""
    observe("argument", ok, name, array, why)


def observe(what: str, ok: bool | Array, name: str, array: Array, why: str) -> None:
    """Tells the observer, if there is one."""
    if observing.value is not None and array.size:
        observing.value(what, ok, name, array, why)


def first_entry(ok: bool | Array, array: Array) -> tuple[tuple[Array, ...], Array]:
    """Index and value of the first entry that is not `ok`."""
    index = jnp.unravel_index(jnp.argmin(jnp.asarray(ok)), array.shape)
    return index, array[index]


def _raise(what: str, ok: bool | Array, name: str, array: Array, why: str) -> None:
    if what == "argument":
        index, value = first_entry(ok, array)
        place = f"[{', '.join(['{}'] * array.ndim)}]" if array.ndim else ""
        checkify.check(jnp.all(ok), f"{name}{place} is {{}}: {why}.", *index, value)
    elif what == "probabilities":
        jax.debug.callback(functools.partial(_warn, f"{name}: {why}."), ok)


def _warn(message: str, ok: Array) -> None:
    if not ok:
        warnings.warn(message, stacklevel=2)


def require_signs(labels: Array) -> None:
    """Under `checked`, an error that names the first label that is not -1 or 1."""
    require(jnp.abs(labels) == 1, "labels", labels, "a sign is -1 or 1")


def warn_of_probabilities(logits: Array, where: ArrayLike | None) -> None:
    """Under `checked`, a warning where every row of `logits` looks like a softmax output."""
    if observing.value is not None:
        masked = jnp.zeros((), bool) if where is None else ~jnp.asarray(where)
        kept = ~spread("where", masked, logits.shape[:-1])
        sums_to_one = jnp.abs(jnp.sum(logits, axis=-1) - 1) < 1e-3
        row = jnp.all((logits >= 0) & (logits <= 1), axis=-1) & sums_to_one
        suspicious = jnp.all(row | ~kept) & jnp.any(kept)
        why = (
            "every row is in [0, 1] and sums to 1; pass what goes into the softmax, or use a loss "
            "that takes probabilities"
        )
        observe("probabilities", ~suspicious, "logits", logits, why)
