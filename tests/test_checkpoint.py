"""Checkpoints: a training that ended, in whatever way, goes on as if it had not."""

import gc
import importlib
import json
import math
import signal
import subprocess
import sys
import types
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorboardX
import training
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from training import batches, bits, make, train

import jaxloss
from jaxloss import Checkpoints, EarlyStop

STEP = make()[0]
SHORT = {"epochs": 2}


def start(width=8):
    """A state to begin with, for the step that is compiled once."""
    return STEP, make(width)[1]


def run(folder, data=batches, **options):
    return train(folder, start(), data, **{**SHORT, **options})


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def whole():
    """What a training that nothing happened to has come to."""
    return bits(*run(None))


class Killed(Exception):
    """What a training dies of that nothing saves."""


def until(batch, data=batches):
    """The batches, until so many were read and the training dies."""

    def some(epoch):
        for number, one in enumerate(data(epoch)):
            if epoch * training.BATCHES + number == batch:
                raise Killed
            yield one

    return some


def killed(folder, batch, **options):
    with pytest.raises(Killed):
        run(folder, until(batch), **options)


def test_ten_trainings_killed_at_any_moment_end_as_the_one_that_was_not(tmp_path):
    """The kills come from a seed; half of them are inside the writing of a checkpoint."""
    command = [sys.executable, Path(training.__file__), tmp_path / "killed", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert [end["signal"] for end in said["ends"]] == 10 * [signal.SIGKILL]
    lasts = [end["last"] for end in said["ends"]]
    assert lasts == sorted(lasts) and 0 < lasts[0] < lasts[-1] < training.EPOCHS * training.BATCHES
    inside = [end for end in said["ends"] if end["kind"] == "save"]
    assert len(inside) == 5
    for end in inside:
        assert [name for name in end["files"] if name.endswith(".orbax-checkpoint-tmp")]
    assert said["ended"] == 0 and said["found"] == said["expected"]
    assert {"place", "history", "['state'].rng"} <= json.loads(said["found"]).keys()


def test_a_plain_iterable_is_read_again_up_to_the_place(tmp_path, whole):
    """Each epoch has another order, which depends on the epochs before."""

    class Loader:
        def __init__(self, last=math.inf):
            self.epoch, self.last = -1, last

        def __iter__(self):
            self.epoch += 1
            return iter(until(self.last)(self.epoch))

    with pytest.raises(Killed):
        run(tmp_path, Loader(last=10))
    assert steps_in(tmp_path) == [4, 8]
    assert bits(*run(tmp_path, Loader())) == whole


def test_an_iterator_of_grain_goes_on_from_its_state(tmp_path):
    def rows(read=None):
        def row(number):
            if read is not None:
                read.append(number)
            rng = np.random.default_rng(int(number))
            x = rng.normal(size=3).astype(np.float32)
            return x, x.sum(keepdims=True)

        whole = grain.MapDataset.range(48).shuffle(seed=3).map(row).batch(8)
        return whole.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))

    def stops_at_5(state, history):
        if state.step == 5:
            raise Killed

    expected = bits(*run(None, rows(), every=1, steps=11, epochs=None))
    with pytest.raises(Killed):
        run(tmp_path, rows(), every=1, steps=11, epochs=None, callbacks=[stops_at_5])
    read = []
    assert bits(*run(tmp_path, rows(read), every=1, steps=11, epochs=None)) == expected
    assert len(read) == 8 * 7  # of the steps 5 to 11, and no other


def test_a_finished_training_is_not_made_again_and_can_be_made_longer(tmp_path, whole):
    found = run(tmp_path, epochs=1)
    again = run(tmp_path, lambda epoch: pytest.fail("nothing is read"), epochs=1)
    assert bits(*found) == bits(*again)
    assert bits(*run(tmp_path)) == whole
    with pytest.raises(ValueError, match=r"newest of step 14: say resume='auto'"):
        run(tmp_path, resume="never")


def test_rows_may_be_shorter_and_calls_may_not_be_longer(tmp_path):
    """What was read is counted in calls of the step."""
    killed(tmp_path, 5, every=6, steps=8, epochs=None)
    _, history = run(tmp_path, every=2, steps=8, epochs=None)
    assert history.steps.tolist() == [4, 6, 8]
    with pytest.raises(ValueError, match="a training with steps_per_call=1, and the step has 7"):
        train(tmp_path, make(steps_per_call=7), epochs=3)


