"""The command line: real commands in a temporary folder, and what they wrote."""

import dataclasses
import functools
import os
import pty
import re
import signal
import subprocess
import sys
import time

import commands
import numpy as np
import pytest
from commands import forward, read_arrays, read_csv, read_json
from matplotlib.image import imread

from jaxloss.cli import catalogue, data, fit
from jaxloss.cli.experiment import prepare
from jaxloss.cli.recipes import Recipe

jaxloss, mistake = commands.jaxloss, commands.mistake
SMALL = Recipe(epochs=2, hidden=(8,), batch_size=16)


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
    `torch.nn.functional.y(a, b=2)`: with `scale=2`, a mean
    `keras.losses.x(b, a)`:
        `100 * x(a, b)`,
        a note

Example:
    `not.this`
"""
    names, peers = catalogue.also_known_as(text)
    assert names == ("First name", "FN", "second name", "third")
    assert peers == (
        catalogue.Counterpart("torch.nn.functional.y(a, b=2)", "", "with `scale=2`, a mean"),
        catalogue.Counterpart("keras.losses.x(b, a)", "100 * x(a, b)", "a note"),
    )


def test_migration_table_of_a_peer(jaxloss):
    code, out, _ = jaxloss("losses", "--peer", "keras")
    assert code == 0 and "torch" not in out and "sparse_categorical_crossentropy(y, x" in out
    assert re.search(r"mean_absolute_percentage_error\(t, p\) +100 \* absolute_perc", out)
    assert "mean_squared_error" not in jaxloss("losses", "--peer", "keras", "huber")[1]


# --- wrong on purpose


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("show mse", "did you mean squared_error?"),
        ("show huber_los", "did you mean huber_loss"),
        ("losses qqqq", "no loss 'qqqq'"),
        ("losses --peer pytorch", "--peer is one of keras"),
        ("losses --peer torch qqqq", "Nothing of torch is about 'qqqq'"),
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
        ("fit --loss-option label_smoothing=1j", "label_smoothing is a number"),
        ("fit --loss-option class_weights=1j,2", "class_weights is a number"),
        ("fit --loss-option class_weights=1,2", "class_weights"),
        ("fit --data diabetes --loss-option delta=1", "squared_error has no option 'delta'."),
        ("fit --optimizer adamm", "did you mean adam"),
        ("fit --optimizer sgd --weight-decay 0.1", "sgd has no weight decay"),
        ("fit --hidden 64,x", "--hidden is widths"),
        ("fit --hidden -1", "--hidden is widths"),
        ("fit --hidden 99999999999999", "at most 65536"),
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


@pytest.mark.parametrize("data", ["digits", "line"])
def test_a_batch_that_does_not_split_leaves_no_folder(data, mistake, tmp_path):
    mistake("fit", "--data", data, "--microbatches", "7")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "fitt",
        "fit --dta digits",
        "fit --epochs 0",
        "fit --seed x",
        "fit --seed 99999999999999999999",
        "compare",
        "plot",
        "show",
    ],
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
    model = read_arrays(run / "model.npz")
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
    run["model"] = read_arrays(tmp_path / "run" / "model.npz")
    assert shown(run)


def test_microbatches_give_the_same_model_in_less_memory(jaxloss, tmp_path):
    models = []
    for count in (1, 4):
        arguments = ["--data", "iris", "--epochs", 2, "--hidden", 8, "--microbatches", count]
        jaxloss("fit", *arguments, "--out", f"run{count}")
        models.append(read_arrays(tmp_path / f"run{count}" / "model.npz"))
    assert read_json(tmp_path / "run4" / "config.json")["microbatches"] == 4
    for name in models[0]:
        np.testing.assert_allclose(models[0][name], models[1][name], atol=1e-5)


def test_a_run_that_fails_leaves_its_folder_as_it_was(jaxloss, mistake, tmp_path):
    usual = "fit --data iris --hidden 4 --epochs 2 --out run".split()
    assert jaxloss(*usual)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    mistake(*usual, "--learning-rate", "1e30")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert "config.json" in before


def test_a_run_overwrites_its_folder_whole_and_leaves_no_temporary_file(jaxloss, tmp_path):
    for epochs in (2, 1):
        jaxloss("fit", "--data", "iris", "--epochs", epochs, "--hidden", 4, "--out", "run")
    assert len(read_csv(tmp_path / "run" / "history.csv")) == 1
    assert len(list((tmp_path / "run").iterdir())) == 5


def test_a_picture_that_cannot_be_written_leaves_none(mistake, tmp_path):
    (tmp_path / "loss.png").mkdir()
    assert "cannot be written" in mistake("plot", "huber_loss", "--out", "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


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
    assert "kernel_2" in read_arrays(tmp_path / "run" / "model.npz")


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # a terminal that nobody writes to any more
        return b""


def test_control_c_before_the_training_ends_at_once(tmp_path):
    code = (
        "import os, signal, sys; from jaxloss.cli import main\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sklearn': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "main.run(['fit', '--out', 'run'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not (tmp_path / "run").exists()


# --- the line


def test_the_line_is_found(jaxloss, tmp_path):
    arguments = ["--data", "line", "--loss", "squared_error", "--optimizer", "sgd"]
    code, out, _ = jaxloss("fit", *arguments, "--out", "run")
    result = read_json(tmp_path / "run" / "result.json")
    assert code == 0 and result["train"]["loss"] < 1e-10
    assert abs(result["w"] - 3.7) < 1e-5 and abs(result["b"] + 1.3) < 1e-5
    assert result["stopped"] == "early" and "stopped: no new best loss for 20 steps" in out
    assert result["epochs"] == result["best_epoch"] + 20
    model = read_arrays(tmp_path / "run" / "model.npz")
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
