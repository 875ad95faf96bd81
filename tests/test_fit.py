"""The loops around a step: `fit` and its history, early stopping, `minimize`."""

import csv
import dataclasses
import signal
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import Aux, EarlyStop, History, Mean

X = jnp.array([1.0, 2.0])
LOSSES = 2.5 * 0.25 ** np.arange(20)  # of w = 1 - 0.5**n, which is what these steps make


def loss_fn(w, x):
    return jaxloss.squared_error(w * x, x, reduction=jaxloss.stats)


def start(steps_per_call=1, loss_fn=loss_fn):
    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1), steps_per_call=steps_per_call)
    return step, step.init(jnp.array(0.0))


def fit(batches, step_and_state=None, **options):
    step, state = step_and_state or start()
    return jaxloss.fit(step, state, batches, progress=False, **options)


def test_an_epoch_is_a_row_whose_loss_is_that_of_its_batches():
    state, history = fit([X, X, X], epochs=2)
    assert state.step == 6 and history.steps.tolist() == [3, 6]
    np.testing.assert_allclose(history["loss"], LOSSES[:6].reshape(2, 3).mean(1), rtol=1e-6)
    assert history["loss"].dtype == np.float64 and history.names == ["grad_norm", "loss"]
    assert history.stopped == "finished" and history.best is None
    with pytest.raises(KeyError, match="no curve is called 'auc'; there are grad_norm, loss"):
        history["auc"]


def test_steps_go_on_over_epochs_in_rows_of_every():
    state, history = fit([X, X, X], steps=8, every=5)
    assert state.step == 8 and history.steps.tolist() == [5, 8]
    expected = [LOSSES[:5].mean(), LOSSES[5:8].mean()]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-6)


def test_a_later_call_counts_on():
    step, state = start()
    state, _ = fit([X], (step, state), steps=3)
    _, history = fit([X], (step, state), steps=2)
    assert history.steps.tolist() == [5]


def test_a_call_of_several_steps_counts_them():
    state, history = fit([jnp.stack([X, X])], start(steps_per_call=2), steps=6, every=4)
    assert state.step == 6 and history.steps.tolist() == [4, 6]
    np.testing.assert_allclose(history["loss"][0], LOSSES[:4].mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="multiple of steps_per_call=2, got 5"):
        fit([X], start(steps_per_call=2), steps=5)


def test_batches_may_be_a_function_of_the_epoch():
    epochs = []

    def batches(epoch):
        epochs.append(epoch)
        return (X for _ in range(2))

    state, _ = fit(batches, epochs=3)
    assert epochs == [0, 1, 2] and state.step == 6
    state, _ = fit(batches, steps=5)
    assert epochs[3:] == [0, 1, 2] and state.step == 5


def test_batches_that_run_out():
    state, history = fit(iter([X, X, X]), steps=10, every=2)
    assert (state.step, history.stopped, history.steps.tolist()) == (3, "exhausted", [2, 3])
    with pytest.raises(ValueError, match="an iterator, which ends after one epoch, and epochs=2"):
        fit(iter([X]), epochs=2)
    for options in ({"epochs": 1}, {"steps": 1}):
        with pytest.raises(ValueError, match="batches is empty"):
            fit([], **options)


@pytest.mark.parametrize("options", [{}, {"steps": 1, "epochs": 1}, {"epochs": 0}, {"steps": 0}])
def test_how_long_is_said_once(options):
    with pytest.raises(ValueError, match="steps"):
        fit([X], **options)


def test_metrics_are_added_in_float64():
    def two(w, x):
        return loss_fn(w, x), Aux(metrics={"big": Mean(x[0], jnp.array(1.0))})

    big = [jnp.array([x, 0.0]) for x in (2.0**30, 1.0, 1.0, 1.0)]
    _, history = fit(big, start(loss_fn=two), epochs=1)
    assert history["big"][0] == (2.0**30 + 3) / 4


