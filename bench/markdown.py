"""Reports in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(text: str) -> list[dict[str, str]]:
    """Of the one table in a text, by its heads."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    heads, _, *cells = lines
    return [dict(zip(heads, each, strict=True)) for each in cells]


def versions(peers: Iterable[str]) -> str:
    """Of what a report depends on, with the peers that are installed."""
    names = ["jax", "optax", *(name for name in peers if find_spec(name))]
    return ", ".join([*(f"{name} {version(name)}" for name in names), _python()])


def _python() -> str:
    return f"Python {platform.python_version()}"


def save(path: Path, text: str) -> None:
    """The file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