def test_early_stopping_goes_on_counting(tmp_path):
    def options():
        values = iter([3.0, 2.0, 2.5, 2.6, 0.0])
        return {
            "evaluate": lambda state: {"loss": values.__next__()},
            "stop": EarlyStop(patience=2),
        }

    def fit(epochs, skipped=0, **more):
        given = options()
        for _ in range(skipped):
            given["evaluate"](None)
        step, state = start()
        return jaxloss.fit(step, state, batches, epochs=epochs, progress=False, **given, **more)

    expected = fit(5)
    assert expected[1].stopped == "early" and expected[1].best == 1
    fit(3, checkpoint=tmp_path)
    found = fit(5, skipped=3, checkpoint=tmp_path)
    assert bits(*found) == bits(*expected) and found[1].stopped == "early"
    again = fit(5, checkpoint=tmp_path)
    assert bits(*again) == bits(*expected) and again[1].stopped == "early"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number, tmp_path, whole):
    def some(epoch):
        for place, batch in enumerate(batches(epoch)):
            if (epoch, place) == (0, 5):
                signal.raise_signal(number)
            yield batch

    before = signal.getsignal(number)
    state, history = run(tmp_path, some)
    stopped = "terminated" if number == signal.SIGTERM else "interrupted"
    assert (state.step, history.stopped) == (6, stopped) and steps_in(tmp_path) == [4, 6]
    assert signal.getsignal(number) is before
    state, history = run(tmp_path)
    assert bits(state, history) == whole and history.stopped == "finished"


# ----------------------------------------------------------------------------- what is not right


def damage(folder):
    """Cuts the data of the parameters short."""
    files = [path for path in (folder / "state").rglob("*") if path.parent.name == "d"]
    for path in files:
        path.write_bytes(path.read_bytes()[:-10])
    assert files


# Orbax drops the other reads of a checkpoint when one fails, and closes their event loop: what was
# not begun is never awaited, and says so here or when it is collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("what", ["truncated", "state", "training"])
def test_a_damaged_checkpoint_is_a_sentence_and_the_older_one_is_used(what, tmp_path, whole):
    killed(tmp_path, 10)
    if what == "truncated":
        damage(tmp_path / "8")
    else:
        (tmp_path / "8" / what).rename(tmp_path / what)
    with pytest.warns(UserWarning, match=r"step 8: .*The one of step 4 is used"):
        found = run(tmp_path)
    gc.collect()  # what was dropped
    assert bits(*found) == whole
    assert (tmp_path / "damaged-8").is_dir() and steps_in(tmp_path)[-1] == 14
    assert bits(*run(tmp_path)) == whole


def test_a_foreign_checkpoint_is_a_sentence_and_stays(tmp_path):
    killed(tmp_path, 10)
    wrong = (
        r"step 8: it is of another training, as state.params\['v'\] was float32\[8, 1\] and is f"
    )
    with pytest.raises(ValueError, match=wrong):
        train(tmp_path, make(width=4), epochs=1)
    assert steps_in(tmp_path) == [4, 8]


def test_a_foreign_folder_and_wrong_options(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave({"w": jnp.ones(2)}))
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be continued: step 3"):
        run(tmp_path)
    for options in ({"every": 0}, {"keep_last": 0}, {"keep_best": -1}):
        with pytest.raises(ValueError, match="or more, got"):
            Checkpoints(tmp_path, **options)


def test_without_orbax_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxloss\[demo\]'"):
        run(tmp_path)


# -------------------------------------------------------------------------------- which are kept


def test_the_last_and_the_best_are_kept(tmp_path):
    values = iter([5.0, 1.0, math.nan, 4.0, 3.0, 2.0])
    step, state = start()
    jaxloss.fit(
        step,
        state,
        lambda epoch: list(batches(epoch))[:2],
        epochs=6,
        evaluate=lambda state: {"loss": next(values)},
        checkpoint=Checkpoints(tmp_path, keep_last=1, keep_best=2),
        progress=False,
    )
    assert steps_in(tmp_path) == [4, 12]


def test_a_manager_of_orbax_decides_itself(tmp_path, whole):
    def manager():
        options = ocp.CheckpointManagerOptions(save_interval_steps=6, max_to_keep=9)
        return ocp.CheckpointManager(tmp_path, options=options)

    def fit(data, epochs):
        step, state = start()
        with manager() as own:
            return train(None, (step, state), data, epochs=epochs, checkpoint=own)

    with pytest.raises(Killed):
        fit(until(13), 2)
    assert steps_in(tmp_path) == [1, 6, 12]
    assert bits(*fit(batches, 2)) == whole
    assert steps_in(tmp_path) == [1, 6, 12, 14]


# ---------------------------------------------------------------------------------- many devices


