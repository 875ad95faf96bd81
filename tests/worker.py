"""One of several processes that train together: started by test_processes.py, or imported by it."""

import hashlib
import json
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss

STEPS, ROWS = 20, 18
HEARTBEAT = 10  # seconds, of a training in which one dies
# where the rows of each process begin and end: uneven shares, and of four one is empty
CUTS = {1: (0, 18), 2: (0, 11, 18), 4: (0, 9, 9, 16, 18)}


def loss_fn(params, batch):
    (x, y), where = batch
    p = jnp.tanh(x @ params["w"]) @ params["v"]
    loss = jaxloss.root_mean_squared_error(p, y, where=where, reduction=jaxloss.stats)
    return {"root": loss, "size": jaxloss.Mean.of(0.1 * jnp.abs(p), where)}


def make():
    """The step, and the parameters to start from."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 512)), "v": rng.normal(size=512) / 16}
    step = jaxloss.make_train_step(loss_fn, optax.adam(1e-2), ema=0.9, microbatches=2)
    return step, jax.tree.map(lambda leaf: leaf.astype(np.float32), params)


def batches(first=0, process=0, processes=1, sent=None, at=None):
    """The rows of a process, from a step on, filled up so that all have as many.

    At a step it may send itself a signal.
    """
    cuts = CUTS[processes]
    size = 2 * -(-max(np.diff(cuts)) // 2)
    for step in range(first, STEPS):
        if step == at and sent:
            signal.raise_signal(sent)
        x = np.random.default_rng(step).normal(size=(ROWS, 5)).astype(np.float32)
        own = x[cuts[process] : cuts[process + 1]]
        yield jaxloss.pad_batch((own, np.sin(own.sum(1)) + 2), size)


def train(folder, step, state, rows, **options):
    """To the last step, from the last checkpoint in the folder."""
    checkpoint = folder and jaxloss.Checkpoints(folder, every=4)
    options |= {"checkpoint": checkpoint, "every": 1, "progress": False}
    return jaxloss.fit(step, state, rows, steps=STEPS, **options)


def placed(mesh, spread):
    """The parameters everywhere, or each in parts."""
    if not spread:
        return NamedSharding(mesh, PartitionSpec())
    return {"w": NamedSharding(mesh, PartitionSpec(None, "rows")), "v": on_rows(mesh)}


def on_rows(mesh):
    return NamedSharding(mesh, PartitionSpec("rows"))


def main(port, process, processes, folder, sent, sender, at, spread):
    process, processes, sent, at = int(process), int(processes), int(sent), int(at)
    jax.distributed.initialize(
        f"localhost:{port}",
        processes,
        process,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT if sent == signal.SIGKILL else 100,
    )
    mesh = jax.make_mesh((processes,), ("rows",), axis_types=(AxisType.Auto,))
    step, params = make()
    state, history = train(
        folder,
        step,
        step.init(params, sharding=placed(mesh, spread == "True")),
        lambda _: batches(0, process, processes, sent if process == int(sender) else None, at),
        sharding=on_rows(mesh),
    )
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
    trained = state.params, state.opt_state, state.ema
    if spread == "True":
        trained = whole(trained)
    leaves = map(np.asarray, jax.tree.leaves(trained))
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
    said = {"count": jax.process_count(), "pid": os.getpid(), "digest": digest}
    said |= {"step": int(state.step), "stopped": history.stopped}
    print(json.dumps({**said, "loss": history["loss"].tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
