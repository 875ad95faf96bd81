"""What a person at the terminal sees of a training, and how they end it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point


@contextlib.contextmanager
def progress_bar(total: int | None, *, shown: bool) -> Iterator[Callable[[int, float], None]]:
    """A function that shows the number of steps made and the loss."""
    if not shown:
        yield lambda made, loss: None
        return
    try:
        from rich import progress
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "fit shows its progress with rich: pip install 'jaxloss[demo]', or say progress=False."
        ) from missing
    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("loss {task.fields[loss]}"),
        progress.TextColumn("{task.fields[speed]} steps/s"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns) as bar:
        task = bar.add_task("training", total=total, loss="-", speed="-")

        def show(made: int, loss: float) -> None:
            elapsed = bar.tasks[task].elapsed or float("inf")
            bar.update(task, completed=made, loss=f"{loss:.4g}", speed=f"{made / elapsed:.3g}")

        yield show


@contextlib.contextmanager
def endings(*watched: signal.Signals) -> Iterator[Callable[[int], signal.Signals | None]]:
    """A function that is told of every call of the step, and says by what signal it was the last.

    The second signal of a kind does what it did before. Processes that JAX connects end after the
    same call: it tells them all of the SIGTERM of one, and a Ctrl-C is passed on as that.
    """
    together = jax.distributed.is_initialized()
    came: list[signal.Signals] = []
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in watched if here}
    if together:
        before.pop(signal.SIGTERM, None)  # JAX has seen to it when it connected them
    ours = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}

    def note(number: int, _: object) -> None:
        came.append(signal.Signals(number))
        signal.signal(number, ours[signal.Signals(number)])
        if together:
            signal.raise_signal(signal.SIGTERM)

    def ending(call: int) -> signal.Signals | None:
        if together:
            return signal.SIGTERM if reached_preemption_sync_point(call) else None
        return came[-1] if came else None

    for number in ours:
        signal.signal(number, note)
    try:
        yield ending
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
