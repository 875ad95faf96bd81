"""When a loss has stopped falling."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxloss.core.statistics import Mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stops after `patience` values without a new best: a pytree, for `fit` or inside a jit.

    Args:
        patience: How many values in a row may pass without a new best; None never stops.
        min_delta: By how much a value must beat the best.
        rtol: The same, relative to the best.
        monitor: Which of the values that `evaluate` returns `fit` gives it.
        mode: Whether the least value is the best, or the greatest.
        best: The best value so far; NaN before there is one.
        since_best: How many values have passed since the best; 0 right after a new best.

    Raises:
        ValueError: `patience` is less than 1, or `mode` is neither "min" nor "max".

    Example:
        >>> stop = jaxloss.EarlyStop(patience=2)
        >>> for loss in 3.0, 2.0, 2.5, float("nan"):
        ...     stop = stop.update(loss)
        >>> print(stop.best, stop.should_stop)
        2.0 True
    """

    patience: int | None = dataclasses.field(default=5, metadata={"static": True})
    min_delta: float = dataclasses.field(default=0.0, metadata={"static": True})
    rtol: float = dataclasses.field(default=0.0, metadata={"static": True})
    monitor: str = dataclasses.field(default="loss", metadata={"static": True})
    mode: Literal["min", "max"] = dataclasses.field(default="min", metadata={"static": True})
    best: Array = dataclasses.field(default_factory=lambda: jnp.array(jnp.nan))
    since_best: Array = dataclasses.field(default_factory=lambda: jnp.array(0))

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be 1 or more, or None, got {self.patience}.")
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {self.mode!r}.")

    def update(self, value: ArrayLike | Mean) -> EarlyStop:
        """With one more value. NaN, an infinity and a mean of weight 0 are never a best."""
        if isinstance(value, Mean):
            value = jnp.where(value.weight == 0, jnp.nan, value.value())
        value = jnp.asarray(value, self.best.dtype)
        gain = self.best - value if self.mode == "min" else value - self.best
        enough = self.min_delta + self.rtol * jnp.abs(self.best)
        improved = jnp.isfinite(value) & (jnp.isnan(self.best) | (gain > enough))
        return dataclasses.replace(
            self,
            best=jnp.where(improved, value, self.best),
            since_best=jnp.where(improved, 0, self.since_best + 1),
        )

    @property
    def should_stop(self) -> Array:
        """Whether `patience` is used up."""
        return jnp.array(False) if self.patience is None else self.since_best >= self.patience
