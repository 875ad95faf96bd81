"""The model: a multilayer perceptron, and how its parameters are kept in a file."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
from jax import Array

Parameters = Mapping[str, Mapping[str, Mapping[str, Array]]]


class MLP(nn.Module):
    """Dense layers with a relu between them; the outputs start around `offset`."""

    widths: tuple[int, ...]
    columns: int
    offset: float

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        for width in self.widths:
            inputs = nn.relu(nn.Dense(width)(inputs))
        return nn.Dense(self.columns, bias_init=nn.initializers.constant(self.offset))(inputs)


def named(parameters: Parameters) -> dict[str, np.ndarray]:
    """`kernel_0`, `bias_0`, `kernel_1`, ...: the layers from the inputs to the outputs."""
    layers = jax.device_get(parameters)["params"]
    return {
        f"{part}_{name.removeprefix('Dense_')}": np.asarray(layer[part])
        for name, layer in layers.items()
        for part in ("kernel", "bias")
    }
