"""What a user did wrong, as one sentence, and how a command ends without a result."""

from __future__ import annotations

import difflib
from collections.abc import Collection

#: The exit code after Ctrl-C.
INTERRUPTED = 130
#: The exit codes of trainings that did not come to their end.
ENDED = {"interrupted": INTERRUPTED, "terminated": 143}


class Mistake(Exception):
    """A sentence for the user: what was wrong and what to do. Ends the command with code 2."""


def unknown(sentence: str, name: str, known: Collection[str]) -> Mistake:
    """A sentence such as "There is no loss", the name, and the `known` ones it may stand for."""
    near = close(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it is {_listed(known)}."
    return Mistake(f"{sentence} {name!r}: {hint}" if known else f"{sentence} {name!r}.")


def close(name: str, known: Collection[str]) -> list[str]:
    """The names most like `name`, best first, whatever their case."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    return [by_lower[one] for one in near]


def _listed(known: Collection[str]) -> str:
    return f"one of {', '.join(known)}" if len(known) > 1 else "".join(known)
