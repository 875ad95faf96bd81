"""What became slower between two runs, beyond noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console

from bench.measure import Ratio
from bench.rows import Results, Row

BEYOND = 1.05  # the interval's lower end


def main(before: Results, after: Results, console: Console) -> int:
    """Prints what became slower or larger, or no longer runs; 1 if anything did.

    2 where the two cannot be compared.
    """
    devices = [results.machine.get("device", "unknown") for results in (before, after)]
    if devices[0] != devices[1]:
        console.print(f"The devices are two, {devices[0]} and {devices[1]}: compare runs of one.")
        return 2
    known = {(row.suite, row.name) for row in before.rows}
    common = [row for row in after.rows if (row.suite, row.name) in known]
    if not common:
        console.print("The two have no row in common: compare runs of the same suites.")
        return 2
    console.print(f"{len(common)} rows in common, of {len(before.rows)} and {len(after.rows)}")
    slower = list(worse(before, after))
    for line in slower:
        console.print(line, markup=False)
    console.print(f"{len(slower)} rows became slower or larger")
    return 1 if slower else 0


def worse(before: Results, after: Results) -> Iterator[str]:
    known = {(row.suite, row.name): row for row in before.rows}
    for row in after.rows:
        old = known.get((row.suite, row.name))
        if old is None:
            continue
        if old.ours.seconds and not row.ours.seconds:
            yield f"{row.suite}: {row.name}: no longer runs: {row.ours.note}"
        change = _change(old, row)
        if change and change.low > BEYOND:
            yield f"{row.suite}: {row.name}: {change} of the time before"
        was, now = old.ours.memory, row.ours.memory
        if was is not None and now is not None and now > BEYOND * was + 2**20:
            yield f"{row.suite}: {row.name}: {now / 2**20:.0f} MiB, before {was / 2**20:.0f}"


def _change(old: Row, new: Row) -> Ratio | None:
    """Of our time; where a peer ran in both, of our time over the peers', which drift as we do."""
    if not (old.ours.seconds and new.ours.seconds):
        return None
    shared = [
        who
        for who in list(new.contenders)[1:]
        if new.contenders[who].seconds and who in old.contenders and old.contenders[who].seconds
    ]
    return Ratio.of(_relative(new, shared), _relative(old, shared))


def _relative(row: Row, peers: list[str]) -> list[float]:
    ours = np.asarray(row.ours.seconds)
    if not peers:
        return ours.tolist()
    theirs = [np.asarray(row.contenders[who].seconds) for who in peers]
    return (ours / np.exp(np.mean([np.log(t) for t in theirs], axis=0))).tolist()
