"""What several processes do together after the same step."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Agreement:
    """The largest of numbers that processes give after each step, which all learn two steps later.

    Nothing waits for a step that was just launched. `after` takes and returns an array of the
    state, so that every process computes this between the same two steps.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.largest = jax.jit(
            lambda numbers, array: jax.lax.optimization_barrier((jnp.max(numbers), array)),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )
        self.asked: collections.deque[Array] = collections.deque()

    def after(self, array: Array, number: int) -> tuple[Array, int]:
        """The same array, and what was agreed on."""
        local = np.full(len(self.each.addressable_devices), number, np.int32)
        numbers = jax.make_array_from_process_local_data(self.each, local)
        largest, array = self.largest(numbers, array)
        self.asked.append(largest)
        known = self.asked.popleft() if len(self.asked) > 2 else 0
        return array, int(jax.device_get(known))


def agreement(array: Array) -> Agreement | None:
    """Between the processes that an array of the state is spread over, if there are several."""
    place = array.sharding
    if place.is_fully_addressable or not isinstance(place, NamedSharding):
        return None
    return Agreement(place.mesh) if isinstance(place.mesh, Mesh) else None
