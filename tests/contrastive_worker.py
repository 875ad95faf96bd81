"""One of several processes that have a part each: started by test_contrastive_processes.py."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss
from jaxloss.fused import Plan

UNITS = 16


def embeddings():
    return np.random.default_rng(0).normal(size=(2, UNITS, 5)).astype(np.float32)


def losses(clip, siglip, **how):
    """The gradients of both, by the embeddings and the scale."""

    def f(x, z, t):
        return clip(x, z, logit_scale=t, **how) + siglip(x, z, logit_scale=t, logit_bias=-t, **how)

    return jax.jit(jax.value_and_grad(f, (0, 1, 2)))


def heads():
    """Hidden states, a head whose classes the processes share, its bias, and labels."""
    rng = np.random.default_rng(1)
    shapes = (UNITS, 5), (5, 4 * UNITS), (4 * UNITS,)
    floats = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return *floats, rng.integers(4 * UNITS, size=UNITS).astype(np.int32)


def cross_entropy(loss, **how):
    """Of classes that each process has a part of: value, and the gradients of all floats."""

    def f(hidden, head, bias, labels):
        return loss(hidden, head, labels, bias=bias, label_smoothing=0.1, z_loss=0.01, **how)

    return jax.jit(jax.value_and_grad(f, (0, 1, 2)))


def gathered(value, grads):
    """What all processes have, as lists."""
    grads = [multihost_utils.process_allgather(grad, tiled=True) for grad in grads]
    return [np.asarray(leaf).tolist() for leaf in (value, *grads)]


def main(port, process, processes):
    jax.distributed.initialize(
        f"localhost:{port}", int(processes), int(process), cluster_detection_method="deactivate"
    )
    mesh = jax.make_mesh((int(processes),), ("rows",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    x, z = (jax.make_array_from_callback(a.shape, rows, a.__getitem__) for a in embeddings())
    said = []
    for columns in ("ring", "gathered"):
        how = {"data_axis": "rows", "mesh": mesh, "columns": columns}
        both = losses(jaxloss.sharded_clip_loss, jaxloss.sharded_siglip_loss, **how)
        said.append(gathered(*both(x, z, jnp.float32(2))))
    specs = [PartitionSpec(*p) for p in ((), (None, "rows"), ("rows",), ())]
    arrays = [
        jax.make_array_from_callback(a.shape, NamedSharding(mesh, spec), a.__getitem__)
        for a, spec in zip(heads(), specs, strict=True)
    ]
    loss = jaxloss.sharded_linear_softmax_cross_entropy
    how = {"mesh": mesh, "class_axis": "rows", "schedule": Plan("tiles", 8, 8)}
    entropy = gathered(*cross_entropy(loss, **how)(*arrays))
    print(json.dumps({"count": jax.process_count(), "said": said, "entropy": entropy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
