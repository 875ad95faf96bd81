"""What the kernels for any device share: what they get, one tile of logits, what they return.

What is computed of a tile is elementwise, so that any kernel can trace it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss.fused import kernels
from jaxloss.fused.blocks import Options, Statistics
from jaxloss.fused.blocks import Tile as Size


class Tile(NamedTuple):
    """Logits x of a product z, and the derivatives of x in z, in the cap and in the temperature."""

    x: Array
    slope: Array
    in_cap: Array
    in_temperature: Array


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


class Operands(NamedTuple):
    """What a kernel gets besides hidden and head: a bias, labels or -1, the cap and its like."""

    bias: Array
    labels: Array
    scalars: Array
    capped: bool


def operands(name: str, size: Size, hidden: Array, head: Array, labels: Array, options: Options):
    """What a kernel gets; what it cannot do is an error that says so."""
    against = kernels.against(name, hidden, head)
    if size.spread or size.entropy:
        needs = "label_smoothing" if size.spread else "the entropy"
        against = f"{name} has no sums over the classes that {needs} needs."
    if against:
        raise ValueError(f"{against} Leave implementation=None for a schedule in pure JAX.")
    classes = head.shape[1]
    bias = jnp.broadcast_to(options.get("bias", jnp.float32(0)), (classes,))
    cap, one = options.get("logit_softcap", jnp.float32(1)), jnp.float32(1)
    temperature = options.get("temperature", one)
    here = (labels >= 0) & (labels < classes)
    labels = jnp.where(here, labels, -1).astype(jnp.int32)
    scalars = jnp.stack([cap, one / cap, one / temperature])
    return Operands(bias, labels, scalars, "logit_softcap" in options)


def found(others: Array, own: Array, labels: Array) -> Statistics:
    """The statistics of every token, where labels of -1 are in no class."""
    return Statistics(others, jnp.where(labels < 0, -jnp.inf, own))


def of_options(options: Options, bias: Array, cap: Array, temperature: Array) -> Options:
    """The gradients of the options in use, of those of every class and every token."""
    whole = {
        "bias": bias if jnp.ndim(options.get("bias", 0)) else jnp.sum(bias),
        "logit_softcap": jnp.sum(cap),
        "temperature": jnp.sum(temperature),
    }
    return {name: whole[name] for name in options}
