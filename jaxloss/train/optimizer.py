"""An Optax update, with what the optimizer wants to know beside the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import optax
from jax import Array

from jaxloss.train.objective import PyTree

Optimizer: TypeAlias = optax.GradientTransformation | optax.MultiSteps

# No single set suits all: a line search refuses an argument that it does not know, the opaque
# mode of SAM refuses every one but its own, and so on. The first set that an optimizer takes.
_EXTRA_ARGS = (
    ("value", "grad", "value_fn"),
    ("value", "grad", "value_fn", "grad_fn", "obj_fn"),
    ("grad_fn",),
    ("value",),
    (),
)


def initial_state(optimizer: Optimizer, params: PyTree) -> PyTree:
    """`optimizer.init`, under the promotion of dtypes that Optax relies on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return optimizer.init(params)


def updated(
    optimizer: Optimizer,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> tuple[PyTree, PyTree]:
    """The parameters and the state of the optimizer after an update."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        extra = _extra_args(optimizer, grads, opt_state, params, value, value_fn)
        updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state


def _extra_args(
    optimizer: Optimizer,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> dict[str, object]:
    """What the optimizer takes beside the gradient, found by tracing it."""
    if not isinstance(optimizer, (optax.GradientTransformationExtraArgs, optax.MultiSteps)):
        return {}
    available = {
        "value": value,
        "grad": grads,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": lambda params, _=0: jax.grad(value_fn)(params),
    }
    refusals = []
    for names in _EXTRA_ARGS:
        chosen = {name: available[name] for name in names}
        update = functools.partial(optimizer.update, **chosen)
        try:
            jax.eval_shape(update, grads, opt_state, params)
        except (TypeError, ValueError) as refusal:
            refusals.append(refusal)
        else:
            return chosen
    raise TypeError(
        "optimizer.update takes none of the extra arguments that a step has to give: "
        + "; ".join(
            f"{names}: {refusal}" for names, refusal in zip(_EXTRA_ARGS, refusals, strict=True)
        )
    )
