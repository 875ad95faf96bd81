"""Real processes that train together give what one of them gives alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
import worker
from commands import read_csv, read_json
from effort import FLAGS

from jaxloss.cli import processes
from jaxloss.cli.mistakes import Mistake

jaxloss, mistake = commands.jaxloss, commands.mistake
# of each process one device, not the eight of the tests
ALONE = {"XLA_FLAGS": FLAGS, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
ALONE["PYTHONPATH"] = str(Path(worker.jaxloss.__file__).parents[1])  # not another that is installed


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(commands, folder):
    """What each process returned, printed and complained about."""
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | ALONE,
        )
        for command in commands
    ]
    try:
        return [(each, *each.communicate(timeout=500)) for each in running]
    finally:
        for each in running:
            each.kill()


def workers(count, folder, sent=0, sender=0, at=0, *, spread=False):
    """One of them sends itself a signal at a step."""
    port, script = free_port(), Path(worker.__file__)
    said = folder, int(sent), sender, at, spread
    return start([[script, port, i, count, *said] for i in range(count)], folder)


def ours(out):
    """Without what JAX prints of the connections."""
    return "".join(line for line in out.splitlines(True) if not line.startswith("[Gloo]"))


def said_by(ended):
    """What processes say that ended well and with the same state."""
    assert [each.returncode for each, _, _ in ended] == [0] * len(ended), ended
    said = [json.loads(ours(out)) for _, out, _ in ended]
    assert [one["pid"] for one in said] == [each.pid for each, _, _ in ended]
    assert {one["count"] for one in said} == {len(ended)}
    assert len({one["digest"] for one in said}) == 1
    return said


@pytest.fixture(scope="module")
def alone():
    step, params = worker.make()
    return worker.train(None, step, step.init(params), lambda _: worker.batches())


def assert_ends_as(alone, folder):
    """The checkpoint in the folder, in a process that is alone."""
    step, params = worker.make()
    state, history = worker.train(folder, step, step.init(params), lambda _: worker.batches())
    np.testing.assert_allclose(history["loss"], alone[1]["loss"], rtol=1e-6)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(alone[0]), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-6)


def checkpoints(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_four_processes_give_the_losses_of_one(alone, tmp_path):
    for one in said_by(workers(4, tmp_path)):
        np.testing.assert_allclose(one["loss"], alone[1]["loss"], rtol=1e-6)
    assert checkpoints(tmp_path)[-1] == worker.STEPS
    assert_ends_as(alone, tmp_path)


SAID = ["the leader task was preempted/died", "heartbeat timeout"]


@pytest.mark.parametrize("dead", [0, 1], ids=["coordinator", "other"])
def test_when_one_dies_the_others_end_and_the_run_is_resumed(dead, alone, tmp_path):
    """What they say is JAX's: the documentation of `jaxloss.cli.processes.join` quotes it."""
    ended = workers(2, tmp_path, sent=signal.SIGKILL, sender=dead, at=14)
    last = max(path.stat().st_mtime for path in tmp_path.iterdir())  # shortly before the death
    assert time.time() - last < 3 * worker.HEARTBEAT
    (killed, _, _), (survivor, _, err) = ended[dead], ended[1 - dead]
    assert killed.returncode == -signal.SIGKILL and survivor.returncode not in (0, None)
    assert "another task died" in err and SAID[dead] in err, err
    assert checkpoints(tmp_path)[-1] in (8, 12)
    if dead == 0:
        for one in said_by(workers(2, tmp_path)):
            np.testing.assert_allclose(one["loss"], alone[1]["loss"], rtol=1e-6)
    assert_ends_as(alone, tmp_path)


