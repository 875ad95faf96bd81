"""What the tests of the command line share."""

import csv
import json

import numpy as np
import pytest

from jaxloss.cli import main


@pytest.fixture
def jaxloss(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return command


@pytest.fixture
def mistake(jaxloss):
    """Runs a command that must end with code 2 and one sentence on stderr, which it returns."""

    def command(*arguments):
        code, out, err = jaxloss(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1 and err.endswith((".\n", "?\n")) and "Traceback" not in err
        return err

    return command


def read_arrays(path):
    """All of them, of a file that is closed again."""
    with np.load(path) as arrays:
        return dict(arrays)


def read_json(path):
    return json.loads(path.read_text())


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def houses(rng, rows=60):
    """Prices that follow from size and place."""
    size, place = rng.uniform(20, 200, rows), rng.choice(["town", "village"], rows)
    price = 3 * size + 200 * (place == "town") + rng.normal(0, 5, rows)
    return {"size": size.round(3), "place": place, "price": price.round(3)}


def drawn(axis):
    """The labelled lines of an axis: x and y by label."""
    lines = {str(line.get_label()): np.asarray(line.get_xydata(), float).T for line in axis.lines}
    return {label: line for label, line in lines.items() if not label.startswith("_")}


def forward(model, inputs):
    """The network of a model.npz, in NumPy alone."""
    layers = sum(name.startswith("kernel") for name in model)
    hidden = (inputs - model["input_mean"]) * model["input_factor"]
    for layer in range(layers):
        hidden = hidden @ model[f"kernel_{layer}"] + model[f"bias_{layer}"]
        hidden = np.maximum(hidden, 0) if layer < layers - 1 else hidden
    return hidden
