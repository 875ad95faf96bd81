"""TPUs that are not here, and what a program that is compiled for them takes and sends."""

import collections
import os
import re

os.environ |= {  # what libtpu reads when it is loaded; the lock that a process may hold is not ours
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

jax.config.update("jax_platforms", "cpu")
MEBI = 2**20
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("


def devices(name):
    """Those of a topology such as "v5e:4x4"."""
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def one(name):
    """Where an array on the first of them is."""
    return SingleDeviceSharding(devices(name)[0])


def mesh(name, **axes):
    """A mesh of all of them."""
    grid = np.reshape(devices(name), tuple(axes.values()))
    return Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def temporaries(program):
    """Bytes of a device, besides arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def collectives(program):
    """How many of each kind a program has; one in a loop counts once."""
    return collections.Counter(re.findall(COLLECTIVE, program.as_text()))
