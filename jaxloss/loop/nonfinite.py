"""The error with which `fit` ends at a step that was not finite."""

from __future__ import annotations

from jaxloss.loop.history import History
from jaxloss.train.nonfinite import Metrics
from jaxloss.train.step import TrainState


class NonFiniteError(FloatingPointError):
    """`fit` met a loss or a gradient that is not finite, and the step says "raise".

    A gradient that overflows is no error while the loss has a scale that can still be halved.

    Args:
        message: Which leaf it was, and when.
        state: The last good state: no update was made with what is not finite.
        history: What was recorded until then.

    Example:
        >>> import optax
        >>> step = jaxloss.make_train_step(lambda w, x: w * x, optax.sgd(0.1), nonfinite="raise")
        >>> batches = [jnp.array(1.0), jnp.array(jnp.nan)]
        >>> try:
        ...     jaxloss.fit(step, step.init(jnp.array(2.0)), batches, epochs=1, progress=False)
        ... except jaxloss.NonFiniteError as error:
        ...     print(error, error.state.params)
        step 2: the loss is not finite. ... 1.9
    """

    def __init__(self, message: str, state: TrainState, history: History) -> None:
        super().__init__(message)
        self.state, self.history = state, history


def is_fault(metrics: Metrics) -> bool:
    """Whether a step, by the metrics that were read, met what no smaller loss scale can mend."""
    scale = metrics.get("loss_scale")
    overflow = metrics["first_bad_leaf"] > 0 and scale is not None and scale.total > scale.weight
    return metrics["first_bad_leaf"] >= 0 and not overflow
