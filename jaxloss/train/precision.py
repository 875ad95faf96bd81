"""In what a step computes, and the scale that keeps small gradients from vanishing in float16."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxloss.train.objective import wide

Tree = TypeVar("Tree")

_FIRST_SCALE, _SMALLEST_SCALE, _LARGEST_SCALE = 2.0**16, 1.0, 2.0**127
_STEPS_TO_GROW = 2000


@dataclasses.dataclass(frozen=True)
class Precision:
    """Mixed precision: the model computes in few bits, and its parameters are kept in many.

    Gradients are added over microbatches, clipped and applied in the dtype of `params`. The batch
    stays as it is: the loss function casts what goes into the model, and not the targets.

    Args:
        compute: The dtype in which the loss function sees the trained parameters.
        params: The dtype of the parameters in the state.
        loss_scale: What the loss is multiplied by before the backward pass, and the gradient
            divided by after it; "dynamic" starts at 2¹⁶, halves at each overflow down to 1, and
            doubles after 2000 steps without one. A step that overflows is not made.

    Raises:
        ValueError: `loss_scale` is neither "dynamic" nor a positive number.

    Example:
        >>> import optax
        >>> def loss_fn(w, x):
        ...     return jaxloss.squared_error(w * x.astype(w.dtype), x, reduction=jaxloss.stats)
        >>> half = jaxloss.Precision(compute=jnp.float16, loss_scale="dynamic")
        >>> step = jaxloss.make_train_step(loss_fn, optax.sgd(0.01), precision=half)
        >>> state, _ = step(step.init(jnp.array(2.0, jnp.float16)), jnp.array([0.1]))
        >>> print(state.params.round(4), state.params.dtype, state.loss_scale.scale)
        1.9998 float32 65536.0
    """

    compute: DTypeLike = jnp.bfloat16
    params: DTypeLike = jnp.float32
    loss_scale: float | Literal["dynamic"] | None = None

    def __post_init__(self) -> None:
        scale = self.loss_scale
        known = scale in (None, "dynamic") or (not isinstance(scale, str) and 0 < scale < math.inf)
        if not known:
            raise ValueError(
                f"loss_scale must be None, 'dynamic' or a positive number, got {scale!r}."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """The scale of the loss, and for how many steps in a row nothing has overflowed."""

    scale: Array
    steps: Array

    @classmethod
    def first(cls) -> LossScale:
        """Before the first step."""
        return cls(jnp.array(_FIRST_SCALE, jnp.float32), jnp.zeros((), jnp.int32))

    def after(self, overflow: Array) -> LossScale:
        """With one more step."""
        steps = jnp.where(overflow, 0, self.steps + 1)
        grown = steps == _STEPS_TO_GROW
        factor = jnp.where(overflow, 0.5, jnp.where(grown, 2.0, 1.0))
        scale = jnp.clip(factor * self.scale, _SMALLEST_SCALE, _LARGEST_SCALE)
        return LossScale(scale, jnp.where(grown, 0, steps))


def cast(tree: Tree, dtype: DTypeLike) -> Tree:
    """With floating leaves in a dtype."""
    return _floating(lambda leaf: leaf.astype(dtype), tree)


def computing(params: Tree, precision: Precision | None) -> Tree:
    """The parameters as the model sees them."""
    return params if precision is None else cast(params, precision.compute)


def with_gradient_times(tree: Tree, factor: ArrayLike) -> Tree:
    """The same tree, through which a gradient comes back multiplied."""
    return _floating(lambda leaf: _identity(leaf, jnp.asarray(factor, jnp.float32)), tree)


@jax.custom_jvp
def _identity(x: Array, factor: Array) -> Array:
    return x


@_identity.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, factor), (slope, _) = primals, tangents
    slope = wide(slope)
    return x, (factor.astype(slope.dtype) * slope).astype(x.dtype)


def _floating(function: Callable[[Array], Array], tree: Tree) -> Tree:
    return jax.tree.map(
        lambda leaf: function(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        jax.tree.map(jnp.asarray, tree),
    )
