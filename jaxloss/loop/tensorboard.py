"""The curves of a training in TensorBoard."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import TypeAlias

from jaxloss.loop.history import History
from jaxloss.train.step import TrainState

WriteRow: TypeAlias = Callable[[int, dict[str, float]], object]


def tensorboard(path: str | os.PathLike[str]) -> Callable[[TrainState, History], None]:
    """A callback of `fit` that writes each row of the history for TensorBoard.

    What a training that was killed wrote after its last checkpoint is hidden when it goes on.

    Args:
        path: The folder of the events.

    Returns:
        A function of the state and the history, for `callbacks=`.

    Raises:
        ModuleNotFoundError: tensorboardX is missing, and clu as well.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     jaxloss.tensorboard(folder).__name__
        'write'
    """
    open_at = _opener(os.fspath(path))
    write_row: WriteRow | None = None

    def write(state: TrainState, history: History) -> None:
        nonlocal write_row
        step = int(history.steps[-1])
        write_row = write_row or open_at(step)
        write_row(step, {name: history.last(name) for name in history.names})

    return write


def _opener(path: str) -> Callable[[int], WriteRow]:
    """Opens the events, of which those from a step on are to be hidden."""
    with contextlib.suppress(ModuleNotFoundError):
        import tensorboardX

        def open_at(step: int) -> WriteRow:
            events = tensorboardX.SummaryWriter(path, purge_step=step, flush_secs=5)

            def write_row(step: int, row: dict[str, float]) -> None:
                for name, value in row.items():
                    events.add_scalar(name, value, step)

            return write_row

        return open_at
    try:
        metric_writers = importlib.import_module("clu.metric_writers")
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "tensorboard writes through tensorboardX: pip install tensorboardX."
        ) from missing
    return lambda step: metric_writers.SummaryWriter(path).write_scalars
