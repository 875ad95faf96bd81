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
def signals(*watched: signal.Signals) -> Iterator[list[int]]:
    """Those that have come, so that none falls between a step and its result.

    The second one of a kind does what it did before.
    """
    came: list[int] = []
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in watched if here}
    ours = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, ours[signal.Signals(number)])

    for number in ours:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
