"""A small training, and as a script one that is killed again and again.

`python training.py FOLDER SEED` prints how every child ended, as a line of JSON.
"""

import json
import os
import signal
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import jaxloss

BATCHES, EPOCHS, EVERY = 7, 14, 4


def loss_fn(params, batch, rng):
    x, y = batch
    hidden = jnp.tanh(x @ params["w"])
    kept = jax.random.bernoulli(rng, 0.8, hidden.shape)
    return jaxloss.squared_error(
        jnp.where(kept, hidden, 0) @ params["v"], y, reduction=jaxloss.stats
    )


def make(width=8, **options):
    """The step and the state to begin with, in which nothing is left out."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    precision = jaxloss.Precision(compute=jnp.float32, loss_scale="dynamic")
    step = jaxloss.make_train_step(
        loss_fn, optimizer, ema=0.9, precision=precision, nonfinite="skip", **options
    )
    params = {"w": jnp.linspace(-1, 1, 3 * width).reshape(3, width), "v": jnp.ones((width, 1))}
    model_state = {"seen": jnp.zeros((), jnp.int32)}
    return step, step.init(params, rng=jax.random.key(1), model_state=model_state)


def batches(epoch):
    for number in range(BATCHES):
        rng = np.random.default_rng([epoch, number])
        x = rng.normal(size=(16, 3)).astype(np.float32)
        yield x, x.sum(-1, keepdims=True)


def evaluate(state):
    x, y = next(batches(99))
    return {"loss": jnp.mean((jnp.tanh(x @ state.params["w"]) @ state.params["v"] - y) ** 2)}


def train(folder=None, step_and_state=None, data=batches, **options):
    step, state = step_and_state or make()
    checkpoint = None if folder is None else jaxloss.Checkpoints(folder, every=EVERY)
    options = {"epochs": EPOCHS, "checkpoint": checkpoint, **options}
    stop = jaxloss.EarlyStop(patience=20)
    return jaxloss.fit(step, state, data, evaluate=evaluate, stop=stop, progress=False, **options)


def bits(state, history):
    """All that must be the same after a training that was ended and one that was not."""
    named = {"state": state, "best": history.best_state}
    found = {"history": repr(history.to_json()).encode()}
    for path, leaf in jax.tree.leaves_with_path(named):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = leaf.dtype.name.encode() + np.asarray(leaf).tobytes()
    return found


# ---------------------------------------------------------------------------------- as a script


def die_in_save(moment):
    """In the second save from now on, before its change of a file of that number."""
    save, saves, left = ocp.CheckpointManager.save, iter(range(99)), []

    def counted(manager, step, **options):
        if next(saves) == 1:
            manager.wait_until_finished()
            left[:] = range(moment)
        return save(manager, step, **options)

    def audit(event, arguments):
        changes = event in ("open", "os.mkdir", "os.rename", "os.remove")
        if left and changes and ".orbax-checkpoint-tmp" in str(arguments[0]):
            left.pop()
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    mock.patch.object(ocp.CheckpointManager, "save", counted).start()
    sys.addaudithook(audit)


def die_at_batch(moment):
    """When so many batches were read from now on."""
    read = iter(range(moment))

    def counted(epoch):
        for batch in batches(epoch):
            yield batch
            if next(read, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

    return counted


def last_place(folder):
    last = max(int(name) for name in os.listdir(folder) if name.isdigit())
    with open(f"{folder}/{last}/training/metadata", "rb") as file:
        return file.read()


def child(folder, kind, moment, pipe):
    if kind == "save":
        die_in_save(moment)
    data = die_at_batch(moment) if kind == "batch" else batches
    found = bits(*train(folder, data=data)) | {"place": last_place(folder)}
    os.write(pipe, json.dumps({name: value.hex() for name, value in found.items()}).encode())


def forked(folder, kind, moment):
    """The signal that a child ended by, and what it wrote."""
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        child(folder, kind, moment, theirs)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as said:
        written = said.read()
    return os.waitpid(process, 0)[1], written


def main(folder, seed):
    """One child after another goes on where the last one was killed; the last one ends."""
    jax.config.update("jax_compilation_cache_dir", f"{folder}-programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    rng = np.random.default_rng(int(seed))
    kinds = rng.permutation(["batch"] * 5 + ["save"] * 5)
    ends = []
    for kind in kinds:
        moment = int(rng.integers(10, 17) if kind == "batch" else rng.integers(2, 26))
        ended, _ = forked(folder, kind, moment)
        names = os.listdir(folder)
        whole = [int(name) for name in names if name.isdigit()]
        ends.append({"kind": kind, "signal": ended, "last": max(whole), "files": names})
    ended, found = forked(folder, "", 0)
    _, expected = forked(f"{folder}-whole", "", 0)
    print(json.dumps({"ends": ends, "ended": ended, "found": found, "expected": expected}))


if __name__ == "__main__":
    main(*sys.argv[1:])
