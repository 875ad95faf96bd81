"""What only the data know: told to whom asked, and free where nobody did."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
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


def require(holds: Callable[[Array], bool | Array], name: str, array: Array, why: str) -> None:
    """Under `checked`, an error that names the first entry of which it does not hold."""
    if observing.value is not None:
        observe("argument", holds(array), name, array, why)


def require_signs(labels: Array, given: ArrayLike) -> None:
    """An error where the dtype given has no -1, and under `checked` if a label is not -1 or 1."""
    dtype = jnp.result_type(given)
    if jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.unsignedinteger):
        raise TypeError(
            f"labels must be -1 and 1, got {dtype}, which holds no -1: jnp.where(labels, 1, -1) "
            "makes signs of them."
        )
    require(lambda sign: jnp.abs(sign) == 1, "labels", labels, "a sign is -1 or 1")


def require_bits(labels: Array) -> None:
    """Under `checked`, an error that names the first label that is not 0 or 1."""
    require(lambda bit: (bit == 0) | (bit == 1), "labels", labels, "a label is 0 or 1")


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
