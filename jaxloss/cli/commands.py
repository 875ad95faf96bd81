"""The commands and their options."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from jaxloss.cli import catalogue
from jaxloss.cli.mistakes import Mistake

LARGEST_SEED = 2**31 - 1  # of a key of JAX, with one more to come after it

app = typer.Typer(
    name="jaxloss",
    help="Losses for JAX: train with them, compare them, look them up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Data = Annotated[
    str,
    typer.Option(help="digits, diabetes, breast-cancer, wine, iris, line, text, or a .csv file."),
]
Target = Annotated[str | None, typer.Option(help="The column of the CSV file to learn.")]
Task = Annotated[
    str | None,
    typer.Option(
        help="What to learn from the CSV file: regression or classification. Default: words, and "
        "whole numbers of at most 10 values, are classes."
    ),
]
File = Annotated[
    Path | None,
    typer.Option(help="The text to learn. Default: the source of Python's own library."),
]
Vocab = Annotated[
    int | None,
    typer.Option(help="Byte pairs to read the text by, such as 32000. Default: bytes."),
]
Context = Annotated[int | None, typer.Option(min=2, help="Tokens in a window. Default: 128.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Bytes of text to read. Default: 1000000; with --vocab 12000000."),
]
Optimizer = Annotated[
    str | None, typer.Option(help="Any optimizer of Optax. Default: adamw, or sgd for the line.")
]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0, help="Default: 0.001, or 0.1 for the line."),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(min=0, help="Default: 0.3 for adamw, 0.1 for a text, otherwise Optax's own."),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows per step. Default: 32, or 16 windows of a text.")
]
Hidden = Annotated[
    str | None,
    typer.Option(help="Widths of hidden layers, for a text of blocks; 0: none. Default: 128,128."),
]


@app.command()
def fit(
    data: Data = "digits",
    target: Target = None,
    task: Task = None,
    file: File = None,
    vocab: Vocab = None,
    context: Context = None,
    limit: Limit = None,
    loss: Annotated[
        str | None, typer.Option(help="A loss that fits the target: see `jaxloss losses`.")
    ] = None,
    loss_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the loss, such as delta=0.5; may repeat."
        ),
    ] = None,
    optimizer: Optimizer = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    batch_size: BatchSize = None,
    microbatches: Annotated[
        int | None, typer.Option(min=1, help="Parts of a batch, to save memory. Default: 1.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most epochs. Default: 60; the line, 1000 steps; a text, 7000 windows."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs or steps without a new best after which to stop. Default: 20, or 10 of "
            "the 20 evaluations of a text.",
        ),
    ] = None,
    hidden: Hidden = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, or float16, for which the loss is scaled."),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Decay of an average of the parameters, such as 0.99.")
    ] = None,
    nonfinite: Annotated[
        str | None,
        typer.Option(help="What to do with a step that is not finite: apply, skip or raise."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="Epochs between checkpoints. Default: none are made.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its options.")
    ] = False,
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of the split, the model and the batches."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. Default: runs/<time>-<data>.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address of the first of several processes."),
    ] = None,
    process: Annotated[
        int | None, typer.Option(min=0, help="Number of this process; number 0 prints and writes.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes. On a cluster all three are found out."),
    ] = None,
) -> None:
    """Train a model on a table or a text, and keep its curves, parameters and scores."""
    from jaxloss.cli import processes as several
    from jaxloss.cli import runs
    from jaxloss.cli.text import Reading

    several.join(coordinator, process, processes)
    own = (batch_size, hidden, precision, ema, nonfinite, checkpoint_every, resume or None)
    reading = Reading(file=file, vocab=vocab, context=context, limit=limit)
    source = runs.source_of(data, target, task, own, reading)
    recipe = runs.usual(source).but(
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        microbatches=microbatches,
        epochs=epochs,
        patience=patience,
        hidden=hidden,
        precision=precision,
        ema=ema,
        nonfinite=nonfinite,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    console = _console(quiet=not several.is_first())
    runs.run_fit(source, loss, loss_option or (), recipe, out, console, resume=resume)


@app.command()
def compare(
    losses: Annotated[
        str, typer.Option(help="Names with commas between, such as squared_error,huber_loss.")
    ],
    data: Data = "diabetes",
    target: Target = None,
    task: Task = None,
    file: File = None,
    vocab: Vocab = None,
    context: Context = None,
    limit: Limit = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds. Default: 5, or 1 for a text.")
    ] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="The first seed; the others follow it.")
    ] = 0,
    outliers: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of training targets to spoil: tenfold, or another class."
        ),
    ] = 0.0,
    optimizer: Optimizer = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    batch_size: BatchSize = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs. Default: 20, or 7000 windows for a text.")
    ] = None,
    hidden: Hidden = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. Default: runs/<time>-compare-<data>.")
    ] = None,
) -> None:
    """Train with several losses, each with the same seeds, and compare what comes of it."""
    if data == "line":
        raise Mistake("compare needs rows for validation, and --data line has none.")
    if data == "text" and outliers:
        raise Mistake("--outliers is for a table: a text has none.")
    import numpy as np

    from jaxloss.cli import runs
    from jaxloss.cli.text import Reading

    reading = Reading(file=file, vocab=vocab, context=context, limit=limit)
    names = [name.strip() for name in losses.split(",")]
    source = runs.source_of(data, target, task, (), reading)
    recipe = runs.usual(source, comparison=True).but(
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        epochs=epochs,
        hidden=hidden,
    )
    count = seeds or (1 if data == "text" else 5)
    which = np.arange(first_seed, first_seed + count)
    runs.run_compare(source, names, which, recipe, outliers, out, _console())


@app.command()
def losses(
    query: Annotated[
        str, typer.Argument(help="Part of a name, of another name, or of a family.")
    ] = "",
    peer: Annotated[
        str | None,
        typer.Option(help="A library, such as optax, torch or keras: what its calls become."),
    ] = None,
) -> None:
    """List the losses: family, name, and what others call them."""
    if peer is not None:
        return _migration(peer, query)
    found = catalogue.search(query)
    if not found:
        catalogue.find(query)
    grid = Grid("Family", "Loss", "Also known as", box=None, header_style="bold")
    for previous, entry in zip([None, *found], found, strict=False):
        family = entry.family if previous is None or previous.family != entry.family else ""
        grid.add_row(family, entry.name, ", ".join(entry.names))
    grid.columns[1].no_wrap = True
    _console().print(grid)


def _migration(peer: str, query: str) -> None:
    found = catalogue.counterparts(peer, query)
    modules = [each.there.split("(")[0].rpartition(".")[0] for each in found]
    module = os.path.commonpath([name.replace(".", "/") for name in modules]).replace("/", ".")
    grid = Grid(box=None, header_style="bold")
    for head in (f"{module}.", "jaxloss.", "Note"):
        grid.add_column(head, overflow="fold")
    for each in found:
        grid.add_row(*map(Text, (each.there.removeprefix(f"{module}."), each.here, each.note)))
    _console().print(grid)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A loss, as in `jaxloss losses`.")]) -> None:
    """Show the documentation of a loss: formula, arguments, reference."""
    entry = catalogue.find(name)
    parameters = inspect.signature(entry.loss).parameters.values()
    called = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    console = _console()
    console.print(f"jaxloss.{name}{called}", style="bold", markup=False, highlight=False)
    console.print(f"{catalogue.unit(entry)}\n", style="dim", highlight=False)
    console.print(inspect.getdoc(entry.loss), markup=False, highlight=False)


@app.command()
def plot(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Losses to draw.")],
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


def _console(*, quiet: bool = False) -> Console:
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=120, quiet=quiet)