def test_no_metric_is_read_before_the_next_window_was_launched(monkeypatch):
    step, state = start()
    launched, read, fetch = [], [], jax.device_get

    def batches():
        for _ in range(100):
            launched.append(1)
            yield X

    def device_get(tree):
        if isinstance(tree, list):
            read.extend(tree)
            assert len(launched) == 100 or len(read) <= len(launched) - 16
        return fetch(tree)

    monkeypatch.setattr("jaxloss.loop.fit.time.monotonic", lambda: 0.0)
    monkeypatch.setattr("jaxloss.loop.fit.jax.device_get", device_get)
    fit(batches(), (step, state), epochs=1)
    assert len(read) == 100


def test_batches_are_read_while_the_device_computes_and_at_most_two_windows_of_them(monkeypatch):
    monkeypatch.setattr("jaxloss.loop.fit.time.monotonic", lambda: 0.0)
    monkeypatch.setattr("jaxloss.loop.fit.WINDOW", 4)
    step, state = start()
    fit([np.ones(2, np.float32)], (step, state), epochs=1)  # compiles

    @jax.jit
    def long():
        x = jax.lax.fori_loop(0, 30_000, lambda _, x: jnp.sin(x @ x), jnp.ones((64, 64)))
        return x[0, 0], x[0, 1]

    computed = []

    def batches():
        for i in range(20):
            computed.append(over.is_ready())
            yield np.full(2, i, np.float32)
        raise OSError("The disk is gone.")

    state = jax.block_until_ready(step.init(jnp.array(0.0)))
    first, over = long()
    state = dataclasses.replace(state, params=first)
    with pytest.raises(OSError, match=r"The disk is gone\."):
        fit(batches(), (step, state), epochs=1)
    assert computed == [False] * 8 + [True] * 12


# ---------------------------------------------------------------------- evaluation and stopping


def evaluations(values):
    rest = iter(values)
    return lambda state: {"loss": next(rest)}


def test_training_stops_early_and_keeps_the_best_state():
    values = [3.0, 1.0, Mean(jnp.array(0.0), jnp.array(0.0)), np.nan, 2.0, 0.0]
    state, history = fit([X], epochs=6, evaluate=evaluations(values), stop=EarlyStop(patience=3))
    assert (history.stopped, history.best, state.step) == ("early", 1, 5)
    np.testing.assert_array_equal(history["validation_loss"], [3, 1, np.nan, np.nan, 2])
    assert history.best_state is not None and history.best_state.step == 2
    assert history.best_state.params == 0.75 and state.params > 0.75


def test_stop_may_watch_another_value_or_nothing_at_all():
    accuracy = iter([0.5, 0.9, 0.7])

    def evaluate(state):
        return {"accuracy": next(accuracy)}

    stop = EarlyStop(patience=1, monitor="accuracy", mode="max")
    _, history = fit([X], epochs=3, evaluate=evaluate, stop=stop)
    assert (history.best, history.stopped, len(history.steps)) == (1, "early", 3)
    _, history = fit([X], epochs=2, evaluate=lambda state: {"accuracy": 1.0})
    assert history.best is None and history.best_state is None
    with pytest.raises(KeyError, match=r"'validation_loss'; there are .*validation_accuracy"):
        fit([X], epochs=1, evaluate=lambda state: {"accuracy": 1.0}, stop=EarlyStop())
    with pytest.raises(ValueError, match="give evaluate as well"):
        fit([X], epochs=1, stop=EarlyStop())


def test_evaluation_may_return_any_statistic():
    def evaluate(state):
        x = state.params * X
        return {"loss": jaxloss.root_mean_squared_error(x, X, reduction=jaxloss.stats)}

    _, history = fit([X], epochs=2, evaluate=evaluate)
    np.testing.assert_allclose(history["validation_loss"], np.sqrt(LOSSES[1:3]), rtol=1e-6)
    assert history.best == 1 and history.best_state is None


