"""What the commands do, from what was asked for to what is saved and reported."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from jaxloss.cli import (
    catalogue,
    compare,
    data,
    fit,
    folder,
    language,
    lessons,
    line,
    options,
    pictures,
    tasks,
)
from jaxloss.cli.catalogue import Entry
from jaxloss.cli.experiment import prepare
from jaxloss.cli.fit import Fitted
from jaxloss.cli.meter import Meter
from jaxloss.cli.mistakes import ENDED, Mistake
from jaxloss.cli.options import Option
from jaxloss.cli.recipes import COMPARISON, LINE, Recipe, for_windows
from jaxloss.cli.table import Table
from jaxloss.cli.text import Reading, Text, load


def run_fit(
    table: Table | Text,
    loss: str | None,
    loss_options: Sequence[str],
    recipe: Recipe,
    out: Path | None,
    console: Console,
    *,
    resume: bool,
) -> None:
    """Trains, saves and reports; after Ctrl-C or SIGTERM what was trained by then."""
    if isinstance(table, Text):
        return _fit_text(table, loss, loss_options, recipe, out, console, resume=resume)
    entry = catalogue.find(loss or tasks.default_loss(table))
    chosen = options.loss_options(entry, loss_options)
    experiment = prepare(table, table.split(recipe.seed), entry, chosen, recipe.hidden)
    options.optimizer(recipe)
    recipe.size(len(experiment.split["train"]))
    said = {"loss": entry.name, "loss_options": {k: _plain(v) for k, v in chosen.items()}}
    config = _config(_facts(table), recipe, said)
    path = _folder(out, table.name, config, recipe, resume=resume)
    if table.raw:
        fitted = line.train(experiment, recipe, _show_steps(console))
    else:
        progress = console.is_terminal and not console.quiet
        fitted = fit.train(experiment, recipe, path, progress=progress)
    scores = fit.scores(experiment, fitted)
    weights = line.weights(fitted.params) if table.raw else {}
    epochs = {"best_epoch": fitted.best_epoch, "epochs": len(fitted.history.steps)}
    fit.save(path, config, experiment, fitted, {**scores, **weights, **epochs})
    console.print(_grid(scores))
    found = "".join(f"{name} = {value:.7f}, " for name, value in weights.items())
    unit = "step" if table.raw else "epoch"
    best = f"best {unit} {fitted.best_epoch} of {len(fitted.history.steps)}"
    ending = f"{best}; {_why(fitted, recipe, unit, unit)}"
    _end(fitted, f"{found}{ending}\nSaved in {path}", console)


def run_compare(
    table: Table | Text,
    losses: Sequence[str],
    seeds: np.ndarray,
    recipe: Recipe,
    outliers: float,
    out: Path | None,
    console: Console,
) -> None:
    """Trains every loss with every seed, and shows what each is worth on the validation rows."""
    entries = [catalogue.find(name) for name in dict.fromkeys(losses)]
    options.optimizer(recipe)
    if isinstance(table, Text):
        return _compare_text(table, entries, seeds, recipe, out, console)
    for entry in entries:
        tasks.require_fit(entry, table)
    path = folder.create(out, f"compare-{table.name}")
    said = {"losses": losses, "seeds": seeds.tolist(), "outliers": outliers}
    with console.status(f"Training {len(entries)} losses with {len(seeds)} seeds each"):
        found = compare.compare(table, entries, seeds, recipe, outliers=outliers)
    folder.save_json(path / "config.json", _config(_facts(table), recipe, said))
    for name, rows in (("compare", compare.last(found)), ("curves", found)):
        folder.save(path / f"{name}.csv", functools.partial(rows.to_csv, index=False))
    title = f"{table.target} ({table.name}), {len(seeds)} seeds, {outliers:.0%} outliers"
    pictures.save(compare.draw(found, title), path / "compare.png")
    console.print(_comparison(compare.summary(found), title))
    console.print(f"Saved in {path}", highlight=False)


def usual(source: Table | Text, *, comparison: bool = False) -> Recipe:
    """The usual way to train on it."""
    if isinstance(source, Text):
        return for_windows(len(source.split["train"]))
    if comparison:
        return COMPARISON
    return LINE if source.raw else Recipe()


def source_of(
    name: str,
    target: str | None,
    task: str | None,
    given: Iterable[object],
    reading: Reading,
) -> Table | Text:
    """The table of that name, or the text that is to be read."""
    if name != "text":
        if reading != Reading():
            raise Mistake("--file, --vocab, --context and --limit are for --data text.")
        return table_of(name, target, task, given)
    if target or task:
        given = "--target" if target else "--task"
        raise Mistake(f"{given} is for a CSV file; what --data text learns is the next token.")
    return load(reading)


def table_of(name: str, target: str | None, task: str | None, given: Iterable[object]) -> Table:
    """The table of that name. The line takes none of what is `given` beside it."""
    if name != "line":
        return data.load(name, target, task)
    if any(option is not None for option in (target, task, *given)):
        raise Mistake(
            "--data line is w·x + b on the whole of its points: leave out --target, --task, "
            "--batch-size, --hidden, --precision, --ema, --nonfinite, --checkpoint-every and "
            "--resume."
        )
    return line.table()


def _fit_text(
    text: Text,
    loss: str | None,
    loss_options: Sequence[str],
    recipe: Recipe,
    out: Path | None,
    console: Console,
    *,
    resume: bool,
) -> None:
    entry = catalogue.find(loss or "linear_softmax_cross_entropy")
    chosen = options.loss_options(entry, loss_options)
    lesson = language.prepare(text, entry, chosen, recipe.hidden)
    options.optimizer(recipe)
    recipe.size(len(lesson.split["train"]))
    said = {"loss": entry.name, "loss_options": {k: _plain(v) for k, v in chosen.items()}}
    config = _config(text.facts(), recipe, said)
    path = _folder(out, "text", config, recipe, resume=resume)
    console.print(f"{text.described()}\n{lesson.described()}", highlight=False)
    progress, meter = console.is_terminal and not console.quiet, Meter()
    fitted = fit.train(lesson, recipe, path, progress=progress, meter=meter)
    scores, cost = lesson.scores(fitted.params, fitted.precision), meter.cost
    taken = {"best_step": fitted.best_step, "steps": int(fitted.history.steps[-1])}
    fit.save(path, config, lesson, fitted, {**scores, **taken})
    language.save(path, lesson, fitted.history)
    folder.save_json(path / "cost.json", dataclasses.asdict(cost))
    console.print(_grid(scores))
    best = f"best at step {taken['best_step']} of {taken['steps']}"
    ending = f"{best}; {_why(fitted, recipe, 'evaluation', 'epoch')}"
    _end(fitted, f"{cost}\n{ending}\nSaved in {path}", console)


def _compare_text(
    text: Text,
    entries: Sequence[Entry],
    seeds: np.ndarray,
    recipe: Recipe,
    out: Path | None,
    console: Console,
) -> None:
    for entry in entries:
        language.require_fit(entry)
    path = folder.create(out, "compare-text")
    said = {"losses": [entry.name for entry in entries], "seeds": seeds.tolist()}
    console.print(text.described(), highlight=False)
    found = lessons.compare(text, entries, seeds, recipe, progress=console.is_terminal)
    folder.save_json(path / "config.json", _config(text.facts(), recipe, said))
    curves = pd.concat([each.curves() for each in found])
    last = pd.DataFrame([each.row() for each in found])
    for name, rows in (("compare", last), ("curves", curves)):
        folder.save(path / f"{name}.csv", functools.partial(rows.to_csv, index=False))
    counts = language.bits_of_counts(text, "validation")
    pictures.save(lessons.draw(found, counts), path / "compare.png")
    console.print(_costs(found, counts))
    console.print(f"Saved in {path}", highlight=False)


def _costs(found: Sequence[lessons.Learnt], counts: float) -> Grid:
    names = ("seed", "bits per byte", "ms a step", "temporaries, MB", "apart from the first")
    title = f"order-1 counts: {counts:.5g} bits per byte"
    grid = Grid("validation", *names, box=None, title=title)
    grid.columns[0].no_wrap = True
    for each in found:
        bits, cost = each.history.last("validation_bits_per_byte"), each.cost
        step = "-" if cost.seconds_per_step is None else f"{1000 * cost.seconds_per_step:.3g}"
        memory = "-" if cost.temporaries is None else f"{cost.temporaries / 1e6:,.1f}"
        grid.add_row(each.loss, str(each.seed), f"{bits:.5g}", step, memory, f"{each.apart:.1e}")
    return grid


def _folder(
    out: Path | None, name: str, config: Mapping[str, object], recipe: Recipe, *, resume: bool
) -> Path:
    """Its options are written with the results, and before where checkpoints need them."""
    folder.check(out, config, resume=resume)
    path = folder.create(out, name)
    if recipe.checkpoint_every is not None:
        folder.save_json(path / "config.json", config)
    return path


def _facts(table: Table) -> dict[str, object]:
    return {
        "data": table.name,
        "task": table.task,
        "target": table.target,
        "classes": list(table.classes),
        "columns": list(table.columns),
    }


def _config(facts: dict[str, object], recipe: Recipe, said: dict[str, object]) -> dict[str, object]:
    return {
        **facts,
        **said,
        **dataclasses.asdict(recipe),
        "versions": {name: version(name) for name in ("jaxloss", "jax", "optax", "flax")},
    }


def _plain(option: Option) -> object:
    return option.tolist() if isinstance(option, np.ndarray) else option


def _show_steps(console: Console) -> line.Show:
    def show(step: int, loss: float, gradient: dict[str, float], weights: dict[str, float]) -> None:
        numbers = [f"d{name} {value:+.6f}" for name, value in gradient.items()]
        numbers += [f"{name} {value:+.6f}" for name, value in weights.items()]
        console.print(f"step {step}  loss {loss:.6f}  {'  '.join(numbers)}", highlight=False)

    return show


def _grid(scores: fit.Scores) -> Grid:
    names = list(next(iter(scores.values())))
    grid = Grid("", *[tasks.METRICS.get(name, name) for name in names], box=None)
    for part, values in scores.items():
        grid.add_row(part, *[f"{values[name]:.5g}" for name in names])
    return grid


def _why(fitted: Fitted, recipe: Recipe, row: str, unit: str) -> str:
    why = {
        "early": f"no new best loss for {recipe.patience} {row}s",
        "finished": f"the limit of {recipe.epochs} {unit}{'s' * (recipe.epochs > 1)}",
        "interrupted": "Ctrl-C",
        "terminated": "SIGTERM",
    }[fitted.history.stopped]
    return f"stopped: {why}."


def _end(fitted: Fitted, said: str, console: Console) -> None:
    console.print(said, highlight=False)
    if fitted.history.stopped in ENDED:
        raise SystemExit(ENDED[fitted.history.stopped])


def _comparison(summary: pd.DataFrame, title: str) -> Grid:
    metrics = list(dict.fromkeys(summary.columns.get_level_values(0)))
    grid = Grid("validation", *[tasks.METRICS[name] for name in metrics], box=None, title=title)
    for loss, row in summary.iterrows():
        grid.add_row(str(loss), *[f"{row[m, 'mean']:.4g} ± {row[m, 'std']:.2g}" for m in metrics])
    return grid
