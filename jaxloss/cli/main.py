"""The entry point: runs a command and turns what went wrong into one sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from jaxloss.cli.mistakes import INTERRUPTED, Mistake

_EXTRA = (
    "typer",
    "rich",
    "pandas",
    "sklearn",
    "flax",
    "grain",
    "matplotlib",
    "orbax",
    "tokenizers",
)


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line on `arguments`, which are those of the process unless given.

    Raises:
        SystemExit: Always, with code 0, or 2 after a mistake of the user, or 130 after Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, _leave)
    try:
        from jaxloss.cli.commands import app

        app(arguments, prog_name="jaxloss")
    except Mistake as mistake:
        _fail(str(mistake))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in _EXTRA:
            raise
        _fail(f"{package} is not installed: say pip install 'jaxloss[demo]'.")
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    """Ends the process, where there is nothing to save.

    An exception instead could fall into the import of an extension module, which Python would
    crash on at its end, or into a callback that swallows it.
    """
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\033[?25h\n")  # the cursor that a progress bar hid
    os._exit(INTERRUPTED)


def _fail(sentence: str) -> None:
    from jaxloss.cli import processes

    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}{sentence}{plain}", file=sys.stderr)
    processes.leave(2)
    raise SystemExit(2)
