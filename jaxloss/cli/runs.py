"""What the commands do, from what was asked for to what is saved and reported."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from jaxloss.cli import catalogue, compare, data, fit, folder, line, options, pictures, tasks
from jaxloss.cli.experiment import prepare
from jaxloss.cli.fit import Fitted
from jaxloss.cli.mistakes import ENDED, Mistake
from jaxloss.cli.options import Option
from jaxloss.cli.recipes import Recipe
from jaxloss.cli.table import Table


def run_fit(
    table: Table,
    loss: str | None,
    loss_options: Sequence[str],
    recipe: Recipe,
    out: Path | None,
    console: Console,
    *,
    resume: bool,
) -> None:
    """Trains, saves and reports; after Ctrl-C or SIGTERM what was trained by then."""
    entry = catalogue.find(loss or tasks.default_loss(table))
    chosen = options.loss_options(entry, loss_options)
    experiment = prepare(table, table.split(recipe.seed), entry, chosen, recipe.hidden)
    options.optimizer(recipe)
    said = {"loss": entry.name, "loss_options": {k: _plain(v) for k, v in chosen.items()}}
    config = _config(table, recipe, said)
    folder.check(out, config, resume=resume)
    path = folder.create(out, table.name)
    folder.save_json(path / "config.json", config)
    if table.raw:
        fitted = line.train(experiment, recipe, _show_steps(console))
    else:
        progress = console.is_terminal and not console.quiet
        fitted = fit.train(experiment, recipe, path, progress=progress)
    scores = fit.scores(experiment, fitted)
    weights = line.weights(fitted.params) if table.raw else {}
    fit.save(path, experiment, fitted, {**scores, **weights})
    console.print(_grid(scores))
    found = "".join(f"{name} = {value:.7f}, " for name, value in weights.items())
    ending = _ending(fitted, recipe, "step" if table.raw else "epoch")
    console.print(f"{found}{ending}\nSaved in {path}", highlight=False)
    if fitted.history.stopped in ENDED:
        raise SystemExit(ENDED[fitted.history.stopped])


def run_compare(
    table: Table,
    losses: Sequence[str],
    seeds: np.ndarray,
    recipe: Recipe,
    outliers: float,
    out: Path | None,
    console: Console,
) -> None:
    """Trains every loss with every seed, and shows what each is worth on the validation rows."""
    entries = [catalogue.find(name) for name in dict.fromkeys(losses)]
    for entry in entries:
        tasks.require_fit(entry, table)
    options.optimizer(recipe)
    path = folder.create(out, f"compare-{table.name}")
    said = {"losses": losses, "seeds": seeds.tolist(), "outliers": outliers}
    folder.save_json(path / "config.json", _config(table, recipe, said))
    with console.status(f"Training {len(entries)} losses with {len(seeds)} seeds each"):
        found = compare.compare(table, entries, seeds, recipe, outliers=outliers)
    for name, rows in (("compare", compare.last(found)), ("curves", found)):
        folder.save(path / f"{name}.csv", functools.partial(rows.to_csv, index=False))
    title = f"{table.target} ({table.name}), {len(seeds)} seeds, {outliers:.0%} outliers"
    pictures.save(compare.draw(found, title), path / "compare.png")
    console.print(_comparison(compare.summary(found), title))
    console.print(f"Saved in {path}", highlight=False)


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


def _config(table: Table, recipe: Recipe, said: dict[str, object]) -> dict[str, object]:
    return {
        "data": table.name,
        "task": table.task,
        "target": table.target,
        "classes": list(table.classes),
        "columns": list(table.columns),
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
    names = ["loss", *[name for name in tasks.METRICS if name in scores["train"]]]
    grid = Grid("", *[tasks.METRICS.get(name, name) for name in names], box=None)
    for part, values in scores.items():
        grid.add_row(part, *[f"{values[name]:.5g}" for name in names])
    return grid


def _ending(fitted: Fitted, recipe: Recipe, unit: str) -> str:
    why = {
        "early": f"no new best loss for {recipe.patience} {unit}s",
        "finished": f"the limit of {recipe.epochs} {unit}s",
        "interrupted": "Ctrl-C",
        "terminated": "SIGTERM",
    }[fitted.history.stopped]
    return f"best {unit} {fitted.best_epoch} of {len(fitted.history.steps)}; stopped: {why}."


def _comparison(summary: pd.DataFrame, title: str) -> Grid:
    metrics = list(dict.fromkeys(summary.columns.get_level_values(0)))
    grid = Grid("validation", *[tasks.METRICS[name] for name in metrics], box=None, title=title)
    for loss, row in summary.iterrows():
        grid.add_row(str(loss), *[f"{row[m, 'mean']:.4g} ± {row[m, 'std']:.2g}" for m in metrics])
    return grid