def test_a_signal_to_one_ends_all_with_one_checkpoint(alone, tmp_path):
    """SIGTERM, and when the run is resumed Ctrl-C in the other process.

    The parameters are spread, and before the run is resumed the part of one process is damaged.
    """
    for sent, sender, at in ((signal.SIGTERM, 1, 4), (signal.SIGINT, 0, 10)):
        ended = workers(2, tmp_path, sent, sender, at, spread=True)
        stopped = "terminated" if sent == signal.SIGTERM else "interrupted"
        said = [(one["stopped"], one["step"]) for one in said_by(ended)]
        assert said == [(stopped, at + 3)] * 2 and checkpoints(tmp_path)[-1] == at + 3
        if at == 4:
            for part in (tmp_path / "7/state/ocdbt.process_1/d").iterdir():
                part.write_bytes(part.read_bytes()[:100])
    assert "step 7: " in ended[0][2] and "The one of step 4 is used" in ended[0][2]
    assert "step 7: " not in ended[1][2] and (tmp_path / "damaged-7").is_dir()
    assert_ends_as(alone, tmp_path)


# the last batch of an epoch has 10 of 40 rows, and the second process none of them
FIT = ["fit", "--data", "iris", "--epochs", "3", "--hidden", "8", "--batch-size", "40"]


def test_fit_in_two_processes_is_fit_in_one(jaxloss, tmp_path):
    where = ["--coordinator", f"localhost:{free_port()}", "--processes", 2]
    ended = start(
        [["-m", "jaxloss", *FIT, *where, "--process", i, "--out", f"run{i}"] for i in range(2)],
        tmp_path,
    )
    assert [each.returncode for each, _, _ in ended] == [0, 0], ended
    code, out, _ = jaxloss(*FIT, "--out", "alone")
    assert code == 0 and ours(ended[1][1]) == "" and not (tmp_path / "run1").exists()
    assert len(ours(ended[0][1]).splitlines()) == len(out.splitlines())
    one, two = (read_csv(tmp_path / name / "history.csv") for name in ("alone", "run0"))
    for row, other in zip(one, two, strict=True):
        expected = {name: float(number) for name, number in row.items()}
        assert {k: float(v) for k, v in other.items()} == pytest.approx(expected, rel=1e-5)
    one, two = (read_json(tmp_path / name / "result.json") for name in ("alone", "run0"))
    for part in ("train", "validation", "test"):
        assert two[part] == pytest.approx(one[part], rel=1e-5)
    assert read_json(tmp_path / "run0/config.json") == read_json(tmp_path / "alone/config.json")
    assert len(list((tmp_path / "run0").iterdir())) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--processes 2", "give all or none"),
        ("--coordinator node1:99 --process 0", "give all or none"),
        ("--coordinator node1 --process 0 --processes 2", "is HOST:PORT, such as"),
        ("--coordinator :99 --process 0 --processes 2", "is HOST:PORT, such as"),
        ("--coordinator node1:65536 --process 0 --processes 2", "is HOST:PORT, such as"),
        ("--coordinator node1:99 --process 2 --processes 2", "--process must be below --processes"),
    ],
)
def test_wrong_options_are_a_sentence(options, sentence, mistake):
    assert sentence in mistake("fit", *options.split())


CLUSTERS = [
    {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"},
    {"OMPI_COMM_WORLD_SIZE": "2"},
    {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
    {"TPU_WORKER_HOSTNAMES": "a,b"},
    {"MEGASCALE_NUM_SLICES": "2"},
]
ALONE_IN_A_CLUSTER = [
    {},
    {"SLURM_NTASKS": "2"},  # in a batch script, of which srun has not started several
    {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"},
    {"OMPI_COMM_WORLD_SIZE": "1"},
    {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # any pod, such as one with a notebook
    {"TPU_WORKER_HOSTNAMES": "a"},
]


@pytest.mark.parametrize("said", [*CLUSTERS, *ALONE_IN_A_CLUSTER], ids=str)
def test_jax_is_asked_only_where_a_cluster_has_started_several(said, monkeypatch):
    asked = []

    def initialize(*process, cluster_detection_method):
        asked.append((process, cluster_detection_method))
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name in {name for each in CLUSTERS for name in each}:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    if said in ALONE_IN_A_CLUSTER:
        processes.join(None, None, None)
        assert not asked
    else:
        with pytest.raises(Mistake, match=r"other \(coordinator_address should be defined\): say"):
            processes.join(None, None, None)
        assert asked == [((None, None, None), None)]