def spread(state, mesh):
    """Matrices by their columns, all else everywhere."""

    def place(leaf):
        split = leaf.ndim == 2 and leaf.shape[1] % 8 == 0
        return jax.device_put(leaf, NamedSharding(mesh, P(None, "data") if split else P()))

    return jax.tree.map(place, state)


@pytest.mark.parametrize("there", [1, 8])
def test_what_is_saved_on_one_device_goes_on_on_eight_and_back(there, tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def fit(devices, epochs):
        step, state = make()
        state = spread(state, mesh) if devices == 8 else state
        rows = NamedSharding(mesh, P("data")) if devices == 8 else None
        return train(tmp_path, (step, state), epochs=epochs, sharding=rows)

    saved, history = fit(there, 1)
    found, after = fit(9 - there, 1)
    assert bits(found, after) == bits(saved, history)
    assert len(found.params["w"].sharding.device_set) == 9 - there
    assert len(found.params["w"].addressable_shards[0].data.T) == (8 if there == 8 else 1)
    found, _ = fit(9 - there, 2)
    expected, _ = train(None, make(), epochs=2)
    np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=1e-4, atol=1e-5)


def test_evaluation_of_ragged_data_on_eight_devices_is_that_of_all_rows():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(37, 3)).astype(np.float32), np.array([1.0, -2.0, 0.5], np.float32)
    y = rng.normal(size=37).astype(np.float32)

    def loss_fn(params, batch):
        (x, y), where = batch
        return jaxloss.root_mean_squared_error(x @ params, y, where=where, reduction=jaxloss.stats)

    step = jaxloss.make_train_step(loss_fn, optax.sgd(0.1))
    evaluate, state, acc = jaxloss.make_eval_step(loss_fn), step.init(w), None
    for first in range(0, 37, 16):  # 16, 16 and 5 rows: three devices of the last have none
        batch = jaxloss.pad_batch((x[first : first + 16], y[first : first + 16]), 16)
        acc = evaluate(state, jax.device_put(batch, NamedSharding(mesh, P("data"))), acc)
    assert acc is not None
    expected = np.sqrt(np.mean((x.astype(float) @ w - y) ** 2))
    np.testing.assert_allclose(acc["loss"].value(), expected, rtol=1e-6)


# ------------------------------------------------------------------- batches on their way; curves


class Tensor:
    """What torch and TensorFlow have: another array, that NumPy can read."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_arrays_may_be_those_of_others_and_a_buffer_may_be_filled_again():
    tensors = [[Tensor(x), Tensor(y)] for x, y in batches(0)]

    def reused():
        x, y = (np.empty_like(part) for part in next(batches(0)))
        for new_x, new_y in batches(0):
            x[:], y[:] = new_x, new_y
            yield x, y

    expected = run(None, list(batches(0)), epochs=1)
    for data in (tensors, reused()):
        assert bits(*run(None, data, epochs=1)) == bits(*expected)


def test_the_curves_are_written_for_tensorboard(tmp_path, monkeypatch):
    events = importlib.import_module("tensorboardX.proto.event_pb2")
    writers, make_writer = [], tensorboardX.SummaryWriter

    def noted(*arguments, **options):
        writers.append(make_writer(*arguments, **options))
        return writers[-1]

    monkeypatch.setattr(tensorboardX, "SummaryWriter", noted)
    _, history = run(None, callbacks=[jaxloss.tensorboard(tmp_path)])
    writers[0].close()  # as it does when Python ends
    (path,) = tmp_path.iterdir()
    found, content = {}, path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event, content = events.Event.FromString(content[12 : 12 + size]), content[16 + size :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    names = {name.replace(" ", "_") for name in history.names}
    assert found.keys() == {(name, step) for name in names for step in (7, 14)}
    for name in history.names:
        curve = [found[name, step] for step in (7, 14)]
        np.testing.assert_allclose(curve, history[name], rtol=1e-6)


def test_without_tensorboardx_clu_writes_and_without_both_there_is_a_sentence(
    monkeypatch, tmp_path
):
    written = []
    fake = types.SimpleNamespace(
        SummaryWriter=lambda path: types.SimpleNamespace(
            write_scalars=lambda step, row: written.append((path, step, row))
        )
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "clu", types.ModuleType("clu"))
    monkeypatch.setitem(sys.modules, "clu.metric_writers", fake)
    _, history = run(None, callbacks=[jaxloss.tensorboard(tmp_path)])
    row = {name: history.last(name) for name in history.names}
    assert len(written) == 2 and written[1] == (str(tmp_path), 14, row)
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboardX"):
        jaxloss.tensorboard(tmp_path)
