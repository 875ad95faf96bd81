"""What a person at the terminal sees of a training, and how they end it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


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
def first_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that it never falls between a step and its result."""
    requested, previous = threading.Event(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield requested
        return

    def request(*_: object) -> None:
        requested.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, request)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, previous)
