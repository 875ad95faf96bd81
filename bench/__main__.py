"""Side by side with the peers and with the machine's limit.

`python -m bench [SUITE...]` measures; `compare OLD.json NEW.json` says what became slower, and
`readme` writes the reports and the README's section from the committed results.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 200)
    if sys.argv[1:2] == ["compare"]:
        return _compare(sys.argv[2:], console)
    if sys.argv[1:2] == ["readme"]:
        return _readme(sys.argv[2:])
    return measure(_parsed(sys.argv[1:]), console)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    from bench.suites import NAMES

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", nargs="*", help=f"of {', '.join(NAMES)}; all of them")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds, not kept")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="JAX's default")
    parser.add_argument("--peers", default="", help="names with commas, or none; all of them")
    parser.add_argument("--rounds", type=_positive, help="15, or 5 if quick")
    parser.add_argument("--json", type=Path, help="the results; bench/results/DEVICE.json if whole")
    parser.add_argument("--plots", type=Path, help="a folder for pictures")
    parser.add_argument(
        "--points",
        type=_positive,
        help="of accuracy, per loss and dtype: 2000, or 200 of a whole run",
    )
    parser.add_argument("--losses", default="", help="of accuracy: part of a name")
    options = parser.parse_args(arguments)
    if options.json and options.json.suffix == ".md":
        parser.error(f"--json {options.json} is where the report goes: name it .json")
    if options.json and (why := _unwritable(options.json.parent)):
        parser.error(f"--json {options.json} cannot be written: {why}")
    if options.plots and options.plots.exists() and not options.plots.is_dir():
        parser.error(f"--plots {options.plots} is a file: name a folder")
    if unknown := set(options.suite) - set(NAMES):
        parser.error(f"there is no suite {', '.join(unknown)}: it is one of {', '.join(NAMES)}")
    return options


def _unwritable(folder: Path) -> str:
    """Why nothing can be written there, before minutes of measuring; else nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return str(error.strerror)
    return ""


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text}")
    return int(text)


def measure(chosen: argparse.Namespace, console: Console) -> int:
    """Runs the suites, the limits first, and writes what they found: to --json after each."""
    if chosen.device:
        platform = "cuda" if chosen.device == "gpu" else str(chosen.device)
        os.environ["JAX_PLATFORMS"] = platform
        if not _has_devices():
            console.print(f"JAX finds no {chosen.device} here: leave --device out.")
            return 2
    from bench import machine, peers, show
    from bench.rows import Results, too_fast
    from bench.suites import NAMES, suite
    from bench.workload import Options

    names = peers.NAMES if not chosen.peers else tuple(chosen.peers.split(","))
    if unknown := sorted({*names} - {*peers.NAMES, "none"}):
        every = ", ".join((*peers.NAMES, "none"))
        console.print(f"There is no peer {', '.join(unknown)}: it is one of {every}.")
        return 2
    names += ("torch compiled",) if chosen.peers and "torch" in names else ()
    names = tuple(name for name in names if not (chosen.quick and name == "torch compiled"))
    rounds = chosen.rounds or (5 if chosen.quick else 15)
    points = chosen.points or (2000 if "accuracy" in chosen.suite else 200)
    options = Options(chosen.quick, names, rounds, chosen.device or "cpu", points, chosen.losses)
    suites = [name for name in NAMES if name in chosen.suite or not chosen.suite]
    results = Results({**machine.facts(), "command": _command(chosen)}, [])
    for name in dict.fromkeys(["limit", *suites]):
        rows = []
        for row in suite(name).rows(options):
            rows.append(row)
            console.print(f"{name}: {row.name}", markup=False, style="dim")
        results.rows += rows
        console.print(show.table(rows, results.rows, name))
        results.machine["load after"] = round(os.getloadavg()[0], 2)
        if chosen.json:
            show.save(results, chosen.json)
    show.summary(results, console)
    path = chosen.json or _committed(results.machine)
    if path:
        show.save(results, path)
        console.print(f"written: {path}, {path.with_suffix('.md')}")
    if chosen.plots:
        from bench import plots

        for picture in plots.save(results, chosen.plots):
            console.print(f"written: {picture}")
    impossible = not chosen.quick and any(too_fast(results.rows))  # 5 rounds are too few to tell
    return int(impossible or any(row.ours.note.startswith("cannot") for row in results.rows))


def _has_devices() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):  # the second is what JAX 0.10 fails by
        return False


def _command(chosen: argparse.Namespace) -> str:
    """What was measured, and not where it was written."""
    words = ["python -m bench", *chosen.suite, *(["--quick"] if chosen.quick else [])]
    for name in ("device", "peers", "rounds", "points", "losses"):
        value = getattr(chosen, name)
        words += [f"--{name} {value}"] if value else []
    return " ".join(words)


def _committed(machine: dict[str, object]) -> Path | None:
    """A whole run, with every peer and all rounds, is kept under the device's name."""
    name = re.sub("[^a-z0-9]+", "-", str(machine["device"]).lower()).strip("-")
    return RESULTS / f"{name}.json" if machine["command"] == "python -m bench" else None


def _readme(arguments: list[str]) -> int:
    from bench import readme

    argparse.ArgumentParser(prog="python -m bench readme", description=readme.__doc__).parse_args(
        arguments
    )
    readme.main()
    return 0


def _compare(arguments: list[str], console: Console) -> int:
    from bench import compare
    from bench.rows import Results

    parser = argparse.ArgumentParser(prog="python -m bench compare", description=compare.__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    found = []
    for path in (options.old, options.new):
        if not path.is_file():
            parser.error(f"there is no file {path}")
        try:
            found.append(Results.load(path))
        except (ValueError, KeyError, TypeError):
            parser.error(f"{path} holds no results of the bench")
    old, new = found
    return compare.main(old, new, console)


if __name__ == "__main__":
    sys.exit(main())
