"""One of several processes whose rows meet: started by test_contrastive_processes.py."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss

UNITS = 16


def embeddings():
    return np.random.default_rng(0).normal(size=(2, UNITS, 5)).astype(np.float32)


def losses(clip, siglip, **how):
    """The gradients of both, by the embeddings and the scale."""

    def f(x, z, t):
        return clip(x, z, logit_scale=t, **how) + siglip(x, z, logit_scale=t, logit_bias=-t, **how)

    return jax.jit(jax.value_and_grad(f, (0, 1, 2)))


def main(port, process, processes):
    jax.distributed.initialize(
        f"localhost:{port}", int(processes), int(process), cluster_detection_method="deactivate"
    )
    mesh = jax.make_mesh((int(processes),), ("rows",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    x, z = (jax.make_array_from_callback(a.shape, rows, a.__getitem__) for a in embeddings())
    said = []
    for columns in ("ring", "gathered"):
        how = {"axis_name": "rows", "mesh": mesh, "columns": columns}
        both = losses(jaxloss.sharded_clip_loss, jaxloss.sharded_siglip_loss, **how)
        value, grads = both(x, z, jnp.float32(2))
        grads = [multihost_utils.process_allgather(grad, tiled=True) for grad in grads]
        said.append([np.asarray(leaf).tolist() for leaf in (value, *grads)])
    print(json.dumps({"count": jax.process_count(), "said": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
