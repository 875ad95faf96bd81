"""The command line: real commands in a temporary folder, and what they wrote."""

import csv
import dataclasses
import functools
import json
import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread

from jaxloss.cli import catalogue, compare, data, fit, main, options, plot, tasks
from jaxloss.cli.experiment import order, prepare
from jaxloss.cli.recipes import Recipe

SMALL = Recipe(epochs=2, hidden=(8,), batch_size=16)


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


# --- start-up


def test_help_and_losses_answer_without_the_heavy_imports():
    code = (
        "import sys\nfrom jaxloss.cli import main\n"
        "try: main.run(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'flax', 'grain', 'matplotlib', 'pandas', 'sklearn'}\n"
        "print(heavy & set(sys.modules))"
    )
    for arguments in (["--help"], ["losses"]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "set()"


def test_python_m_jaxloss_is_the_command_line(tmp_path):
    command = [sys.executable, "-m", "jaxloss"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    for name in ("fit", "compare", "losses", "show", "plot"):
        assert name in done.stdout
    wrong = subprocess.run([*command, "show", "mse"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr == "There is no loss 'mse': did you mean squared_error?\n"


@pytest.mark.parametrize("module", ["typer", "flax"])
def test_a_missing_extra_is_one_sentence(module, tmp_path):
    code = f"import sys; sys.modules['{module}'] = None; from jaxloss.cli.main import run; run()"
    command = [sys.executable, "-c", code, "fit"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{module} is not installed: say pip install 'jaxloss[demo]'.\n"


# --- the catalogue


def test_losses_lists_every_public_loss_under_its_family(jaxloss):
    _, out, _ = jaxloss("losses")
    for name, entry in catalogue.entries().items():
        assert f" {name} " in out and entry.family in out
    assert "Mean squared error, MSE" in out
    assert "softmax_cross_entropy_with_integer_labels" in catalogue.entries()


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("mse", "squared_error"),
        ("pinball", "quantile_loss"),
        ("smooth_l1", "smooth_l1_loss"),
        ("torch.nn.functional.mse_loss", "squared_error"),
        ("MAPE", "absolute_percentage_error"),
    ],
)
def test_losses_finds_by_name_alias_and_peer(query, name, jaxloss):
    code, out, _ = jaxloss("losses", query)
    assert code == 0 and out.splitlines()[1].split()[1] == name
    assert len(out.splitlines()) < 8


def test_losses_finds_a_family(jaxloss):
    _, out, _ = jaxloss("losses", "margin")
    assert "hinge_loss" in out and "squared_error" not in out


def test_show_prints_signature_unit_and_documentation(jaxloss):
    _, out, _ = jaxloss("show", "huber_loss")
    assert out.startswith("jaxloss.huber_loss(predictions, targets, *, delta=1.0,")
    assert "the unit is an element" in out
    assert 'Huber, "Robust Estimation of a Location Parameter", 1964.' in out


def test_other_names_are_read_from_the_docstring():
    text = """One line.

Also known as:
    First name, FN, second
    name (in one field); third.
    Cosine loss; minus `keras.losses.x`, plus 1.
    `torch.nn.functional.y`: with `scale=2`, a mean

Example:
    `not.this`
"""
    names, peers = catalogue.also_known_as(text)
    assert names == ("First name", "FN", "second name", "third", "Cosine loss")
    assert peers == ("keras.losses.x", "torch.nn.functional.y")


# --- wrong on purpose


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("show mse", "did you mean squared_error?"),
        ("show huber_los", "did you mean huber_loss"),
        ("losses qqqq", "no loss 'qqqq'"),
        ("fit --data digit", "did you mean digits?"),
        ("fit --data nope.csv --target y", "There is no file nope.csv."),
        ("fit --data diabetes --target y", "--target is for a CSV file"),
        ("fit --data diabetes --task classification", "--task is for a CSV file"),
        ("fit --task cluster", "one of regression, classification"),
        ("fit --loss squared_error", "does not fit 'digit' (multiclass classification)"),
        ("fit --loss cosine_distance", "learns from no column of a table"),
        ("fit --loss dice_loss", "learns from no column of a table"),
        ("fit --loss-option lable_smoothing=0.1", "did you mean label_smoothing?"),
        ("fit --loss-option label_smoothing=2", "label_smoothing must be"),
        ("fit --loss-option label_smoothing=much", "label_smoothing is a number"),
        ("fit --loss-option label_smoothing", "--loss-option is name=value"),
        ("fit --loss-option class_weights=1,2", "class_weights"),
        ("fit --data diabetes --loss-option delta=1", "squared_error has no option 'delta'."),
        ("fit --optimizer adamm", "did you mean adam"),
        ("fit --optimizer sgd --weight-decay 0.1", "sgd has no weight decay"),
        ("fit --hidden 64,x", "--hidden is widths"),
        ("fit --hidden -1", "--hidden is widths"),
        ("fit --microbatches 5", "does not divide the batch of 32 rows"),
        ("fit --data line --microbatches 3", "does not divide the batch of 20 rows"),
        ("fit --data line --hidden 4", "leave out"),
        ("fit --data line --batch-size 4", "leave out"),
        ("fit --data iris --learning-rate 1e30 --hidden 4", "lower --learning-rate"),
        ("fit --data iris --out /dev/null/x", "cannot be made"),
        ("compare --losses squared_error,hinge_loss", "hinge_loss learns labels -1 and 1"),
        ("compare --losses squared_error --data line", "has none"),
        ("plot squared_error --out loss.pdf", "--out is a picture"),
        ("plot squared_error --out no/such/folder.png", "cannot be written"),
        ("plot dice_loss --out loss.png", "no curve"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, mistake):
    assert sentence in mistake(*arguments.split())


@pytest.mark.parametrize(
    "arguments",
    ["fitt", "fit --dta digits", "fit --epochs 0", "fit --seed x", "compare", "plot", "show"],
)
def test_what_the_parser_refuses_ends_with_code_2(arguments, jaxloss):
    code, _, err = jaxloss(*arguments.split())
    assert code == 2 and "Error" in err and "Traceback" not in err


def test_commands_and_options_get_did_you_mean(jaxloss):
    assert "Did you mean 'fit'" in jaxloss("fitt")[2]
    assert "--data" in jaxloss("fit", "--dta", "digits")[2]


# --- fit


def test_fit_learns_digits_and_a_numpy_network_recomputes_its_scores(jaxloss, tmp_path):
    code, out, err = jaxloss("fit")
    assert (code, err) == (0, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-digits")
    names = {"config.json", "history.csv", "loss.png", "model.npz", "result.json"}
    assert {path.name for path in run.iterdir()} == names
    result, table = read_json(run / "result.json"), data.load("digits", None, None)
    model = dict(np.load(run / "model.npz"))
    splits = [model[f"{part}_rows"] for part in ("train", "validation", "test")]
    assert sorted(np.concatenate(splits)) == list(range(1797))
    for part, rows in zip(("train", "validation", "test"), splits, strict=True):
        logits = forward(model, table.inputs[rows])
        accuracy = np.mean(logits.argmax(-1) == table.targets[rows])
        label = np.take_along_axis(logits, table.targets[rows, None], axis=-1)[:, 0]
        loss = np.mean(np.log(np.exp(logits).sum(-1)) - label)
        assert result[part]["accuracy"] == pytest.approx(accuracy, abs=1e-9)
        assert result[part]["loss"] == pytest.approx(loss, rel=1e-4)
        assert f"{result[part]['loss']:.5g}" in out
    assert result["test"]["accuracy"] >= 0.96
    history = read_csv(run / "history.csv")
    best = min(history, key=lambda row: float(row["validation_loss"]))
    assert history.index(best) + 1 == result["best_epoch"]
    assert float(best["validation_loss"]) == pytest.approx(result["validation"]["loss"], rel=1e-6)
    assert result["epochs"] == len(history) and f"best epoch {result['best_epoch']}" in out
    config = read_json(run / "config.json")
    assert config["loss"] == "softmax_cross_entropy_with_integer_labels"
    assert (config["optimizer"], config["hidden"]) == ("adamw", [128, 128])
    assert imread(run / "loss.png").shape[0] > 400


def test_no_test_image_is_seen_by_training():
    """Other test images give the same model; other training images another one."""
    table, entry = data.load("wine", None, None), catalogue.find("nll_loss")
    split = table.split(0)

    def history(part):
        changed = dataclasses.replace(table, inputs=table.inputs.copy())
        changed.inputs[split[part]] += 100.0 * np.arange(len(split[part]))[:, None]
        experiment = prepare(changed, split, entry, {}, (8,))
        return fit.train(experiment, SMALL, progress=False).history["validation_loss"]

    experiment = prepare(table, split, entry, {}, (8,))
    whole = fit.train(experiment, SMALL, progress=False).history["validation_loss"]
    assert np.array_equal(history("test"), whole)
    assert not np.array_equal(history("train"), whole)
    assert not np.array_equal(history("validation"), whole)


def test_the_best_epoch_is_restored_and_patience_stops():
    table = data.load("iris", None, None)
    split = table.split(0)
    experiment = prepare(table, split, catalogue.find("nll_loss"), {}, (64,))
    recipe = Recipe(epochs=200, patience=4, learning_rate=0.05)
    fitted = fit.train(experiment, recipe, progress=False)
    curve = fitted.history["validation_loss"]
    assert fitted.history.stopped == "early"
    assert fitted.best_epoch == np.argmin(curve) + 1 == len(curve) - 4
    scores = fit.scores(experiment, fitted)
    assert scores["validation"]["loss"] == pytest.approx(curve.min(), rel=1e-6)


def test_the_seed_decides_everything(jaxloss, tmp_path):
    results = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        jaxloss("fit", "--data", "iris", "--epochs", 3, "--seed", seed, "--out", name)
        results[name] = {
            file: (tmp_path / name / file).read_bytes()
            for file in ("result.json", "history.csv", "model.npz")
        }
    assert results["a"] == results["b"]
    assert all(results["a"][file] != results["c"][file] for file in results["a"])


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("--data", "wine", lambda run: len(run["config"]["columns"]) == 13),
        ("--loss", "multiclass_hinge_loss", lambda run: run["config"]["loss"] == run["value"]),
        ("--loss-option", "label_smoothing=0.5", lambda run: run["result"]["train"]["loss"] > 0.6),
        ("--optimizer", "sgd", lambda run: run["result"]["train"]["accuracy"] < 0.9),
        (
            "--learning-rate",
            "1e-9",
            lambda run: (
                run["history"][2]["validation_loss"][:4] == run["history"][0]["validation_loss"][:4]
            ),
        ),
        ("--batch-size", "7", lambda run: run["history"][0]["step"] == "15"),
        ("--epochs", "5", lambda run: len(run["history"]) == 5),
        ("--patience", "1", lambda run: run["result"]["stopped"] == "early"),
        ("--hidden", "5,6", lambda run: run["model"]["kernel_1"].shape == (5, 6)),
        ("--hidden", "0", lambda run: run["model"]["kernel_0"].shape == (4, 3)),
    ],
)
def test_every_option_of_fit_changes_something(option, value, shown, jaxloss, tmp_path):
    usual = ["--data", "iris", "--epochs", "3", "--hidden", "32"]
    if option == "--patience":
        usual += ["--learning-rate", "0.3", "--epochs", "100"]
    code, _, err = jaxloss("fit", *usual, option, value, "--out", "run")
    assert (code, err) == (0, "")
    run = {name: read_json(tmp_path / "run" / f"{name}.json") for name in ("config", "result")}
    run |= {"history": read_csv(tmp_path / "run" / "history.csv"), "value": value}
    run["model"] = np.load(tmp_path / "run" / "model.npz")
    assert shown(run)


def test_microbatches_give_the_same_model_in_less_memory(jaxloss, tmp_path):
    models = []
    for count in (1, 4):
        arguments = ["--data", "iris", "--epochs", 2, "--hidden", 8, "--microbatches", count]
        jaxloss("fit", *arguments, "--out", f"run{count}")
        models.append(np.load(tmp_path / f"run{count}" / "model.npz"))
    assert read_json(tmp_path / "run4" / "config.json")["microbatches"] == 4
    for name in models[0]:
        np.testing.assert_allclose(models[0][name], models[1][name], atol=1e-5)


def test_a_run_overwrites_its_folder_whole_and_leaves_no_temporary_file(jaxloss, tmp_path):
    for epochs in (2, 1):
        jaxloss("fit", "--data", "iris", "--epochs", epochs, "--hidden", 4, "--out", "run")
    assert len(read_csv(tmp_path / "run" / "history.csv")) == 1
    assert len(list((tmp_path / "run").iterdir())) == 5


def test_two_runs_in_one_second_have_two_folders(jaxloss, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for _ in range(2):
        jaxloss("fit", "--data", "line", "--epochs", 2)
    assert {run.name for run in (tmp_path / "runs").iterdir()} == {"now-line", "now-line-2"}


def test_control_c_saves_what_was_trained(tmp_path):
    arguments = ["--data", "iris", "--out", "run", "--epochs", "100000", "--patience", "100000"]
    command = [sys.executable, "-m", "jaxloss", "fit", *arguments]
    terminal, inside = pty.openpty()
    process = subprocess.Popen(command, cwd=tmp_path, stdout=inside, stderr=inside)
    os.close(inside)
    seen = b""
    while b" steps/s" not in seen or b"- steps/s" in seen[-200:]:
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    said = b"".join(iter(functools.partial(_read, terminal), b""))
    assert process.wait() == 130
    assert b"Traceback" not in said and b"stopped: Ctrl-C" in said
    result = read_json(tmp_path / "run" / "result.json")
    assert result["stopped"] == "interrupted" and 0 < result["test"]["accuracy"] <= 1
    assert len(read_csv(tmp_path / "run" / "history.csv")) == result["epochs"]
    assert "kernel_2" in np.load(tmp_path / "run" / "model.npz")


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # a terminal that nobody writes to any more
        return b""


# --- the line


def test_the_line_is_found(jaxloss, tmp_path):
    arguments = ["--data", "line", "--loss", "squared_error", "--optimizer", "sgd"]
    code, out, _ = jaxloss("fit", *arguments, "--out", "run")
    result = read_json(tmp_path / "run" / "result.json")
    assert code == 0 and result["train"]["loss"] < 1e-10
    assert abs(result["w"] - 3.7) < 1e-5 and abs(result["b"] + 1.3) < 1e-5
    assert result["stopped"] == "early" and "stopped: no new best loss for 20 steps" in out
    assert result["epochs"] == result["best_epoch"] + 20
    model = np.load(tmp_path / "run" / "model.npz")
    assert model["kernel_0"] == result["w"] and model["bias_0"] == result["b"]


def test_the_first_steps_of_the_line_are_those_of_the_textbook(jaxloss):
    _, out, _ = jaxloss("fit", "--data", "line", "--epochs", 10)
    x, w, b = np.linspace(-1, 1, 20), 0.5, 0.2
    shown = [line.split() for line in out.splitlines() if line.startswith("step ")]
    assert len(shown) == 5
    for number, words in enumerate(shown):
        error = w * x + b - (3.7 * x - 1.3)
        dw, db = np.mean(2 * error * x), np.mean(2 * error)
        values = [number, np.mean(error**2), dw, db, w, b]
        assert words[::2] == ["step", "loss", "dw", "db", "w", "b"]
        assert list(map(float, words[1::2])) == pytest.approx(values, abs=2e-6)
        w, b = w - 0.1 * dw, b - 0.1 * db


def test_the_line_says_when_the_steps_ran_out(jaxloss, tmp_path):
    _, out, _ = jaxloss("fit", "--data", "line", "--epochs", 30, "--out", "run")
    assert "stopped: the limit of 30 steps" in out
    assert read_json(tmp_path / "run" / "result.json")["stopped"] == "finished"
    assert len(read_csv(tmp_path / "run" / "history.csv")) == 30


def test_the_line_takes_any_loss_optimizer_rate_and_patience(jaxloss, tmp_path):
    arguments = ["--loss", "huber_loss", "--loss-option", "delta=0.5", "--optimizer", "adam"]
    more = ["--learning-rate", 0.2, "--patience", 40, "--microbatches", 4, "--epochs", 3000]
    jaxloss("fit", "--data", "line", *arguments, *more, "--out", "run")
    result = read_json(tmp_path / "run" / "result.json")
    assert result["epochs"] == result["best_epoch"] + 40
    assert result["w"] == pytest.approx(3.7, abs=1e-3)


# --- every loss on every task


INPUTS = np.random.default_rng(0).normal(size=(40, 2))
NUMBERS = data.Table(
    name="numbers",
    columns=("x", "y"),
    kinds=("number", "number"),
    inputs=INPUTS,
    target="count",
    targets=np.rint(np.exp(1 + INPUTS[:, 0])) + 1,
)
BINARY = dataclasses.replace(
    NUMBERS, name="binary", targets=(INPUTS[:, 0] > 0).astype(int), classes=("no", "yes")
)
MULTICLASS = dataclasses.replace(
    NUMBERS, name="many", targets=np.digitize(INPUTS[:, 0], [-0.5, 0.5]), classes=("a", "b", "c")
)
TABLES = {table.name: table for table in (NUMBERS, BINARY, MULTICLASS)}
PAIRS = [
    (entry.name, table.name, entry.learns in tasks.kinds(table))
    for entry in catalogue.entries().values()
    for table in TABLES.values()
]


@pytest.mark.parametrize(("loss", "table"), [(loss, name) for loss, name, fits in PAIRS if fits])
def test_a_loss_trains_on_each_task_that_it_fits(loss, table):
    table = TABLES[table]
    experiment = prepare(table, table.split(0), catalogue.find(loss), {}, (4,))
    recipe = Recipe(epochs=12, batch_size=28, learning_rate=0.02, patience=12)
    fitted = fit.train(experiment, recipe, progress=False)
    first, *others = fitted.history["loss"]
    assert min(others) < first and np.isfinite(fitted.history["validation_loss"]).all()


@pytest.mark.parametrize(
    ("loss", "table"), [(loss, name) for loss, name, fits in PAIRS if not fits]
)
def test_every_other_pair_is_one_sentence(loss, table, mistake, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_: TABLES[table])
    assert f"{loss} learns" in mistake("fit", "--loss", loss)


def test_every_loss_fits_something_or_says_that_it_does_not():
    kinds = {entry.learns for entry in catalogue.entries().values()}
    assert kinds - {None} <= set(tasks.KINDS)
    assert {loss for loss, _, fits in PAIRS if fits} >= {"gaussian_nll_loss", "hinge_loss"}


def test_a_regression_of_negative_numbers_takes_no_positive_loss(mistake, tmp_path):
    write_csv(tmp_path / "t.csv", {"x": np.arange(30), "y": np.linspace(-1, 1, 30)})
    for loss in ("absolute_percentage_error", "poisson_nll_loss"):
        sentence = mistake("fit", "--data", "t.csv", "--target", "y", "--loss", loss)
        assert "does not fit 'y' (regression)" in sentence


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        ("gaussian_nll_loss", []),
        ("absolute_percentage_error", []),
        ("poisson_nll_loss", []),
        ("poisson_nll_loss", ["log_input=false"]),
        ("quantile_loss", ["quantile=0.1,0.5,0.9"]),
    ],
)
def test_predictions_are_in_the_unit_of_the_table(loss, given):
    """Whatever the loss wants of the outputs, a model learns y = 40 + 10 x."""
    x = np.linspace(-3, 3, 100)
    inputs, targets = x[:, None], np.round(40 + 10 * x)
    table = dataclasses.replace(
        NUMBERS, columns=("x",), kinds=("number",), inputs=inputs, targets=targets
    )
    entry = catalogue.find(loss)
    chosen = options.loss_options(entry, given)
    experiment = prepare(table, table.split(0), entry, chosen, (16,))
    recipe = Recipe(epochs=150, learning_rate=0.02, patience=150)
    fitted = fit.train(experiment, recipe, progress=False)
    assert fit.scores(experiment, fitted)["test"]["r2"] > 0.95


@pytest.mark.parametrize("name", ["lbfgs", "noisy_sgd", "schedule_free_sgd", "polyak_sgd"])
def test_optimizers_with_needs_of_their_own_train(name):
    experiment = prepare(NUMBERS, NUMBERS.split(0), catalogue.find("squared_error"), {}, ())
    recipe = Recipe(epochs=3, batch_size=28).but(optimizer=name, learning_rate=0.05)
    loss = fit.train(experiment, recipe, progress=False).history["loss"]
    assert loss[-1] < loss[0]


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # Optax, of its own
@pytest.mark.parametrize("name", sorted(options.optimizers()))
def test_every_optimizer_of_optax_is_made_by_its_name(name):
    made = options.optimizer(Recipe().but(optimizer=name))
    assert callable(made.init) and callable(made.update)


def test_the_optimizers_are_those_of_optax():
    assert {"adam", "adamw", "sgd", "lion", "lbfgs", "muon", "prodigy"} <= set(options.optimizers())


# --- tables


def test_a_csv_file_is_learnt_and_its_columns_are_scaled(jaxloss, tmp_path, rng):
    write_csv(tmp_path / "houses.csv", houses(rng))
    arguments = ["--data", "houses.csv", "--target", "price", "--learning-rate", 0.01]
    code, out, _ = jaxloss("fit", *arguments, "--out", "run")
    result, config = (read_json(tmp_path / "run" / f"{n}.json") for n in ("result", "config"))
    assert code == 0 and "R²" in out and "MAE" in out
    assert config["task"] == "regression" and config["loss"] == "squared_error"
    assert config["columns"] == ["size", "place=town", "place=village"]
    model, table = np.load(tmp_path / "run" / "model.npz"), data.load("houses.csv", "price", None)
    rows = model["train_rows"]
    scaled = (table.inputs[rows] - model["input_mean"]) * model["input_factor"]
    assert scaled[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert scaled[:, 0].std() == pytest.approx(1) and set(scaled[:, 1]) == {0, 1}
    for part in ("train", "validation", "test"):
        rows = model[f"{part}_rows"]
        outputs = forward(dict(model), table.inputs[rows])[:, 0]
        error = outputs * model["target_unit"] + model["target_center"] - table.targets[rows]
        r2 = 1 - np.mean(error**2) / table.targets[rows].var()
        assert result[part]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert result[part]["r2"] == pytest.approx(r2, abs=1e-4)
    assert result["test"]["r2"] > 0.9


def test_the_target_decides_the_task_unless_told(tmp_path, rng):
    columns = {"x": rng.normal(size=30), "digit": np.arange(30) % 3, "word": ["a", "b"] * 15}
    path = str(write_csv(tmp_path / "t.csv", {**columns, "many": np.arange(30)}))
    assert data.load(path, "x", None).task == "regression"
    assert data.load(path, "many", None).task == "regression"
    assert data.load(path, "digit", None).classes == ("0", "1", "2")
    assert data.load(path, "word", None).task == "binary classification"
    assert data.load(path, "digit", "regression").task == "regression"


def test_task_is_an_option_of_fit(jaxloss, tmp_path):
    write_csv(tmp_path / "t.csv", {"x": range(30), "y": [1, 2, 3] * 10})
    arguments = ["--data", "t.csv", "--target", "y", "--epochs", 1, "--hidden", 4, "--out", "run"]
    for task in ("regression", "classification"):
        jaxloss("fit", *arguments, "--task", task)
        assert task in read_json(tmp_path / "run" / "config.json")["task"]


def test_a_category_that_training_never_saw_is_no_category():
    table = dataclasses.replace(
        NUMBERS, columns=("c", "x"), kinds=("category", "number"), inputs=np.zeros((40, 2))
    )
    test = table.split(0)["test"]
    table.inputs[test[0], 0] = 1
    scaled = data.scale_of_inputs(table, table.split(0)["train"])(table.inputs)
    assert (scaled == 0).all()


@pytest.mark.parametrize(
    ("text", "target", "more", "sentence"),
    [
        ("x,y\n1,2\n", "y", [], "has 1 row"),
        ("", "y", [], "cannot be read as CSV"),
        (
            "x,y\n1,2\n2,\n3,4\n",
            "y",
            [],
            "1 missing or infinite value in column 'y', first in row 2",
        ),
        (
            "x,y\n1,2\n,3\n,4\n",
            "y",
            [],
            "2 missing or infinite values in column 'x', first in row 2",
        ),
        ("x,y\n1,2\n2,inf\n3,4\n", "y", [], "in column 'y', first in row 2"),
        ("x,y\n1,2\n2,2\n3,2\n", "y", [], "The target 'y' is constant"),
        ("x,price\n1,2\n2,3\n3,4\n", "prise", [], "has no column 'prise': did you mean price?"),
        ("x,y\n1,2\n2,3\n3,4\n", None, [], "needs --target: one of its columns x, y."),
        ("x,y\n1,2\n2,3.5\n3,four\n4,5\n", "y", [], "row 3 has the text 'four'"),
        ("x,y\n1,2.5\nb,3\n3,4\n4,5\n", "y", [], "Column 'x' holds numbers, but row 2"),
        ("x,y\n1,a\n2,b\n3,a\n4,b\n", "y", ["--task", "regression"], "The target 'y' is text"),
        ("x,y\n1,a\n2,b\n3,c\n4,d\n", "y", [], "has 4 classes in 4 rows"),
        ("y\n1.5\n2\n3\n", "y", [], "no column beside the target"),
    ],
)
def test_a_table_that_cannot_be_learnt_is_one_sentence(
    text, target, more, sentence, mistake, tmp_path
):
    (tmp_path / "t.csv").write_text(text)
    given = ["--target", target] if target else []
    assert sentence in mistake("fit", "--data", "t.csv", *given, *more)


def test_texts_without_repetition_are_no_categories(mistake, tmp_path):
    columns = {"name": [f"n{i}" for i in range(200)], "y": np.linspace(0, 1, 200)}
    write_csv(tmp_path / "t.csv", columns)
    assert "200 different texts" in mistake("fit", "--data", "t.csv", "--target", "y")


@pytest.mark.parametrize("name", data.BUNDLED)
def test_the_split_is_whole_and_in_proportion(name):
    table = data.load(name, None, None)
    split, again, other = table.split(0), table.split(0), table.split(1)
    assert sorted(np.concatenate(list(split.values()))) == list(range(len(table.targets)))
    for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert len(split[part]) == pytest.approx(share * len(table.targets), abs=1)
        assert np.array_equal(split[part], again[part])
        assert not np.array_equal(split[part], other[part])
        for index in range(len(table.classes)):
            of_class = np.sum(table.targets == index)
            assert np.sum(table.targets[split[part]] == index) == pytest.approx(
                share * of_class, abs=2
            )


def test_every_epoch_has_all_rows_in_an_order_of_its_own():
    rows = np.arange(100, 110)
    batches = list(order(rows, 4, epochs=2, seed=0))
    assert [where.sum() for _, where in batches] == [4, 4, 2, 4, 4, 2]
    first, second = (np.concatenate([b[w] for b, w in batches[i : i + 3]]) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(rows) and list(first) != list(second)
    other = np.concatenate([b for b, _ in order(rows, 4, epochs=2, seed=1)])
    assert list(other) != list(np.concatenate([b for b, _ in batches]))


# --- compare


def test_compare_trains_every_loss_with_every_seed(jaxloss, tmp_path):
    losses = "squared_error,absolute_error,huber_loss"
    arguments = ["--losses", losses, "--seeds", 4, "--outliers", 0.1, "--epochs", 12]
    code, out, err = jaxloss("compare", "--data", "diabetes", *arguments, "--out", "run")
    assert (code, err) == (0, "")
    rows, curves = (read_csv(tmp_path / "run" / f"{name}.csv") for name in ("compare", "curves"))
    assert [(row["loss"], int(row["seed"])) for row in rows] == [
        (loss, seed) for loss in losses.split(",") for seed in range(4)
    ]
    assert len({row["mae"] for row in rows}) == len(rows) and len(curves) == 12 * len(rows)
    mae = {loss: [float(r["mae"]) for r in rows if r["loss"] == loss] for loss in losses.split(",")}
    assert min(mae["squared_error"]) > 1.5 * max(mae["absolute_error"] + mae["huber_loss"])
    for loss, values in mae.items():
        (line,) = [line for line in out.splitlines() if loss in line]
        assert f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}" in line
    assert imread(tmp_path / "run" / "compare.png").shape[0] > 400

    jaxloss("compare", *arguments, "--seeds", 1, "--first-seed", 3, "--out", "alone")
    alone = read_csv(tmp_path / "alone" / "compare.csv")
    assert [row["seed"] for row in alone] == ["3", "3", "3"]
    for row in alone:
        (same,) = [r for r in rows if (r["loss"], r["seed"]) == (row["loss"], "3")]
        for metric in ("mse", "mae", "r2"):
            assert float(row[metric]) == pytest.approx(float(same[metric]), rel=1e-5)


COMPARED = ["compare", "--data", "wine", "--losses", "nll_loss", "--seeds", "2", "--epochs", "2"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The curves of a comparison before an option changes it."""
    path = tmp_path_factory.mktemp("usual")
    with pytest.raises(SystemExit):
        main.run([*COMPARED, "--hidden", "8", "--out", str(path)])
    return (path / "curves.csv").read_text()


@pytest.mark.parametrize(
    ("option", "value", "entry"),
    [
        ("--optimizer", "sgd", "optimizer"),
        ("--learning-rate", "0.1", "learning_rate"),
        ("--weight-decay", "500.0", "weight_decay"),
        ("--batch-size", "50", "batch_size"),
        ("--epochs", "3", "epochs"),
        ("--hidden", "9", "hidden"),
        ("--outliers", "0.3", "outliers"),
        ("--data", "iris", "data"),
    ],
)
def test_every_option_of_compare_changes_something(option, value, entry, usual, jaxloss, tmp_path):
    code, _, err = jaxloss(*COMPARED, "--hidden", 8, option, value, "--out", "run")
    curves = (tmp_path / "run" / "curves.csv").read_text()
    assert (code, err) == (0, "") and curves != usual and "accuracy" in curves
    config = read_json(tmp_path / "run" / "config.json")
    assert str(config[entry]).strip("[]") == value


def test_outliers_are_in_training_targets_only():
    for table in (NUMBERS, MULTICLASS):
        rows = table.split(0)["train"]
        changed = compare.with_outliers(table, rows, 0.25)
        different = np.flatnonzero(changed.targets != table.targets)
        assert len(different) == round(0.25 * len(rows)) and set(different) <= set(rows)
        assert set(tasks.kinds(changed)) == set(tasks.kinds(table))


def test_the_picture_of_a_comparison_shows_means_and_spreads():
    table, entries = NUMBERS, [catalogue.find(n) for n in ("squared_error", "log_cosh")]
    found = compare.compare(table, entries, np.arange(3), Recipe(epochs=4, hidden=(4,)))
    figure = compare.draw(found, "title")
    curves, *spreads = figure.axes
    assert [line.get_label() for line in curves.lines] == ["squared_error", "log_cosh"]
    assert (curves.get_xlabel(), curves.get_ylabel()) == ("epoch", "validation MAE")
    for entry, band in zip(entries, curves.collections, strict=True):
        values = np.array(found[found["loss"] == entry.name]["mae"]).reshape(3, 4)
        np.testing.assert_allclose(drawn(curves)[entry.name][1], values.mean(0))
        low = np.asarray(band.get_paths()[0].vertices)[:, 1].min()
        assert low == pytest.approx((values.mean(0) - values.std(0, ddof=1)).min())
    assert [axis.get_xlabel() for axis in spreads] == [
        f"validation {name}, last epoch" for name in ("MSE", "MAE", "R²")
    ]
    for axis, metric in zip(spreads, ("mse", "mae", "r2"), strict=True):
        last = np.array(found[found["epoch"] == 4][metric]).reshape(2, 3)
        bars = [bar for bar in axis.containers if isinstance(bar, ErrorbarContainer)]
        ends = np.array([bar.lines[2][0].get_segments()[0] for bar in bars])[:, :, 0]
        np.testing.assert_allclose(ends.mean(1), last.mean(1))
        np.testing.assert_allclose(np.ptp(ends, axis=1), 2 * last.std(1, ddof=1))


# --- plot


def test_plot_draws_value_and_gradient_of_each_loss(jaxloss, tmp_path):
    code, out, _ = jaxloss("plot", "squared_error", "huber_loss", "hinge_loss", "--out", "l.png")
    assert code == 0 and "l.png" in out and imread(tmp_path / "l.png").shape[1] > 1000
    entries = [catalogue.find(name) for name in ("squared_error", "huber_loss", "hinge_loss")]
    error, margin, error_gradient, margin_gradient = plot.draw(entries).axes
    assert error.get_ylabel() == "loss" and error_gradient.get_ylabel() == "gradient"
    assert "error" in error_gradient.get_xlabel() and "margin" in margin_gradient.get_xlabel()
    values, slopes = drawn(error), drawn(error_gradient)
    x, squared = values["squared_error"]
    np.testing.assert_allclose(squared, x**2, atol=1e-5)
    np.testing.assert_allclose(values["huber_loss"][1][x > 1], x[x > 1] - 0.5, atol=1e-5)
    np.testing.assert_allclose(slopes["squared_error"][1], 2 * x, atol=1e-5)
    np.testing.assert_allclose(slopes["huber_loss"][1], np.clip(x, -1, 1), atol=1e-5)
    x, hinge = drawn(margin)["hinge_loss"]
    np.testing.assert_allclose(hinge, np.maximum(0, 1 - x), atol=1e-5)
    assert [axis.get_legend() is not None for axis in (error, margin)] == [True, True]


LEARNING = [entry for entry in catalogue.entries().values() if entry.learns in plot.PANELS]


@pytest.mark.parametrize("entry", LEARNING, ids=lambda entry: entry.name)
def test_every_loss_that_learns_has_a_curve_whose_gradient_is_its_slope(entry):
    x, values, gradients = plot.curves(entry)
    assert np.isfinite(values).all() and np.isfinite(gradients).all()
    slopes = np.diff(np.asarray(values, float)) / np.diff(x)
    middle = (gradients[1:] + gradients[:-1]) / 2
    assert np.mean(np.abs(slopes - middle) < 0.02 * (1 + np.abs(middle))) > 0.98


def test_losses_of_different_kinds_have_panels_of_their_own():
    names = ("squared_error", "absolute_percentage_error", "poisson_nll_loss", "nll_loss")
    figure = plot.draw([catalogue.find(name) for name in names])
    labels = [axis.get_xlabel() for axis in figure.axes[4:]]
    assert len(set(labels)) == 4 and all(labels)
    assert len({line.get_color() for axis in figure.axes[:4] for line in axis.lines[:1]}) == 4
