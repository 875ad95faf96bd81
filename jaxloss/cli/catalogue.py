"""Which losses there are: families, names, other names, and what each one learns from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable

import jaxloss
from jaxloss import fused, losses, parts
from jaxloss.cli.learns import LEARNS
from jaxloss.cli.mistakes import Mistake, close
from jaxloss.core.statistics import Statistic


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """A peer's call and the call of ours that takes its place.

    The arguments are letters: the same letter is the same array or number on both sides.
    """

    there: str
    here: str  # "" where the peer's is another formula
    note: str

    @property
    def peer(self) -> str:
        """The package that the call is from."""
        return self.there.split(".")[0]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One public function: a loss, or what losses are made of."""

    name: str
    family: str
    loss: Callable[..., Statistic]  # when called with reduction=jaxloss.stats
    learns: str | None  # the kind of target, a key of `tasks.KINDS`; None: it fits no task
    names: tuple[str, ...]  # what others call it
    counterparts: tuple[Counterpart, ...]  # the peers' calls that it replaces

    def rank(self, query: str) -> int | None:
        """How well the entry answers a search, 0 best; None if it does not."""
        wanted = query.lower().replace("_", " ")
        peers = (each.there.split("(")[0] for each in self.counterparts)
        known = [name.lower().replace("_", " ") for name in (self.name, *self.names, *peers)]
        if wanted in known:
            return 0
        if any(f" {wanted}" in f" {name}" for name in known):
            return 1
        return 2 if any(wanted in name for name in [*known, self.family]) else None


@functools.cache
def entries() -> dict[str, Entry]:
    """Every public loss by name, family by family, and then what losses are made of."""
    found = {}
    for package in (losses, fused, parts):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, member in vars(module).items():
                here = inspect.isfunction(member) and member.__module__ == module.__name__
                if here and getattr(jaxloss, name, None) is member:
                    found[name] = _entry(info.name, name, member)
    return found


def unit(entry: Entry) -> str:
    """What the loss counts: the first line of its module."""
    module = importlib.import_module(entry.loss.__module__)
    return (module.__doc__ or "").strip().splitlines()[0]


def find(name: str) -> Entry:
    """The loss of that name.

    Raises:
        Mistake: There is none; the sentence names those that it may have meant.
    """
    if name in entries():
        return entries()[name]
    near = [entry.name for entry in search(name) if entry.rank(name) == 0]
    near = near or close(name, entries()) or [entry.name for entry in search(name)][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "see jaxloss losses."
    raise Mistake(f"There is no loss {name!r}: {hint}")


def search(query: str) -> list[Entry]:
    """The losses whose name, other names or family contain the query, best first."""
    ranked = [(entry.rank(query), entry) for entry in entries().values()]
    hits = [(rank, entry) for rank, entry in ranked if rank is not None]
    return [entry for _, entry in sorted(hits, key=lambda hit: hit[0])]


def counterparts(peer: str, query: str = "") -> list[Counterpart]:
    """What takes the place of the peer's calls, family by family.

    Raises:
        Mistake: No loss stands for one of that peer's; the sentence names the peers there are.
    """
    every = [each for entry in entries().values() for each in entry.counterparts]
    if peer not in {each.peer for each in every}:
        known = ", ".join(sorted({each.peer for each in every}))
        raise Mistake(f"--peer is one of {known}, got {peer!r}.")
    found = [each for entry in search(query) for each in entry.counterparts if each.peer == peer]
    if not found:
        raise Mistake(f"Nothing of {peer} is about {query!r}: see jaxloss losses --peer {peer}.")
    return found


def _entry(family: str, name: str, loss: Callable[..., Statistic]) -> Entry:
    names, peers = also_known_as(inspect.getdoc(loss) or "")
    return Entry(name, family, loss, LEARNS.get(name), names, peers)


def also_known_as(documentation: str) -> tuple[tuple[str, ...], tuple[Counterpart, ...]]:
    """Other names of a loss, and a line for each peer's call that it replaces."""
    section = re.search(r"^Also known as:\n((?: +.*\n?)+)", documentation, re.MULTILINE)
    text = re.sub(r"\n {5,}", " ", section.group(1) if section else "")  # joins what is broken
    lines = [line.strip() for line in text.splitlines()]
    prose = " ".join(line for line in lines if not line.startswith("`"))
    names = re.split(r"[,;.]", re.sub(r" \([^)]*\)|`", "", prose))
    form = re.compile(r"`(?P<there>[^`]+)`(?:: `(?P<here>[^`]+)`)?(?:[:;,] (?P<note>.+))?")
    found = [form.fullmatch(line) for line in lines if line.startswith("`")]
    return (
        tuple(name.strip() for name in names if name.strip()),
        tuple(Counterpart(**each.groupdict(default="")) for each in found if each),
    )
