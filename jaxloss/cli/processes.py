"""One training in many processes: how they find each other, and the share of each."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxloss.cli.mistakes import Mistake
from jaxloss.loop.evaluate import pad_batch


def join(coordinator: str | None, process: int | None, processes: int | None) -> None:
    """Makes this process one of several: as it is told, or as the cluster says that it is in.

    When one of them dies, the others end too, and not with code 0, as soon as its heartbeat has
    been missing for 100 seconds. Before that a step of theirs may raise an error, as it has no
    answer. JAX prints "Terminating process because the JAX distributed service detected fatal
    errors. This most likely indicates that another task died", and which one, as in "Task 1
    heartbeat timeout"; of the first process at once, and that "the leader task was
    preempted/died".

    Raises:
        Mistake: The options do not fit each other, or the processes do not find each other.
    """
    told = (coordinator, process, processes) != (None, None, None)
    if not told and not _among_several() and not _on_a_tpu():
        return
    if coordinator is not None and process is not None and processes is not None:
        _require_valid(coordinator, process, processes)
    elif told:
        raise Mistake("--coordinator, --process and --processes go together: give all or none.")
    method = "deactivate" if told else None
    try:
        jax.distributed.initialize(coordinator, processes, process, cluster_detection_method=method)
    except (RuntimeError, ValueError) as error:
        if not told and not _among_several():
            return
        reason = str(error).partition("\n")[0].rstrip(".")
        raise Mistake(
            f"The processes do not find each other ({reason}): say in each of them which one it "
            "is, as in --coordinator HOST:PORT --process 0 --processes 2."
        ) from None


def _require_valid(coordinator: str, process: int, processes: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise Mistake(f"--coordinator is HOST:PORT, such as node1:12345, got {coordinator!r}.")
    if process >= processes:
        raise Mistake(f"--process must be below --processes, {processes}, got {process}.")


def _among_several() -> bool:
    """Whether a cluster has started several of this process. JAX finds out which one it is.

    JAX alone would also join a cluster of one, and in any pod of Kubernetes ask its server.
    """
    said = os.environ.get
    return (
        ("SLURM_STEP_NODELIST" in os.environ and said("SLURM_NTASKS", "1") != "1")
        or said("OMPI_COMM_WORLD_SIZE", "1") != "1"
        or "JOB_COMPLETION_INDEX" in os.environ  # of an indexed job of Kubernetes
        or "," in said("TPU_WORKER_HOSTNAMES", "")
        or said("MEGASCALE_NUM_SLICES", "1") != "1"
    )


def _on_a_tpu() -> bool:
    """Whether this is a machine of Cloud TPU, which only its metadata server tells more about."""
    chips = (Path("/dev/accel0"), Path("/dev/vfio/0"))
    return importlib.util.find_spec("libtpu") is not None and any(map(Path.exists, chips))


def leave(code: int) -> None:
    """Ends this process, which otherwise would wait at its end for the others."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def shardings() -> tuple[NamedSharding, NamedSharding] | tuple[None, None]:
    """Of the state, and of batches over all devices; of a lone process nothing."""
    if jax.process_count() == 1:
        return None, None
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("rows"))


def own_rows(
    batches: Iterator[tuple[np.ndarray, np.ndarray]], microbatches: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The share of this process in each batch, filled up so that all have as many rows."""
    count, index = jax.process_count(), jax.process_index()
    parts = microbatches * jax.device_count() if count > 1 else 1
    for taken, where in batches:
        (taken, where), _ = pad_batch((taken, where), -(-len(where) // parts) * parts)
        share = len(where) // count
        own = slice(index * share, (index + 1) * share)
        yield taken[own], where[own]
