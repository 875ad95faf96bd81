"""The first line of every loss: check, convert, blank what is masked.

What is known when a loss is traced (shapes, dtypes, options that are Python numbers) raises
there. What only the data know is an error under `checked`, and otherwise NaN or nothing.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxloss.core.checks import observe, observing, require


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


def elementwise(
    where: ArrayLike | None, *, fill: Mapping[str, float] | None = None, **arrays: ArrayLike
) -> list[Array]:
    """As `paired`, for one function of `closed_form`, in which halves become float32.

    It is the only one that takes them: gradients of two would be rounded before they are added.
    """
    return _paired(where, 0, fill or {}, arrays, halves=True)


def _paired(
    where: ArrayLike | None,
    features: int,
    fill: Mapping[str, float],
    arrays: Mapping[str, ArrayLike],
    *,
    halves: bool = False,
) -> list[Array]:
    first, *_ = arrays
    converted = _floats(arrays, halves=halves)
    for name, array in zip(arrays, converted, strict=True):
        if array.shape != converted[0].shape:
            raise ValueError(
                f"{name} must have the shape of {first}, got {array.shape} and "
                f"{converted[0].shape}; nothing is broadcast."
            )
    if converted[0].ndim < features:
        raise ValueError(f"{first} must have {features} axes or more, got {converted[0].shape}.")
    blanked = []
    for name, array in zip(arrays, converted, strict=True):
        array = blank(array, where, features=features, fill=fill.get(name, 0))
        require(RANGES["a number"], name, array, "it must be a number")
        blanked.append(array)
    return blanked


def labelled(
    where: ArrayLike | None, *, logits: ArrayLike, labels: ArrayLike, parts: int
) -> tuple[Array, Array]:
    """Float logits `[*units, classes]`, one of equal `parts` of the classes, and class indices.

    A label out of range makes its logits NaN, and so the loss and their gradient.
    """
    logits, labels, loud = labelled_apart(where, logits=logits, labels=labels, parts=parts)
    return logits * loud[..., None], labels


def labelled_apart(
    where: ArrayLike | None,
    *,
    logits: ArrayLike,
    labels: ArrayLike,
    name: str = "logits",
    fill: float = 0,
    absent: float = -jnp.inf,
    parts: int = 1,
    halves: bool = False,
) -> tuple[Array, Array, Array]:
    """Float logits `[*units, classes]` and class indices `[*units]`; `name` is what errors say.

    The third array is NaN where a label is out of range, else 1: a factor of what the unit costs,
    or of its label's logit. XLA on CPU stores logits that are multiplied and read more than once.
    With `halves` these stay so, as in `elementwise`.
    """
    (logits,) = _paired(where, 1, {name: fill}, {name: logits}, halves=halves)
    labels = _integers(where, labels, name, logits)
    logits = with_a_class(logits, absent)
    loud, labels = _known(labels, parts * logits.shape[-1], logits)
    return logits, labels, loud


def headed(
    where: ArrayLike | None,
    *,
    labels: ArrayLike,
    class_axis: int = 1,
    parts: int = 1,
    **arrays: ArrayLike,
) -> tuple[Array, Array, Array]:
    """Floats `[*units, features]`, a matrix of the classes, and class indices `[*units]`.

    All units share the matrix, which may be one of equal `parts` of the classes. A label out of
    range makes the features of its unit NaN.
    """
    name, matrix_name = arrays
    rows, matrix = projected(where, class_axis=class_axis, **arrays)
    labels = _integers(where, labels, name, rows)
    classes = jnp.shape(arrays[matrix_name])[class_axis]
    loud, labels = _known(labels, parts * classes, rows)
    return rows * loud[..., None], matrix, labels


def projected(
    where: ArrayLike | None, *, class_axis: int = 1, **arrays: ArrayLike
) -> tuple[Array, Array]:
    """Floats `[*units, features]`, and a matrix of the classes, of which there is one at least."""
    (name, matrix_name), (rows, matrix) = arrays, floats(**arrays)
    if matrix.ndim != 2 or not rows.ndim or matrix.shape[1 - class_axis] != rows.shape[-1]:
        raise ValueError(
            f"{matrix_name} must have two axes, of which axis {1 - class_axis} is as long as the "
            f"last one of {name}, got {matrix.shape} and {rows.shape}."
        )
    (rows,) = _paired(where, 1, {}, {name: rows})
    require(RANGES["a number"], matrix_name, matrix, "it must be a number")
    if matrix.shape[class_axis] == 0:
        matrix = jnp.zeros((rows.shape[-1], 1) if class_axis else (1, rows.shape[-1]), rows.dtype)
    return rows, matrix


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


def integers(labels: ArrayLike, name: str = "labels") -> Array:
    """Labels of any integer dtype, in one that holds the number of classes too."""
    dtype = jnp.result_type(labels)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {dtype}.")
    wide = jax.dtypes.canonicalize_dtype("int64" if jnp.iinfo(dtype).max > 2**31 else "int32")
    if isinstance(labels, np.ndarray) and _wraps(labels, wide):
        raise ValueError(
            f"{name} of {labels.dtype} must fit {wide}, got up to {np.abs(labels).max()}: number "
            "them anew, or set jax_enable_x64."
        )
    return jnp.asarray(labels).astype(wide)


def _wraps(labels: np.ndarray, wide: np.dtype) -> bool:
    return labels.itemsize > wide.itemsize and not np.array_equal(labels, labels.astype(wide))


def _known(labels: Array, classes: int, like: Array) -> tuple[Array, Array]:
    """NaN where a label is out of range, else 1; and labels that are not, in its place 0."""
    known = (labels >= 0) & (labels < classes)
    require(lambda _: known, "labels", labels, f"a class index is in [0, {classes})")
    return jnp.where(known, 1, jnp.nan).astype(wide_dtype(like.dtype)), jnp.where(known, labels, 0)


def distributed(
    where: ArrayLike | None, *, logits: ArrayLike, labels: ArrayLike
) -> tuple[Array, Array]:
    """Float logits and distributions over their classes, both `[*units, classes]`."""
    logits, labels = paired(where, features=1, logits=logits, labels=labels)
    require_probabilities(labels=labels)
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
    require(RANGES["a number"], name, array, "it must be a number")
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
    return _floats(arrays)


def _floats(arrays: Mapping[str, ArrayLike], *, halves: bool = False) -> list[Array]:
    (first, *_), converted = arrays, [jnp.asarray(array) for array in arrays.values()]
    if not jnp.issubdtype(converted[0].dtype, jnp.floating):
        raise TypeError(f"{first} must be floating, got {converted[0].dtype}.")
    for name, array in zip(arrays, converted, strict=True):
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got {array.dtype}.")
    dtype = wide_dtype(converted[0].dtype)
    kept = (jnp.bfloat16, jnp.float16) if halves and dtype == jnp.float32 else ()
    return [array if array.dtype in kept else array.astype(dtype) for array in converted]


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """float64 for float64, and float32 for anything else."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def option(
    name: str, value: ArrayLike, like: Array, *, must_be: str, entries: bool = False
) -> Array:
    """One number in the dtype of `like`, or float32 if that is wider.

    With `entries` it may also be one per entry of the last axis of `like`.

    A Python number is checked here, an array (it may be traced) under `checked`.
    """
    holds = RANGES[must_be]
    if isinstance(value, numbers.Real) and not holds(value):
        raise ValueError(f"{name} must be {must_be}, got {value}.")
    array = jnp.asarray(value).astype(wide_dtype(like.dtype))
    allowed = ((), like.shape[-1:]) if entries else ((),)
    if array.shape not in allowed:
        also = f" or one per entry of the last axis, {like.shape[-1:]}" if entries else ""
        raise ValueError(f"{name} must be one number{also}, got shape {array.shape}.")
    require(holds, name, array, f"it must be {must_be}")
    return array.reshape((1,) * (like.ndim - 1) + array.shape) if array.ndim else array


