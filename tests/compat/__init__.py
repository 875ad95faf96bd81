"""Differential tests: our modules of a peer's names against the peer, by rows and entries.

A row is a call that both understand. The oracle is the peer in float64. In float32 we are given
inputs of many sizes and held to 8 eps of what one ulp of the inputs and of the result does to the
oracle; in float64 the inputs are of ordinary size. The oracle's own rounding is 8 of its eps of the
largest input, or of 1. An entry is a region where the peer is wrong: a row
keeps out of it, and the entry says what both do inside.

One module per peer mirrors `jaxloss/compat`; `test_compat.py` reads `PEERS` and names no loss.
"""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import os
import pkgutil
import tomllib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

EPS = 8
DRAWS = 6
STEP = 2.0**-20
UNITS = 8
CI = os.environ.get("CI") is not None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One call of a function, or one for each of its variants."""

    name: str
    # (generator, sizes) -> arrays in the order of the arguments, with UNITS units: float64, int or
    # bool; the sizes, [UNITS, 1], are to multiply what may be large or small
    arrays: Callable[[np.random.Generator, np.ndarray], tuple[Any, ...]]
    options: Mapping[str, Any]
    # further options, each a call of its own on the same arrays
    variants: tuple[Mapping[str, Any], ...] = ({},)
    # positions of the arrays that are differentiated; None: all floating ones
    by: tuple[int, ...] | None = None
    # the largest term that the loss subtracts from, if it is not an input (design §4.5)
    scale: float = 0.0
    # (function, *arrays, **options) -> one array, where the call is not `function(*arrays, ...)`
    through: Callable[..., Any] = lambda function, *args, **options: function(*args, **options)
    # whether the peer cannot be compiled
    eager: bool = False

    def calls(self) -> list[dict[str, Any]]:
        """The options of each variant."""
        return [{**self.options, **variant} for variant in self.variants]

    def __str__(self) -> str:
        return "-".join(
            [self.name, self.arrays.__name__, *(f"{k}={_text(v)}" for k, v in self.options.items())]
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A region of inputs where the peer is wrong."""

    name: str
    region: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    # what the peer gives for `args`, as it prints with five digits, or the name of its error
    theirs: str
    # the value for `args`, by mpmath or by definition
    truth: Callable[[], Any]
    reason: str
    # (*arrays, **options) -> whether each unit is in the region; None: no row comes near it
    inside: Callable[..., Any] | None = None
    # position of an argument: what is compared is the derivative in its first element
    slope: int | None = None
    through: Callable[..., Any] = Row.through

    def row(self) -> Row:
        """The call of the entry."""
        by = () if self.slope is None else (self.slope,)
        return Row(
            name=self.name,
            arrays=lambda rng, size: self.args,
            options=self.options,
            by=by,
            through=self.through,
        )

    def of(self, results: list[np.ndarray]) -> float:
        """The number that is compared, of one variant's value and gradients."""
        first = results[0 if self.slope is None else 1].flat[0]
        return first if self.slope is None else first / cotangent(results[0].shape).flat[0]

    def __str__(self) -> str:
        return f"{self.name}-{self.region}".replace(" ", "_")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Refusal:
    """A combination that the peer takes and we do not."""

    name: str
    # as the docstring says it
    what: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    # a part of the error
    says: str

    def __str__(self) -> str:
        return f"{self.name}-{self.what}".replace(" ", "_")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Peer:
    """A library, our module of its names, and what they are tested with."""

    name: str
    title: str
    # the module that has the losses, which is imported when a test asks for it
    losses: str
    # (name, function of the module) -> whether it is a loss
    is_loss: Callable[[str, Callable[..., Any]], bool]
    ours: ModuleType
    # (peer's function, row, differentiated positions) -> (arrays, cotangents) -> per variant
    # value and gradients
    oracle: Callable[..., Callable[..., Any]]
    rows: list[Row] = dataclasses.field(default_factory=list)
    entries: list[Entry] = dataclasses.field(default_factory=list)
    refused: list[Refusal] = dataclasses.field(default_factory=list)

    def theirs(self) -> dict[str, Callable[..., Any]]:
        """The peer's losses, imported now."""
        module = importlib.import_module(self.losses)
        return {
            name: function
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if self.is_loss(name, function)
        }

    def mine(self) -> dict[str, Callable[..., Any]]:
        """Our functions of the peer's names."""
        home = self.ours.__name__
        return {
            name: function
            for name, function in inspect.getmembers(self.ours, inspect.isfunction)
            if function.__module__.startswith(home) and not name.startswith("_")
        }

    def row(self, name: str, arrays: Callable[..., Any], **fields: Any) -> None:
        """Adds a row; what is not a field of a row is an option of the call."""
        own = {
            k: fields.pop(k) for k in ("variants", "by", "scale", "through", "eager") if k in fields
        }
        self.rows.append(Row(name=name, arrays=arrays, options=fields, **own))

    def entry(self, name: str, region: str, **fields: Any) -> None:
        """Adds an entry."""
        fields = {"options": {}, **fields}
        self.entries.append(Entry(name=name, region=region, **fields))

    def refuse(self, name: str, what: str, *args: Any, says: str, **options: Any) -> None:
        """Adds a combination that is refused."""
        self.refused.append(Refusal(name=name, what=what, args=args, options=options, says=says))

    def table(self) -> str:
        """What the docstring of our module ends with."""
        lines = [f"Where {self.title} is wrong, what it gives and what is given here:", ""]
        for e in self.entries:
            lines += [f"    {e.name}: {e.region}"]
            lines += [f"        {e.theirs}, here {float(e.truth()):.5g}: {e.reason}"]
        lines += ["", "What is refused, with a ValueError:", ""]
        return "\n".join([*lines, *dict.fromkeys(f"    {r.name}: {r.what}" for r in self.refused)])

    def is_pinned(self) -> bool:
        """Whether the peer is of the version that the `peers` extra names."""
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        extra = project["project"]["optional-dependencies"]["peers"]
        installed = importlib.metadata.version(self.name).split("+")[0]
        pinned = f"{self.name}=={installed}" in extra
        assert pinned or not CI, f"{self.name} {installed} is not what the peers extra pins"
        return pinned


