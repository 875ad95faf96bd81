"""What people write by hand, written here for comparison: nothing of this is in the library."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

TOKENS, CLASSES = 1024, 2048


@jax.custom_vjp
def by_chunks(hidden: Array, head: Array, labels: Array) -> Array:
    """Cross entropy of a linear head in chunks of tokens and classes: two passes, four products.

    The style of tokamax's `chunked_xla`, with its block sizes: the normaliser is saved and the
    logits are computed again. Columns that pad the last block are masked here.
    """
    return _chunks_forward(hidden, head, labels)[0]


def _blocks(hidden: Array, head: Array) -> tuple[Array, Array, int, int]:
    rows = min(TOKENS, len(hidden))
    columns = min(CLASSES, head.shape[1])
    h = jnp.pad(hidden, ((0, -len(hidden) % rows), (0, 0))).reshape(-1, rows, hidden.shape[1])
    w = jnp.pad(head, ((0, 0), (0, -head.shape[1] % columns)))
    w = w.reshape(head.shape[0], -1, columns).swapaxes(0, 1)
    return h, w, rows, columns


def _scores(h: Array, w: Array, start: Array, classes: int) -> Array:
    scores = jnp.matmul(h, w, preferred_element_type=jnp.float32)
    present = start + jnp.arange(w.shape[1]) < classes
    return jnp.where(present, scores, -jnp.inf)


def _chunks_forward(hidden: Array, head: Array, labels: Array):
    h, w, rows, columns = _blocks(hidden, head)
    y = jnp.pad(labels, (0, -len(labels) % rows)).reshape(-1, rows)
    starts = columns * jnp.arange(len(w))

    def of_rows(_: None, chunk: tuple[Array, Array]):
        part, own = chunk

        def of_columns(carry: tuple[Array, Array], block: tuple[Array, Array]):
            lse, picked = carry
            x = _scores(part, block[0], block[1], head.shape[1])
            index = own - block[1]
            here = (index >= 0) & (index < columns)
            mine = jnp.take_along_axis(x, jnp.clip(index, 0, columns - 1)[:, None], 1)[:, 0]
            picked = jnp.where(here, mine, picked)
            return (jnp.logaddexp(lse, jax.nn.logsumexp(x, axis=1)), picked), None

        first = jnp.full(rows, -jnp.inf), jnp.zeros(rows)
        return None, jax.lax.scan(of_columns, first, (w, starts))[0]

    _, (lse, picked) = jax.lax.scan(of_rows, None, (h, y))
    kept = (lse - picked).reshape(-1)[: len(labels)]
    return kept.mean(), (hidden, head, labels, lse)


def _chunks_backward(saved: tuple[Array, Array, Array, Array], change: Array):
    hidden, head, labels, lse = saved
    h, w, rows, columns = _blocks(hidden, head)
    y = jnp.pad(labels, (0, -len(labels) % rows), constant_values=-1).reshape(-1, rows)
    starts = columns * jnp.arange(len(w))
    times = change / len(labels)

    def of_columns(dh: Array, block: tuple[Array, Array]):
        part, start = block

        def of_rows(dw: Array, chunk: tuple[Array, Array, Array]):
            x, own, normaliser = chunk
            p = jnp.exp(_scores(x, part, start, head.shape[1]) - normaliser[:, None])
            g = p - (own[:, None] - start == jnp.arange(columns))
            g = (times * jnp.where(own[:, None] >= 0, g, 0)).astype(hidden.dtype)
            dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
            return dw + dot(x.T, g), dot(g, part.T)

        dw, parts = jax.lax.scan(of_rows, jnp.zeros(part.shape), (h, y, lse))
        return dh + parts, dw.astype(head.dtype)

    dh, dw = jax.lax.scan(of_columns, jnp.zeros(h.shape), (w, starts))
    dh = dh.reshape(-1, hidden.shape[1])[: len(labels)].astype(hidden.dtype)
    dw = dw.swapaxes(0, 1).reshape(head.shape[0], -1)[:, : head.shape[1]]
    return dh, dw, None


by_chunks.defvjp(_chunks_forward, _chunks_backward)


def clip_at_once(images: Array, texts: Array, scale: Array) -> Array:
    s = scale * jnp.matmul(images, texts.T, precision="highest")
    both = jax.nn.logsumexp(s, axis=0) + jax.nn.logsumexp(s, axis=1)
    return jnp.mean(both / 2 - jnp.diagonal(s))


def siglip_at_once(images: Array, texts: Array, scale: Array, bias: Array) -> Array:
    s = scale * jnp.matmul(images, texts.T, precision="highest") + bias
    signs = 2 * jnp.eye(len(s)) - 1
    return jnp.mean(jnp.sum(-jax.nn.log_sigmoid(signs * s), axis=1))
