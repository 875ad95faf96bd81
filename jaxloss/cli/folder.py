"""The folder of a run: every file appears whole, under its name, or not at all."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from jaxloss.cli.mistakes import Mistake


def create(out: Path | None, name: str) -> Path:
    """`out`, or a new folder `runs/<time>-<name>`."""
    stem = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    path = out or stem
    try:
        for count in range(2, 1000):
            if out is not None or not path.exists():
                break
            path = stem.with_name(f"{stem.name}-{count}")
        path.mkdir(parents=True, exist_ok=out is not None)
    except OSError as error:
        raise Mistake(f"The folder {path} cannot be made: {error.strerror}.") from None
    return path


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, which then takes its place."""
    temporary = path.with_name(f".{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror}.") from None


def save_json(path: Path, content: object) -> None:
    """`content` as readable JSON, in which a number that is not finite is null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    save(path, lambda temporary: temporary.write_text(f"{text}\n"))


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
