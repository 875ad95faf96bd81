"""Errors of every loss and of its peers against 110 digits: a report of its own, accuracy.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench import accuracy, oracles
from bench.rows import Measured, Row
from bench.workload import Options

OUT = Path(__file__).parent.parent / "results" / "accuracy.md"
QUICK = ("squared_error", 24)
ENOUGH = 2000  # points of a loss and dtype


def rows(options: Options) -> Iterator[Row]:
    """Quick: one loss and few points, whose report is not kept."""
    losses, points = QUICK if options.quick else (options.losses, options.points)
    whole = not losses and points >= ENOUGH and len(oracles.PEERS) == 3
    out = OUT if whole else OUT.with_name(".accuracy-of-some.md")
    cases = [case for case in accuracy.first_rows() if losses in case.loss.__name__]
    if not cases:
        note = f"cannot: no loss has {losses!r} in its name"
        yield Row("accuracy", losses, {"jaxloss": Measured(note=note)})
        return
    accuracy.report(cases, points, oracles.PEERS, out, Console(width=200, quiet=options.quick))
    note = (
        "see accuracy.md"
        if whole
        else "not kept: accuracy.md has every loss, 2000 points and all peers"
    )
    if not whole:
        out.unlink()
    yield Row(
        "accuracy", f"{losses or 'every loss'}, {points} points", {"jaxloss": Measured(note=note)}
    )
