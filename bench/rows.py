"""What a run is made of: rows of contenders with all their rounds, and the limits they came near.

A row counts the bytes and the flops that its mathematics needs; how near a contender came to the
machine's limit is these by its time, over the highest such rate of any row of the run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Program, Ratio

FAR = 2.0  # a small array may be read in the cache, which the suite `limit` does not time
SIZES = ((2**25, "up to 32 MiB"), (2**28, "up to 256 MiB"), (float("inf"), "above 256 MiB"))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a workload cannot do without: bytes read, bytes of fresh outputs, flops of products."""

    read: float = 0
    written: float = 0
    flops: float = 0
    dtype: str = "float32"

    def amounts(self) -> dict[str, float]:
        """How much of each resource: memory by what is done to it and by its size."""
        moved = self.read + self.written
        how = "reading" if self.written < 0.01 * self.read else "into fresh outputs"
        size = next(name for most, name in SIZES if moved <= most)
        found = {f"{how}, {size}": moved, f"products of {self.dtype}": self.flops}
        return {resource: amount for resource, amount in found.items() if amount}


NONE = Work()


@dataclasses.dataclass
class Measured:
    """One contender of a row: its rounds, its memory, other figures, and what is to be said."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    temporaries: int | None = None
    peak: int | None = None
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, program: Program, calls: int = 1) -> Measured:
        seconds = [second / calls for second in program.seconds]
        return cls(seconds, program.temporaries, note=program.wrong)

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def memory(self) -> int | None:
        return self.temporaries if self.peak is None else self.peak


@dataclasses.dataclass
class Row:
    """A workload: the first contender is ours."""

    suite: str
    name: str
    contenders: dict[str, Measured]
    work: Work = NONE
    # of "CONTENDER time" or "CONTENDER memory": at most how many times theirs ours may be
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def ours(self) -> Measured:
        return next(iter(self.contenders.values()))

    def ratio(self, who: str) -> Ratio | None:
        """Our time over theirs."""
        theirs = self.contenders[who]
        if theirs is self.ours or not (theirs.seconds and self.ours.seconds):
            return None
        return Ratio.of(self.ours.seconds, theirs.seconds)

    def misses(self) -> list[str]:
        """Which bounds are not met, in words."""
        found = []
        for key, bound in self.bounds.items():
            who, _, what = key.rpartition(" ")
            theirs = self.contenders.get(who, Measured())
            if what == "time" and (ratio := self.ratio(who) if theirs.seconds else None):
                if not ratio.meets(bound):
                    end = ", by the interval's end" if ratio.middle <= bound else ""
                    found.append(f"time {ratio} of {who}, bound {bound:.2f}{end}")
            mine, other = self.ours.memory, theirs.memory
            if what == "memory" and mine is not None and other and mine > 1.03 * bound * other:
                found.append(f"memory {mine / other:.3f} of {who}, bound {bound:.2f}")
        return found

    def compared(self) -> int:
        """How many bounds there are of peers that were measured."""
        who = [key.rpartition(" ")[0] for key in self.bounds]
        return sum(bool(self.contenders.get(each, Measured()).seconds) for each in who)

    def rates(self) -> dict[str, float]:
        """The highest rate of each resource that a contender reached."""
        times = [m.median for m in self.contenders.values() if m.median]
        amounts = self.work.amounts() if times else {}
        return {resource: amount / min(times) for resource, amount in amounts.items()}


def limits(rows: Iterable[Row]) -> dict[str, float]:
    """The highest rate of each resource that anything in the run reached."""
    found: dict[str, float] = {}
    for row in rows:
        for resource, rate in row.rates().items():
            found[resource] = max(rate, found.get(resource, 0))
    return found


def too_fast(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """What is far above the best round of the suite `limit`, and how many times that it reached.

    Its bytes or flops are miscounted, or the machine was busy all the time that `limit` took.
    """
    best: dict[str, float] = {}
    for row in rows:
        if row.suite == "limit" and row.ours.seconds:
            for resource, amount in row.work.amounts().items():
                best[resource] = max(amount / min(row.ours.seconds), best.get(resource, 0))
    for row in rows:
        times = [rate / best[name] for name, rate in row.rates().items() if name in best]
        if max(times, default=0) > FAR:
            yield row, max(times)


def fraction(row: Row, measured: Measured, limits: Mapping[str, float]) -> float | None:
    """Of the limit that binds: the least time that the row's work takes, by the time it took."""
    amounts = row.work.amounts()
    if measured.median is None or not amounts:
        return None
    return max(amount / limits[resource] for resource, amount in amounts.items()) / measured.median


@dataclasses.dataclass
class Results:
    """A run on a machine."""

    machine: dict[str, Any]
    rows: list[Row]

    def save(self, path: Path) -> None:
        """The file appears when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), separators=(",", ":"), default=float)
        partial = path.with_suffix(".partial")
        partial.write_text(text.replace('{"suite"', '\n{"suite"') + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        found = json.loads(path.read_text())
        rows = [
            Row(
                **{
                    **row,
                    "work": Work(**row["work"]),
                    "contenders": {k: Measured(**v) for k, v in row["contenders"].items()},
                }
            )
            for row in found["rows"]
        ]
        return cls(found["machine"], rows)