def test_what_evaluate_returns_has_names():
    with pytest.raises(TypeError, match=r"evaluate must return a dict .*, got float"):
        fit([X], epochs=1, evaluate=lambda state: 0.5)


def test_callbacks_see_each_row_whole():
    seen = []
    fit([X, X], epochs=2, callbacks=[lambda s, h: seen.append((int(s.step), h.last("loss")))])
    assert [step for step, _ in seen] == [2, 4]
    np.testing.assert_allclose([loss for _, loss in seen], LOSSES[:4].reshape(2, 2).mean(1))


def test_ctrl_c_before_the_first_step():
    def batches():
        raise KeyboardInterrupt
        yield X

    state, history = fit(batches(), epochs=1)
    assert (state.step, history.stopped, len(history.steps)) == (0, "interrupted", 0)


@pytest.mark.parametrize("interrupt", ["signal", "exception"])
def test_ctrl_c_ends_with_what_was_trained(interrupt):
    def batches():
        for i in range(10):
            if i == 4 and interrupt == "signal":
                signal.raise_signal(signal.SIGINT)
            if i == 4 and interrupt == "exception":
                raise KeyboardInterrupt
            yield X

    before = signal.getsignal(signal.SIGINT)
    state, history = fit(batches(), epochs=1)
    made = 5 if interrupt == "signal" else 4  # a signal lets the step that it meets end
    assert (state.step, history.stopped, history.steps.tolist()) == (made, "interrupted", [made])
    assert state.params == 1 - 0.5**made
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("values", "options", "best", "bad", "stop"),
    [
        ([3.0, 2.0, 2.0], {}, 2.0, 1, False),
        ([3.0, 2.0, 2.5, 2.1], {"patience": 2}, 2.0, 2, True),
        ([1.0, 2.0, 2.0], {"patience": None}, 1.0, 2, False),
        ([1.0, 0.95, 0.85], {"min_delta": 0.1}, 0.85, 0, False),
        ([100.0, 95.0, 85.0], {"rtol": 0.1}, 85.0, 0, False),
        ([100.0, 95.0, 91.0], {"rtol": 0.1}, 100.0, 2, False),
        ([0.5, 0.9, 0.7], {"mode": "max"}, 0.9, 1, False),
        ([-np.inf, np.inf, np.nan], {"patience": 3}, np.nan, 3, True),
        ([np.nan, 1.0], {"patience": 2}, 1.0, 0, False),
        ([Mean(jnp.array(4.0), jnp.array(2.0))], {}, 2.0, 0, False),
        ([Mean(jnp.array(0.0), jnp.array(0.0))], {"patience": 1}, np.nan, 1, True),
    ],
)
def test_early_stop(values, options, best, bad, stop):
    def watch(values):
        state = EarlyStop(**options)
        for value in values:
            state = state.update(value)
        return state

    for state in (watch(values), jax.jit(watch)(values)):
        np.testing.assert_array_equal(state.best, np.float32(best))
        assert (state.since_best, state.should_stop) == (bad, stop)
    wrong: Any = "least"
    with pytest.raises(ValueError, match="patience must be 1 or more, or None, got 0"):
        EarlyStop(patience=0)
    with pytest.raises(ValueError, match="mode must be 'min' or 'max', got 'least'"):
        EarlyStop(mode=wrong)


# ----------------------------------------------------------------------- what is left afterwards


def recorded():
    history = History(best=2)
    nothing = Mean(jnp.array(0.0), jnp.array(0.0))
    losses = [100.0, nothing, 2.0, 1.0]
    for row, (loss, validation) in enumerate(zip(losses, [50.0, 20.0, 4.0, 5.0], strict=True)):
        history.record(row, 10 * row + 10, {"loss": loss, "validation_loss": validation})
    return history