PEERS: list[Peer] = []


def load() -> list[Peer]:
    """The peers that are installed."""
    for module in pkgutil.iter_modules(__path__):
        if importlib.util.find_spec(module.name):
            PEERS.append(importlib.import_module(f"{__name__}.{module.name}").PEER)
    return PEERS


def _text(value):
    if callable(value):
        return getattr(value, "__name__", "function")
    text = str(np.asarray(value).tolist()).replace(" ", "")
    return text if len(text) < 30 else f"{np.shape(value)}".replace(" ", "")


def is_float(array):
    return np.asarray(array).dtype.kind == "f"


def typed(value, dtype):
    """Floats in the dtype, integers in int32 and everything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return value.astype({"f": dtype, "i": np.int32}.get(value.dtype.kind, value.dtype))


def inputs_of(row, entries, dtype):
    """The row's arrays, without the units where the peer is wrong."""
    rng = np.random.default_rng(zlib.crc32(str(row).encode()))
    wide = 10 ** rng.uniform(-2, 1, (UNITS, 1))
    wide[-1] = 1e3
    size = np.ones((UNITS, 1)) if dtype == np.float64 else wide
    arrays = tuple(typed(np.asarray(a), dtype) for a in row.arrays(rng, size))
    for entry in entries:
        if entry.name == row.name and entry.inside:
            arrays = outside(arrays, np.asarray(entry.inside(*arrays, **row.options)))
    return arrays


def outside(arrays, bad):
    """Good units in the place of bad ones."""
    of_units = bad.reshape(UNITS, -1).any(axis=1) if bad.shape[:1] == (UNITS,) else bad.any()
    bad = np.broadcast_to(of_units, UNITS)
    assert not bad.all(), "every unit is in the region"
    take = np.where(bad, np.flatnonzero(~bad)[0], np.arange(UNITS))
    return tuple(a[take] if a.ndim and len(a) == UNITS else a for a in arrays)


def differentiated(row, arrays):
    return row.by if row.by is not None else tuple(i for i, a in enumerate(arrays) if is_float(a))


def of_jax(function, row, by):
    """(arrays) -> value and gradients of each variant, compiled with little effort."""

    def variants(*arrays):
        for options in row.calls():

            def call(*chosen, options=options):
                given = dict(enumerate(arrays)) | dict(zip(by, chosen, strict=True))
                return row.through(function, *given.values(), **options)

            value, pull = jax.vjp(call, *(arrays[i] for i in by)) if by else (call(), tuple)
            yield [value, *(pull(cotangent(value.shape).astype(value.dtype)) if by else ())]

    compiled = jax.jit(lambda *arrays: list(variants(*arrays)))
    return (lambda *arrays: list(variants(*arrays))) if row.eager else compiled


