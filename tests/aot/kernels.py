"""The kernels of linear heads, compiled ahead of time for devices that are not there."""

import jax
import jax.numpy as jnp

from jaxloss.fused import blocks

# tokens, features, classes, dtype, and whether there is a cap: Gemma 2, Llama 3, and ragged ones
SHAPES = {
    "gemma-2": (8192, 2304, 256000, jnp.bfloat16, True),
    "llama-3": (1024, 4096, 128256, jnp.bfloat16, False),
    "ragged": (1001, 192, 50304, jnp.bfloat16, True),
}


def value_and_gradients(kernel, size):
    """The statistics of a head, and all of their gradients."""

    def both(hidden, head, labels, options, change):
        def statistics(*operands):
            return blocks.statistics(kernel, size, *operands)

        found, pull = jax.vjp(statistics, hidden, head, labels, options)
        return found, pull(blocks.Statistics(*change))

    return both


def operands(tokens, features, classes, dtype, capped, sharding):
    """The shapes of its arguments, on a device."""

    def like(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    options = {"bias": like(classes), "temperature": like()}
    if capped:
        options["logit_softcap"] = like()
    hidden, head = like(tokens, features, dtype=dtype), like(features, classes, dtype=dtype)
    return hidden, head, like(tokens, dtype=jnp.int32), options, (like(tokens), like(tokens))


def compiled(kernel, size, arguments):
    """The program for the device that the arguments are on."""
    jax.clear_caches()
    return jax.jit(value_and_gradients(kernel, size)).lower(*arguments).compile()
