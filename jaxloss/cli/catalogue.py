"""Which losses there are: families, names, other names, and what each one learns from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from types import ModuleType

import jaxloss
from jaxloss import losses
from jaxloss.cli.mistakes import Mistake, close
from jaxloss.core.statistics import Statistic


@dataclasses.dataclass(frozen=True)
class Entry:
    """One public loss."""

    name: str
    family: str
    loss: Callable[..., Statistic]  # when called with reduction=jaxloss.stats
    learns: str | None  # the kind of target, a key of `tasks.KINDS`; None: it fits no task
    names: tuple[str, ...]  # what others call it
    peers: tuple[str, ...]  # the calls that it replaces

    def rank(self, query: str) -> int | None:
        """How well the entry answers a search, 0 best; None if it does not."""
        wanted = query.lower().replace("_", " ")
        known = [name.lower().replace("_", " ") for name in (self.name, *self.names, *self.peers)]
        if wanted in known:
            return 0
        if any(f" {wanted}" in f" {name}" for name in known):
            return 1
        return 2 if any(wanted in name for name in [*known, self.family]) else None


@functools.cache
def entries() -> dict[str, Entry]:
    """Every public loss by name, family by family."""
    found = {}
    for info in pkgutil.iter_modules(losses.__path__):
        module = importlib.import_module(f"{losses.__name__}.{info.name}")
        for name, member in vars(module).items():
            here = inspect.isfunction(member) and member.__module__ == module.__name__
            if here and getattr(jaxloss, name, None) is member:
                found[name] = _entry(info.name, module, name, member)
    return found


def unit(family: str) -> str:
    """What a family counts: the first line of its module."""
    module = importlib.import_module(f"{losses.__name__}.{family}")
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


def _entry(family: str, module: ModuleType, name: str, loss: Callable[..., Statistic]) -> Entry:
    names, peers = also_known_as(inspect.getdoc(loss) or "")
    learns = getattr(module, "LEARNS", {}).get(name)
    return Entry(name, family, loss, learns, names, peers)


def also_known_as(documentation: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Other names of a loss and the peers' calls that it replaces, from its docstring."""
    section = re.search(r"^Also known as:\n((?: +.*\n?)+)", documentation, re.MULTILINE)
    text = section.group(1) if section else ""
    peer = re.compile(r"`(\w+(?:\.\w+)+)`")
    prose = [
        line[: found.start()].rpartition(";")[0] + ";" if (found := peer.search(line)) else line
        for line in text.splitlines()
    ]
    names = re.split(r"[,;.]", re.sub(r" \([^)]*\)|`", "", " ".join(map(str.strip, prose))))
    return tuple(name.strip() for name in names if name.strip()), tuple(peer.findall(text))
