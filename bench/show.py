"""Rows as a table in the terminal and as a report in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import markdown
from bench.machine import sentence
from bench.measure import FEW, PAUSE
from bench.reasons import slower
from bench.rows import Measured, Results, Row, fraction, limits, too_fast

HEADS = ["workload", "who", "ms", "ours / it", "memory MiB", "of the limit", "remarks"]
ABOUT = """# {device}

Written by `{command}`; all rounds are in the JSON of the machine, beside it. {machine}.

Medians of the rounds, in which all contenders of a row take turns in one process on all cores,
jitted in JAX, after their results were checked against ours; the pause before each is {pause} ms,
for the threads of one (torch's and XLA's are two pools) to sleep when another runs. The ratio has
a 95 % interval by resampling the rounds, or of less than {few} their range; *even* is one that
spans 1. Memory is what XLA allocates
besides inputs and outputs, or, marked *peak*, what one call adds to the resident memory of a fresh
process. The limit is the highest rate of the resource that binds which anything in this run
reached, with bytes and flops counted beside the workload."""


def cells(row: Row, limits: Mapping[str, float]) -> Iterator[list[str]]:
    reasons = dict(slower(row))
    for who, measured in row.contenders.items():
        first = measured is row.ours
        reached = fraction(row, measured, limits)
        ratio = None if first else row.ratio(who)
        yield [
            row.name if first else "",
            who,
            "" if measured.median is None else f"{1e3 * measured.median:.3g}",
            "" if ratio is None else str(ratio),
            _memory(measured),
            "" if reached is None else f"{reached:.2f}",
            "; ".join(_remarks(row, measured, first, reasons.get(who))),
        ]


def _memory(measured: Measured) -> str:
    if measured.memory is None:
        return ""
    return f"{measured.memory / 2**20:.3g}" + (" peak" if measured.peak is not None else "")


def _remarks(row: Row, measured: Measured, first: bool, reason: str | None) -> Iterator[str]:
    if measured.note:
        yield measured.note
    if reason is not None:
        yield reason or "faster, and it is not known why"
    for name, value in measured.figures.items():
        yield f"{name}: {value:.3g}"
    if first:
        yield from (f"MISSED: {miss}" for miss in row.misses())
        if row.note:
            yield row.note


def table(rows: list[Row], every: list[Row], title: str) -> Table:
    """Rows, whose limits are those of every row so far."""
    found, known = Table(*HEADS, title=title), limits(every)
    for row in rows:
        for line in cells(row, known):
            found.add_row(*line)
        found.add_section()
    return found


def save(results: Results, path: Path) -> None:
    """All rounds as JSON, and beside them the report."""
    results.save(path)
    markdown.save(path.with_suffix(".md"), report(results))


def report(results: Results, only: str = "") -> str:
    """Of all suites, or of one."""
    known = limits(results.rows)
    machine = results.machine
    about = ABOUT.format(
        device=machine["device"],
        command=machine["command"],
        machine=sentence(machine),
        pause=1e3 * PAUSE,
        few=FEW,
    )
    parts = [about]
    for suite in dict.fromkeys(row.suite for row in results.rows if only in ("", row.suite)):
        lines = [line for row in results.rows if row.suite == suite for line in cells(row, known)]
        parts.append(f"## {suite}\n\n{markdown.table(HEADS, lines)}")
    return "\n\n".join(parts) + "\n"


def summary(results: Results, console: Console) -> None:
    """What missed its bound, is slower for no known reason, or cannot be so fast: a line each."""
    missed = [(row, miss) for row in results.rows for miss in row.misses()]
    for row, miss in missed:
        console.print(f"missed: {row.suite}: {row.name}: {miss}", markup=False)
    unknown = [(row, who) for row in results.rows for who, why in slower(row) if not why]
    for row, who in unknown:
        ratio = row.ratio(who)
        console.print(f"slower: {row.suite}: {row.name}: {ratio} of {who}", markup=False)
    for row, times in too_fast(results.rows):
        said = f"too fast: {row.suite}: {row.name}: {times:.1f} of the machine's limit"
        why = "bytes or flops are miscounted, or the machine was busy while the limit was measured"
        console.print(f"{said}: {why}", markup=False)
    bounds = sum(len(row.bounds) for row in results.rows)
    compared = sum(row.compared() for row in results.rows)
    by_median = sum("by the interval's end" not in miss for _, miss in missed)
    console.print(
        f"{len(results.rows)} rows; {bounds} bounds, of which {compared} compared and "
        f"{len(missed)} missed, {by_median} of them by the median; "
        f"{len(unknown)} times slower than a peer without a reason"
    )
