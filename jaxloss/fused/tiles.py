"""What the kernels compute of one tile of logits, wherever they run; it has no units of its own.

Everything is elementwise, so that a kernel for any device can trace it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Tile(NamedTuple):
    """Logits x of a product z, and the derivatives of x in z, in the cap and in the temperature."""

    x: Array
    slope: Array
    in_cap: Array
    in_temperature: Array


def scalars(cap: Array | None, temperature: Array) -> Array:
    """What `tile` needs of the cap and the temperature: the cap, 1 / cap and 1 / temperature."""
    cap = temperature if cap is None else cap
    return jnp.stack([cap, 1 / cap, 1 / temperature])


def tile(product: Array, capped: bool, cap: Array, of_cap: Array, of_temperature: Array) -> Tile:
    """x = cap·tanh(z / cap) / temperature, or z / temperature; -inf stays what it is."""
    absent = product == -jnp.inf
    z = jnp.where(absent, 0.0, product)
    x, slope, in_cap = product, jnp.ones_like(z), jnp.zeros_like(z)
    if capped:
        v = z * of_cap
        share, tail = jnp.tanh(v), jnp.exp(-2 * jnp.abs(v))
        slope = 4 * tail / ((1 + tail) * (1 + tail))
        x, in_cap = jnp.where(absent, -jnp.inf, cap * share), (share - v * slope) * of_temperature
    x = x * of_temperature
    in_temperature = jnp.where(absent, 0.0, -x * of_temperature)
    return Tile(x, jnp.where(absent, 1.0, slope * of_temperature), in_cap, in_temperature)


def finite(top: Array) -> Array:
    """What to count exponents from: the largest, or 0 where nothing is present."""
    return jnp.where(top == -jnp.inf, 0.0, top)


def in_x(x: Array, label: Array, others: Array, g_others: Array, g_own: Array) -> Array:
    """The gradient in x of g_others·others + g_own·own, the statistics of its token."""
    return jnp.where(label, g_own, g_others * jnp.exp(x - finite(others)))
