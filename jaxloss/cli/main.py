"""The entry point: runs a command and turns what went wrong into one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxloss.cli.mistakes import Mistake

_EXTRA = ("typer", "rich", "pandas", "sklearn", "flax", "grain", "matplotlib")


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line on `arguments`, which are those of the process unless given.

    Raises:
        SystemExit: Always, with code 0, or 2 after a mistake of the user.
    """
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


def _fail(sentence: str) -> None:
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}{sentence}{plain}", file=sys.stderr)
    raise SystemExit(2)