def cotangent(shape):
    """What the values are multiplied by before they are differentiated."""
    return (np.arange(math.prod(shape)) % 5 + 2).reshape(shape) / 4


def in_dtype(row, dtype):
    """The row with its array options in the dtype."""
    return dataclasses.replace(row, options={k: typed(v, dtype) for k, v in row.options.items()})


def check(function, oracle, row, entries, dtype):
    """Our values and gradients are within 8 eps of the condition of the oracle's.

    The oracle is a function of arrays, as `of_jax` gives it.
    """
    arrays = inputs_of(row, entries, dtype)
    wide, by = tuple(typed(a, np.float64) for a in arrays), differentiated(row, arrays)
    want, units = conditioned(oracle, wide)
    got = of_jax(function, dataclasses.replace(in_dtype(row, dtype), eager=False), by)(*arrays)
    largest = max([1.0, *(np.max(np.abs(a), initial=0, where=np.isfinite(a)) for a in wide)])
    least = EPS * (np.finfo(np.float64).eps * largest + np.finfo(dtype).tiny)
    names = ["value", *(f"gradient by argument {i}" for i in by)]
    for options, *results in zip(row.calls(), got, want, units, strict=True):
        for name, g, w, u in zip(names, *results, strict=True):
            allowed = EPS * np.finfo(dtype).eps * np.maximum(u, row.scale) + least
            agree(f"{row.name} {options} {name}", np.asarray(g), w, allowed)


def idle_options(peer, row):
    """The options of the row that change no value; those that an entry is about may.

    It asks the peer, to which the row has us equal.
    """
    function, arrays = peer.theirs()[row.name], inputs_of(row, peer.entries, np.float64)
    optional = {
        k for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty
    }
    known = {key for entry in peer.entries if entry.name == row.name for key in entry.options}
    keys = [k for k in row.options if k in optional - known]
    calls = [{k: v for k, v in row.options.items() if k != without} for without in [None, *keys]]
    chosen = dataclasses.replace(row, options={}, variants=calls)
    try:
        values = peer.oracle(function, chosen, ())(*arrays) if keys else [[0]]
    except ValueError:  # a call without it is none
        return []
    first, *others = ([np.asarray(value) for value in results] for results in values)
    return [k for k, other in zip(keys, others, strict=True) if same(first[0], other[0])]


def same(a, b):
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def conditioned(oracle, arrays):
    """What the oracle says, and how far an ulp of each input and of the result moves it."""
    rng = np.random.default_rng(1)
    count = sum(a.size for a in arrays if is_float(a)) / UNITS
    base, moves = numbers(oracle(*arrays)), []
    for _ in range(DRAWS):
        # a probability of 1 stays one
        nudged = tuple(
            a * (1 + (a != 1) * STEP * rng.normal(size=a.shape)) if is_float(a) else a
            for a in arrays
        )
        moves.append(numbers(oracle(*nudged)))
    with np.errstate(invalid="ignore"):
        units = [
            [
                (count * np.mean([np.nan_to_num(m[i][j] - w) ** 2 for m in moves], 0)) ** 0.5 / STEP
                + np.abs(w)
                for j, w in enumerate(results)
            ]
            for i, results in enumerate(base)
        ]
    return base, units


def numbers(variants):
    return [[np.asarray(result, np.float64) for result in results] for results in variants]


def printed(peer, entry, row):
    """What the peer gives for an entry."""
    try:
        (results,) = numbers(peer.oracle(peer.theirs()[entry.name], row, row.by)(*entry.args))
    except Exception as error:
        return type(error).__name__
    return f"{entry.of(results):.5g}"


def agree(what, got, want, allowed):
    """Equal where the oracle is not finite, and elsewhere as near as is allowed."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, the peer's {want.shape}"
    finite = np.isfinite(want)
    with np.errstate(invalid="ignore"):
        share = np.abs(got.astype(np.float64) - want) / allowed
    bad = np.where(finite, ~(share <= 1), ~((got == want) | (np.isnan(got) & np.isnan(want))))
    worst = np.argmax(np.where(finite, share, np.inf) * bad) if bad.any() else 0
    assert not bad.any(), (
        f"{what}: {bad.sum()} of {bad.size} differ, of which number {worst} by "
        f"{EPS * share.flat[worst]:.3g} eps: {got.flat[worst]}, the peer {want.flat[worst]}"
    )
