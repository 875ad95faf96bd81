"""What an Optax optimizer wants to know beside the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import optax
from jax import Array
from jaxtyping import PyTree

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


def extra_args(
    optimizer: Optimizer,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> dict[str, object]:
    """The keywords for `optimizer.update`, found by tracing it."""
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
    raise refusals[0]