def test_history_as_a_table(tmp_path):
    path = tmp_path / "history.csv"
    recorded().to_csv(path)
    assert list(csv.DictReader(path.read_text().splitlines())) == [
        {"step": "10", "loss": "100.0", "validation_loss": "50.0"},
        {"step": "20", "loss": "", "validation_loss": "20.0"},
        {"step": "30", "loss": "2.0", "validation_loss": "4.0"},
        {"step": "40", "loss": "1.0", "validation_loss": "5.0"},
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.csv"]


def test_a_table_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        recorded().to_csv(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_history_as_a_picture(tmp_path):
    axes = recorded().plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines()}
    assert list(lines) == ["training loss", "validation loss", "best: 4 at step 30"]
    expected = [[10, 100], [20, np.nan], [30, 2], [40, 1]]
    np.testing.assert_array_equal(lines["training loss"], expected)
    np.testing.assert_array_equal(lines["validation loss"][:, 1], [50, 20, 4, 5])
    np.testing.assert_array_equal(lines["best: 4 at step 30"], [[30, 4]])
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step", "loss", "log")
    assert [entry.name for entry in tmp_path.iterdir()] == ["loss.png"]


def test_history_on_given_axes():
    figure, axes = plt.subplots()
    history = History()
    history.record(0, 1, {"loss": -1.0})
    assert history.plot(axes) is axes
    assert len(axes.get_lines()) == 1 and axes.get_yscale() == "linear"
    plt.close(figure)


def test_the_bar_shows_loss_and_speed(capsys):
    step, state = start()
    jaxloss.fit(step, state, [X, X], epochs=3)
    shown = capsys.readouterr().out
    assert "6/6" in shown and "loss 0.006104" in shown and "steps/s" in shown


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("rich", lambda: jaxloss.fit(*start(), [X], epochs=1)),
        ("matplotlib.figure", lambda: recorded().plot("loss.png")),
    ],
)
def test_what_is_missing_is_named(module, use, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxloss\[demo\]'"):
        use()


# ------------------------------------------------------------------------------------- minimize


def line(params):
    x = jnp.linspace(-1, 1, 20)
    return jaxloss.squared_error(params["w"] * x + params["b"], 3.7 * x - 1.3)


LINE = {"w": jnp.array(0.5), "b": jnp.array(0.2)}


def test_minimize_ends_when_there_is_no_new_best():
    found = jaxloss.minimize(line, LINE, optax.sgd(0.1), max_steps=5000)
    assert found.converged and found.steps < 5000 and found.loss < 1e-10
    assert abs(found.params["w"] - 3.7) < 1e-5 and abs(found.params["b"] + 1.3) < 1e-5
    assert abs(found.loss - line(found.params)) < 1e-12


def test_minimize_ends_at_the_step_limit():
    found = jaxloss.minimize(line, LINE, optax.sgd(0.1), max_steps=7)
    assert not found.converged and found.steps == 7
    np.testing.assert_allclose(found.loss, line(found.params), rtol=1e-6)
    longer = jaxloss.minimize(line, LINE, optax.sgd(0.1), max_steps=5000, rtol=0.5, patience=2)
    assert longer.converged and longer.loss > 1e-3


def test_minimize_returns_the_best_and_nan_is_never_it():
    rising = jaxloss.minimize(line, LINE, optax.sgd(10.0), max_steps=50, patience=3)
    np.testing.assert_allclose(rising.loss, line(LINE), rtol=1e-6)
    assert rising.params == LINE and rising.steps == 4
    lost = jaxloss.minimize(
        lambda params: {"nan": line(params) * jnp.nan}, LINE, optax.sgd(0.1), max_steps=50
    )
    assert not lost.converged and lost.steps == 20 and jnp.isnan(lost.loss)


def test_minimize_can_be_mapped():
    def solve(target):
        found = jaxloss.minimize(
            lambda x: jaxloss.squared_error(x, target), jnp.zeros(2), optax.lbfgs(), max_steps=50
        )
        return found.params

    targets = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
    np.testing.assert_allclose(jax.vmap(solve)(targets), targets, atol=1e-5)
