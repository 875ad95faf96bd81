"""The folder of a run: every file appears whole, under its name, or not at all.

Of several processes the first one writes it, and the others only know its name.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxloss.cli.mistakes import Mistake
from jaxloss.cli.processes import is_first


def create(out: Path | None, name: str) -> Path:
    """`out`, or a new folder `runs/<time>-<name>`."""
    stem = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    path = out or stem
    try:
        for count in range(2, 1000):
            if out is not None or not path.exists():
                break
            path = stem.with_name(f"{stem.name}-{count}")
        if is_first():
            path.mkdir(parents=True, exist_ok=out is not None)
    except OSError as error:
        raise Mistake(f"The folder {path} cannot be made: {error.strerror}.") from None
    return path


def check(out: Path | None, config: Mapping[str, object], *, resume: bool) -> None:
    """Whether `out` can be written to, or a run of this configuration goes on in it.

    Raises:
        Mistake: There are checkpoints and it does not, or none and it should, or it was another.
    """
    found = out is not None and (out / "checkpoints").exists()
    if found and not resume:
        raise Mistake(f"{out} has checkpoints of a run: say --resume, or give another --out.")
    if not resume:
        return
    if out is None or not found:
        what = "needs --out and the folder of the run" if out is None else f"finds none in {out}"
        raise Mistake(f"--resume {what}: only a run with --checkpoint-every has checkpoints.")
    then, now = _read(out / "config.json"), json.loads(_text(config))
    for name in now:
        if name != "versions" and then.get(name) != now[name]:
            raise Mistake(
                f"--resume goes on with the options of the run in {out}, whose {name} is "
                f"{then.get(name)} and not {now[name]}."
            )


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Mistake(f"{path}, the options of the run, cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise Mistake(f"{path} holds no options of a run.")
    return found


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, which then takes its place."""
    if not is_first():
        return
    temporary = path.with_name(f".{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_json(path: Path, content: object) -> None:
    """`content` as readable JSON, in which a number that is not finite is null."""
    save(path, lambda temporary: temporary.write_text(_text(content)))


def _text(content: object) -> str:
    return f"{json.dumps(_finite(content), indent=2, allow_nan=False)}\n"


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