RANGES: dict[str, Callable[..., bool | Array]] = {
    "a number": lambda value: value == value,
    "positive": lambda value: value > 0,
    "1 or more": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "in [0, 1]": lambda value: (value >= 0) & (value <= 1),
    "in [0, π]": lambda value: (value >= 0) & (value <= jnp.pi),
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
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # which JAX narrows, and does not wrap around
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


def require_probabilities(**arrays: Array) -> None:
    """Under `checked`, an error that names the first entry outside [0, 1]."""
    for name, array in arrays.items():
        require(RANGES["in [0, 1]"], name, array, "a probability is in [0, 1]")


def warn_of_probabilities(logits: Array, where: ArrayLike | None) -> None:
    """Under `checked`, a warning where every row of `logits` looks like a softmax output."""
    if observing.value is not None:
        masked = jnp.zeros((), bool) if where is None else ~jnp.asarray(where)
        kept = ~spread("where", masked, logits.shape[:-1])
        sums_to_one = jnp.abs(jnp.sum(logits, axis=-1, dtype=wide_dtype(logits.dtype)) - 1) < 1e-3
        row = jnp.all((logits >= 0) & (logits <= 1), axis=-1) & sums_to_one
        suspicious = jnp.all(row | ~kept) & jnp.any(kept)
        why = (
            "every row is in [0, 1] and sums to 1; pass what goes into the softmax, or use a loss "
            "that takes probabilities"
        )
        observe("probabilities", ~suspicious, "logits", logits, why)
