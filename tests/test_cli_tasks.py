"""Losses, tables, comparisons and pictures of the command line."""

import dataclasses

import commands
import numpy as np
import pytest
from commands import drawn, forward, houses, read_arrays, read_csv, read_json, write_csv
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread

from jaxloss.cli import catalogue, compare, data, fit, main, options, plot, tasks
from jaxloss.cli.experiment import order, prepare
from jaxloss.cli.recipes import Recipe
from jaxloss.cli.table import Table, scale_of_inputs

jaxloss, mistake = commands.jaxloss, commands.mistake


# --- every loss on every task


INPUTS = np.random.default_rng(0).normal(size=(40, 2))
NUMBERS = Table(
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


def test_rows_with_more_fields_than_the_header_are_refused(mistake, tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{i},{2 * i}\n" for i in range(9)))
    assert "more fields in its rows" in mistake("fit", "--data", "t.csv", "--target", "y")


def test_a_csv_file_is_learnt_and_its_columns_are_scaled(jaxloss, tmp_path, rng):
    write_csv(tmp_path / "houses.csv", houses(rng))
    arguments = ["--data", "houses.csv", "--target", "price", "--learning-rate", 0.01]
    code, out, _ = jaxloss("fit", *arguments, "--out", "run")
    result, config = (read_json(tmp_path / "run" / f"{n}.json") for n in ("result", "config"))
    assert code == 0 and "R²" in out and "MAE" in out
    assert config["task"] == "regression" and config["loss"] == "squared_error"
    assert config["columns"] == ["size", "place=town", "place=village"]
    model, table = (
        read_arrays(tmp_path / "run" / "model.npz"),
        data.load("houses.csv", "price", None),
    )
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
    scaled = scale_of_inputs(table, table.split(0)["train"])(table.inputs)
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
    losses = "squared_error,huber_loss"
    arguments = ["--losses", losses, "--seeds", 4, "--outliers", 0.1, "--epochs", 12]
    code, out, err = jaxloss("compare", "--data", "diabetes", *arguments, "--out", "run")
    assert (code, err) == (0, "")
    rows, curves = (read_csv(tmp_path / "run" / f"{name}.csv") for name in ("compare", "curves"))
    assert [(row["loss"], int(row["seed"])) for row in rows] == [
        (loss, seed) for loss in losses.split(",") for seed in range(4)
    ]
    assert len({row["mae"] for row in rows}) == len(rows) and len(curves) == 12 * len(rows)
    mae = {loss: [float(r["mae"]) for r in rows if r["loss"] == loss] for loss in losses.split(",")}
    assert min(mae["squared_error"]) > 1.5 * max(mae["huber_loss"])
    for loss, values in mae.items():
        (line,) = [line for line in out.splitlines() if loss in line]
        assert f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}" in line
    assert imread(tmp_path / "run" / "compare.png").shape[0] > 400

    jaxloss("compare", *arguments, "--seeds", 1, "--first-seed", 3, "--out", "alone")
    alone = read_csv(tmp_path / "alone" / "compare.csv")
    assert [row["seed"] for row in alone] == ["3", "3"]
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
