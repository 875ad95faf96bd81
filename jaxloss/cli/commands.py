"""The commands and their options."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from jaxloss.cli import catalogue
from jaxloss.cli.mistakes import Mistake

app = typer.Typer(
    name="jaxloss",
    help="Losses for JAX: train with them, compare them, look them up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def losses(
    query: Annotated[
        str, typer.Argument(help="Part of a name, of another name, or of a family.")
    ] = "",
) -> None:
    """List the losses: family, name, and what others call them."""
    found = catalogue.search(query)
    if not found:
        catalogue.find(query)
    grid = Grid("Family", "Loss", "Also known as", box=None, header_style="bold")
    for previous, entry in zip([None, *found], found, strict=False):
        family = entry.family if previous is None or previous.family != entry.family else ""
        grid.add_row(family, entry.name, ", ".join(entry.names))
    grid.columns[1].no_wrap = True
    _console().print(grid)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A loss, as in `jaxloss losses`.")]) -> None:
    """Show the documentation of a loss: formula, arguments, reference."""
    entry = catalogue.find(name)
    parameters = inspect.signature(entry.loss).parameters.values()
    called = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    console = _console()
    console.print(f"jaxloss.{name}{called}", style="bold", markup=False, highlight=False)
    console.print(f"{catalogue.unit(entry.family)}\n", style="dim", highlight=False)
    console.print(inspect.getdoc(entry.loss), markup=False, highlight=False)


@app.command()
def plot(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Losses to draw.")],
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")],
) -> None:
    """Draw losses and their gradients against the error, margin or logit."""
    entries = [catalogue.find(name) for name in dict.fromkeys(names)]
    if out.suffix.lower() != ".png":
        raise Mistake(f"--out is a picture such as loss.png, got {out}.")
    from jaxloss.cli import pictures
    from jaxloss.cli.plot import draw

    pictures.save(draw(entries), out)
    _console().print(f"Drawn: {out}", highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)
